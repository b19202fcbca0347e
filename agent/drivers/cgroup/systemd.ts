import { execFile } from 'node:child_process';
import path from 'node:path';
import { AgentError, hasCode } from '../../base/errors.ts';
import type { Cgroups } from './cgroups.ts';
import { type CgroupValues, cpuWeightOfShares } from './values.ts';

// Where systemd owns the cgroups, a slice that only its directory knows of loses its values whenever systemd writes its own: each one is therefore made
// and told through systemd first, then written to the file system as well (opencontainers/cgroups/systemd does the same).

/** Calls a method of systemd's manager: its signature, then its arguments as busctl takes them. Throws AgentError. */
export type CallSystemd = (method: string, args: readonly string[], signal: AbortSignal) => Promise<void>;

/** One property of a unit in busctl's spelling: name, type, value(s). */
type Property = readonly [name: string, type: string, ...values: string[]];

const infinity = `${2n ** 64n - 1n}`;

/** The properties that say the same as the values. */
export function unitProperties(values: CgroupValues, version: 1 | 2): Property[] {
  const properties: Property[] = [];
  const { cpuShares, cpuQuotaUs = 0, cpuPeriodUs = 0, memoryLimitBytes = 0, pidsLimit } = values;
  if (memoryLimitBytes !== 0)
    properties.push([version === 1 ? 'MemoryLimit' : 'MemoryMax', 't', memoryLimitBytes < 0 ? infinity : `${memoryLimitBytes}`]);
  if (cpuShares !== undefined && cpuShares !== 0) {
    properties.push(version === 1 ? ['CPUShares', 't', `${cpuShares}`] : ['CPUWeight', 't', `${cpuWeightOfShares(cpuShares)}`]);
  }
  if (cpuPeriodUs !== 0) properties.push(['CPUQuotaPeriodUSec', 't', `${cpuPeriodUs}`]);
  if (cpuPeriodUs !== 0 || cpuQuotaUs !== 0) properties.push(['CPUQuotaPerSecUSec', 't', quotaPerSecond(cpuQuotaUs, cpuPeriodUs)]);
  if (version === 2 && values.cpuset !== undefined && values.cpuset !== '') {
    const mask = cpuMask(values.cpuset);
    properties.push(['AllowedCPUs', 'ay', `${mask.length}`, ...mask.map(String)]);
  }
  if (pidsLimit !== undefined) properties.push(['TasksMax', 't', pidsLimit > 0 ? `${pidsLimit}` : infinity]);
  return properties;
}

/** `0-1,9` → a bit for each CPU, the lowest in the first byte. */
export function cpuMask(cpus: string): number[] {
  const mask: number[] = [];
  for (const range of cpus.split(',')) {
    const [first = 0, last = first] = range.split('-').map(Number);
    for (let cpu = first; cpu <= last; cpu++) mask[cpu >> 3] = (mask[cpu >> 3] ?? 0) | (1 << (cpu & 7));
  }
  return Array.from(mask, (byte) => byte ?? 0);
}

/** Microseconds of CPU a second. systemd keeps whole percents: a fraction is rounded up, so that nobody gets less than asked. */
function quotaPerSecond(quotaUs: number, periodUs: number): string {
  if (quotaUs <= 0) return infinity;
  const perSecond = Math.floor((quotaUs * 1_000_000) / (periodUs || 100_000));
  return `${Math.ceil(perSecond / 10_000) * 10_000}`;
}

/** The values with the quota that systemd makes of it, so that the file says the same whoever writes it last (opencontainers/cgroups addCPUQuota). */
function asSystemdKeeps(values: CgroupValues): CgroupValues {
  const { cpuQuotaUs = 0, cpuPeriodUs = 0 } = values;
  if (cpuQuotaUs <= 0) return values;
  const perSecond = Number(quotaPerSecond(cpuQuotaUs, cpuPeriodUs));
  return { ...values, cpuQuotaUs: Math.floor((perSecond * (cpuPeriodUs || 100_000)) / 1_000_000) };
}

function list(properties: readonly Property[]): string[] {
  return [`${properties.length}`, ...properties.flat()];
}

/** Cgroups whose slices are systemd's: paths as cgroupPath spells them for the systemd driver. Anything that is no slice goes to the file system alone. */
export function systemdCgroups(cgroups: Cgroups, call: CallSystemd = callSystemd): Cgroups {
  return {
    ...cgroups,
    async create(cgroup, values, signal) {
      const unit = path.basename(cgroup);
      if (unit.endsWith('.slice')) {
        const parent = path.basename(path.dirname(cgroup));
        const properties: Property[] = [
          ['Description', 's', `pods of this node: ${unit}`],
          // A slice's place follows from its name; Wants= starts the parent with it.
          ['Wants', 'as', '1', parent.endsWith('.slice') ? parent : '-.slice'],
          ['DefaultDependencies', 'b', 'false'],
          ...['MemoryAccounting', 'CPUAccounting', 'IOAccounting', 'TasksAccounting'].map(
            (name): Property => [cgroups.version === 1 && name === 'IOAccounting' ? 'BlockIOAccounting' : name, 'b', 'true'],
          ),
          ...unitProperties(values, cgroups.version),
        ];
        try {
          await call('StartTransientUnit', ['ssa(sv)a(sa(sv))', unit, 'replace', ...list(properties), '0'], signal);
        } catch (error) {
          if (!hasCode(error, 'AlreadyExists')) throw error;
          await setProperties(unit, values, signal);
        }
      }
      await cgroups.create(cgroup, unit.endsWith('.slice') ? asSystemdKeeps(values) : values, signal);
    },
    async set(cgroup, values, signal) {
      const unit = path.basename(cgroup);
      const isSlice = unit.endsWith('.slice');
      if (isSlice) await setProperties(unit, values, signal);
      await cgroups.set(cgroup, isSlice ? asSystemdKeeps(values) : values, signal);
    },
    async remove(cgroup, signal) {
      const unit = path.basename(cgroup);
      if (unit.endsWith('.slice')) {
        try {
          await call('StopUnit', ['ss', unit, 'replace'], signal);
        } catch (error) {
          if (!hasCode(error, 'NotFound')) throw error;
        }
      }
      await cgroups.remove(cgroup, signal);
    },
  };

  async function setProperties(unit: string, values: CgroupValues, signal: AbortSignal): Promise<void> {
    const properties = unitProperties(values, cgroups.version);
    if (properties.length > 0) await call('SetUnitProperties', ['sba(sv)', unit, 'true', ...list(properties)], signal);
  }
}

function callSystemd(method: string, args: readonly string[], signal: AbortSignal): Promise<void> {
  const manager = ['org.freedesktop.systemd1', '/org/freedesktop/systemd1', 'org.freedesktop.systemd1.Manager'];
  return new Promise((resolve, reject) => {
    execFile('busctl', ['--system', '--quiet', 'call', '--', ...manager, method, ...args], { signal }, (error, _, stderr) => {
      if (error === null) resolve();
      else if (signal.aborted) reject(signal.reason);
      else
        reject(new AgentError(codeOf(stderr), `systemd refused ${method} ${args[1]}: ${stderr.trim() || error.message}`, { cause: error }));
    });
  });
}

// busctl tells the error's text, not its name: org.freedesktop.systemd1.UnitExists and NoSuchUnit (src/core/manager.c, dbus-manager.c).
function codeOf(stderr: string): string {
  if (/already (loaded|exists)|has a fragment file/.test(stderr)) return 'AlreadyExists';
  if (/not loaded|not found/.test(stderr)) return 'NotFound';
  return 'Failed';
}
