import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import type { Cgroups } from '../../../agent/drivers/cgroup/cgroups.ts';
import { cpuMask, systemdCgroups, unitProperties } from '../../../agent/drivers/cgroup/systemd.ts';
import type { CgroupValues } from '../../../agent/drivers/cgroup/values.ts';

const infinity = '18446744073709551615';

describe('unit properties', () => {
  const text = (properties: readonly (readonly string[])[]): string[] => properties.map((p) => p.join(' '));
  const values = { cpuShares: 1024, cpuQuotaUs: 12_345, cpuPeriodUs: 100_000, memoryLimitBytes: 1 << 20, pidsLimit: 10 };
  test('v2', () =>
    assert.deepEqual(text(unitProperties(values, 2)), [
      'MemoryMax t 1048576',
      'CPUWeight t 39',
      'CPUQuotaPeriodUSec t 100000',
      'CPUQuotaPerSecUSec t 130000',
      'TasksMax t 10',
    ]));
  test('v1', () => assert.deepEqual(text(unitProperties(values, 1)).slice(0, 2), ['MemoryLimit t 1048576', 'CPUShares t 1024']));
  test('no limits', () =>
    assert.deepEqual(text(unitProperties({ cpuQuotaUs: -1, cpuPeriodUs: 100_000, memoryLimitBytes: -1, pidsLimit: 0 }, 2)), [
      `MemoryMax t ${infinity}`,
      'CPUQuotaPeriodUSec t 100000',
      `CPUQuotaPerSecUSec t ${infinity}`,
      `TasksMax t ${infinity}`,
    ]));
  test('CPUs', () => {
    assert.deepEqual(text(unitProperties({ cpuset: '0-1' }, 2)), ['AllowedCPUs ay 1 3']);
    assert.deepEqual(unitProperties({ cpuset: '0-1' }, 1), []);
    assert.deepEqual(unitProperties({ cpuset: '' }, 2), []);
    assert.deepEqual(cpuMask('0-8,17'), [255, 1, 2]);
    assert.deepEqual(cpuMask('9'), [0, 2]);
  });
  test('nothing said', () => assert.deepEqual(unitProperties({}, 2), []));
});

describe('slices', () => {
  function recording(fail?: AgentError): { cgroups: Cgroups; log: string[] } {
    const log: string[] = [];
    const note = (what: string) => (cgroup: string) => Promise.resolve(void log.push(`${what} ${cgroup}`));
    const base = {
      version: 2,
      controllers: new Set(),
      hugePageSizes: [],
      create: note('create'),
      set: note('set'),
      remove: note('remove'),
    };
    const cgroups = systemdCgroups(base as unknown as Cgroups, (method, args) => {
      log.push(`${method} ${args.slice(1).join(' ')}`);
      return fail !== undefined && method !== 'SetUnitProperties' ? Promise.reject(fail) : Promise.resolve();
    });
    return { cgroups, log };
  }
  const { signal } = new AbortController();
  const slice = '/kubepods.slice/kubepods-burstable.slice';

  test('made by systemd first, with its values', async () => {
    const { cgroups, log } = recording();
    await cgroups.create(slice, { cpuShares: 2 }, signal);
    await cgroups.create('/kubepods.slice', {}, signal);
    assert.deepEqual(log, [
      `StartTransientUnit kubepods-burstable.slice replace 8 Description s pods of this node: kubepods-burstable.slice Wants as 1 kubepods.slice DefaultDependencies b false MemoryAccounting b true CPUAccounting b true IOAccounting b true TasksAccounting b true CPUWeight t 1 0`,
      `create ${slice}`,
      `StartTransientUnit kubepods.slice replace 7 Description s pods of this node: kubepods.slice Wants as 1 -.slice DefaultDependencies b false MemoryAccounting b true CPUAccounting b true IOAccounting b true TasksAccounting b true 0`,
      'create /kubepods.slice',
    ]);
  });
  test('the file gets the quota that systemd rounds to', async () => {
    const quotas: (number | undefined)[] = [];
    const note = (_: string, values: CgroupValues): Promise<void> => Promise.resolve(void quotas.push(values.cpuQuotaUs));
    const cgroups = systemdCgroups({ version: 2, create: note, set: note } as unknown as Cgroups, () => Promise.resolve());
    await cgroups.create(slice, { cpuQuotaUs: 31_500, cpuPeriodUs: 100_000 }, signal);
    await cgroups.set(slice, { cpuQuotaUs: 31_500, cpuPeriodUs: 50_000 }, signal);
    await cgroups.set(slice, { cpuQuotaUs: -1, cpuPeriodUs: 100_000 }, signal);
    await cgroups.set('/podruntime', { cpuQuotaUs: 31_500, cpuPeriodUs: 100_000 }, signal);
    assert.deepEqual(quotas, [32_000, 31_500, -1, 31_500]);
  });
  test('there already: only told', async () => {
    const { cgroups, log } = recording(new AgentError('AlreadyExists', 'x'));
    await cgroups.create(slice, { cpuShares: 2 }, signal);
    assert.deepEqual(log.slice(1), ['SetUnitProperties kubepods-burstable.slice true 1 CPUWeight t 1', `create ${slice}`]);
  });
  test('gone already', async () => {
    const { cgroups, log } = recording(new AgentError('NotFound', 'x'));
    await cgroups.remove(slice, signal);
    assert.deepEqual(log, ['StopUnit kubepods-burstable.slice replace', `remove ${slice}`]);
  });
  test('what systemd refuses is an error', async () => {
    const { cgroups } = recording(new AgentError('Failed', 'no'));
    await assert.rejects(cgroups.create(slice, {}, signal), /no/);
  });
  test('a cgroup that is no slice is none of its business', async () => {
    const { cgroups, log } = recording();
    await cgroups.set('/podruntime', { cpuShares: 2 }, signal);
    assert.deepEqual(log, ['set /podruntime']);
  });
});
