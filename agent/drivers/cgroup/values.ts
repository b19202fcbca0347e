import type { CgroupLayout } from './layout.ts';

/** What a cgroup is told. A field left out is left as it is. */
export interface CgroupValues {
  /** v1's cpu.shares, 2…262144; on v2 it becomes cpu.weight. */
  readonly cpuShares?: number | undefined;
  /** Microseconds of CPU a period; -1 is no limit, 0 leaves it. */
  readonly cpuQuotaUs?: number | undefined;
  readonly cpuPeriodUs?: number | undefined;
  /** -1 is no limit, 0 leaves it. */
  readonly memoryLimitBytes?: number | undefined;
  /** 0 or less is no limit. */
  readonly pidsLimit?: number | undefined;
  /** A CPU list such as `0-3,7`; on v2 systemd alone needs it. */
  readonly cpuset?: string | undefined;
  /** Page size as the kernel names it (`2MB`, `1GB`) → bytes. */
  readonly hugePageLimits?: Readonly<Record<string, bigint>> | undefined;
  /** v2 only: file name → content. */
  readonly unified?: Readonly<Record<string, string>> | undefined;
}

/** One write: a file of the cgroup's directory in the hierarchy of `controller`. */
export interface CgroupWrite {
  readonly controller: string;
  readonly file: string;
  readonly value: string;
  /** The controller may be missing on this machine; then the write is left out (hugetlb, as upstream does). */
  readonly optional?: boolean;
}

/** cpu.weight for a number of cpu.shares: from 2…262144 to 1…10000 (pkg/kubelet/cm getCPUWeight). */
export function cpuWeightOfShares(shares: number): number {
  if (shares >= 262144) return 10000;
  return 1 + Math.floor(((shares - 2) * 9999) / 262142);
}

/** The writes for these values, in the order to make them. */
export function cgroupWrites(values: CgroupValues, version: CgroupLayout['version']): CgroupWrite[] {
  return version === 1 ? writesV1(values) : writesV2(values);
}

function writesV1(values: CgroupValues): CgroupWrite[] {
  const writes: CgroupWrite[] = [];
  const add = (controller: string, file: string, value: string, optional = false): void =>
    void writes.push({ controller, file, value, ...(optional ? { optional } : {}) });
  const { cpuShares, cpuQuotaUs, cpuPeriodUs, memoryLimitBytes, pidsLimit } = values;
  if (cpuShares !== undefined) add('cpu', 'cpu.shares', `${cpuShares}`);
  if (cpuPeriodUs !== undefined && cpuPeriodUs !== 0) add('cpu', 'cpu.cfs_period_us', `${cpuPeriodUs}`);
  if (cpuQuotaUs !== undefined && cpuQuotaUs !== 0) add('cpu', 'cpu.cfs_quota_us', `${cpuQuotaUs}`);
  if (memoryLimitBytes !== undefined && memoryLimitBytes !== 0) add('memory', 'memory.limit_in_bytes', `${memoryLimitBytes}`);
  if (pidsLimit !== undefined) add('pids', 'pids.max', pidsLimit > 0 ? `${pidsLimit}` : 'max');
  if (values.cpuset !== undefined && values.cpuset !== '') add('cpuset', 'cpuset.cpus', values.cpuset);
  for (const [size, limit] of Object.entries(values.hugePageLimits ?? {})) {
    add('hugetlb', `hugetlb.${size}.limit_in_bytes`, `${limit}`, true);
    add('hugetlb', `hugetlb.${size}.rsvd.limit_in_bytes`, `${limit}`, true);
  }
  return writes;
}

function writesV2(values: CgroupValues): CgroupWrite[] {
  const writes: CgroupWrite[] = [];
  const add = (controller: string, file: string, value: string, optional = false): void =>
    void writes.push({ controller, file, value, ...(optional ? { optional } : {}) });
  const { cpuShares, cpuQuotaUs = 0, cpuPeriodUs = 0, memoryLimitBytes, pidsLimit } = values;
  if (cpuShares !== undefined) add('cpu', 'cpu.weight', `${cpuWeightOfShares(cpuShares)}`);
  if (cpuQuotaUs !== 0 || cpuPeriodUs !== 0) add('cpu', 'cpu.max', `${cpuQuotaUs > 0 ? cpuQuotaUs : 'max'} ${cpuPeriodUs || 100000}`);
  if (memoryLimitBytes !== undefined && memoryLimitBytes !== 0)
    add('memory', 'memory.max', memoryLimitBytes < 0 ? 'max' : `${memoryLimitBytes}`);
  if (pidsLimit !== undefined) add('pids', 'pids.max', pidsLimit > 0 ? `${pidsLimit}` : 'max');
  if (values.cpuset !== undefined && values.cpuset !== '') add('cpuset', 'cpuset.cpus', values.cpuset);
  for (const [size, limit] of Object.entries(values.hugePageLimits ?? {})) {
    add('hugetlb', `hugetlb.${size}.max`, `${limit}`, true);
    // Kernels before 5.7 do not count what is only reserved.
    add('hugetlb', `hugetlb.${size}.rsvd.max`, `${limit}`, true);
  }
  for (const [file, value] of Object.entries(values.unified ?? {})) add(file.split('.')[0] ?? '', file, value);
  return writes;
}
