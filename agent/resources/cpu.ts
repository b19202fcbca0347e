// CPU amounts as the kernel's CFS takes them (pkg/kubelet/cm/helpers_linux.go).

export const minShares = 2;
const maxShares = 262144;
const sharesPerCpu = 1024;
// The kernel refuses a quota under 1 ms (kernel/sched/core.c min_cfs_quota_period).
const minQuotaUs = 1000;

/** cpu.shares for a request in millicores; none is the kernel's least, not its default. */
export function sharesOfMilli(milli: number): number {
  if (milli === 0) return minShares;
  return Math.min(maxShares, Math.max(minShares, Math.floor((milli * sharesPerCpu) / 1000)));
}

/** The inverse, rounded up. */
export function milliOfShares(shares: number): number {
  return shares < minShares ? 0 : Math.ceil((shares * 1000) / sharesPerCpu);
}

/** Microseconds of quota a period for a limit in millicores; 0 is no limit. */
export function quotaOfMilli(milli: number, periodUs: number): number {
  return milli === 0 ? 0 : Math.max(minQuotaUs, Math.floor((milli * periodUs) / 1000));
}

/** The inverse, rounded; 0 when there is no quota. */
export function milliOfQuota(quotaUs: number, periodUs: number): number {
  return quotaUs <= 0 || periodUs === 0 ? 0 : Math.floor((quotaUs * 1000) / periodUs);
}
