import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { cgroupWrites, cpuWeightOfShares } from '../../../agent/drivers/cgroup/values.ts';
import type { Container, ResourceRequirements } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import {
  cgroupPath,
  cgroupTree,
  parseCgroupPath,
  podCgroupParent,
  podUidOfDirectory,
  qosCgroup,
} from '../../../agent/resources/cgroup-names.ts';
import {
  type ContainerPolicy,
  containerResources,
  maySwap,
  overheadResources,
  sandboxResources,
} from '../../../agent/resources/container-resources.ts';
import { milliOfQuota, milliOfShares, quotaOfMilli, sharesOfMilli } from '../../../agent/resources/cpu.ts';
import { hugePageLimits, hugePageSizeName } from '../../../agent/resources/huge-pages.ts';
import { oomScoreAdj } from '../../../agent/resources/oom-score.ts';
import {
  type CgroupPolicy,
  cgroupValuesOf,
  podCgroupValues,
  qosCgroupValues,
  qosMemoryLimits,
  withoutReserved,
} from '../../../agent/resources/pod-values.ts';

const container = (resources: ResourceRequirements = {}, more: Partial<Container> = {}): Container => ({
  name: 'c',
  image: 'i',
  resources,
  ...more,
});
const pod = (containers: Container[], more: Partial<AgentPod['spec']> = {}): AgentPod => ({
  metadata: { name: 'p', namespace: 'n', uid: '1234-abcd' },
  spec: { containers, ...more },
});
const guaranteed = pod([container({ requests: { cpu: '100m', memory: '200Mi' }, limits: { cpu: '100m', memory: '200Mi' } })]);
const burstable = pod([container({ requests: { cpu: '100m', memory: '100Mi' }, limits: { cpu: '200m', memory: '200Mi' } })]);
const burstablePartial = pod([
  container({ requests: { cpu: '100m', memory: '100Mi' }, limits: { cpu: '200m' } }),
  container({ requests: { cpu: '100m' } }, { name: 'd' }),
]);
const bestEffort = pod([container()]);

describe('names', () => {
  const fs = cgroupTree('cgroupfs', '/');
  const systemd = cgroupTree('systemd', '');
  const nested = cgroupTree('systemd', '/lab-one');
  const table: [string, string, string][] = [
    ['cgroupfs guaranteed', podCgroupParent(fs, guaranteed), '/kubepods/pod1234-abcd'],
    ['cgroupfs burstable', podCgroupParent(fs, burstable), '/kubepods/burstable/pod1234-abcd'],
    ['cgroupfs best effort', podCgroupParent(fs, bestEffort), '/kubepods/besteffort/pod1234-abcd'],
    ['systemd guaranteed', podCgroupParent(systemd, guaranteed), '/kubepods.slice/kubepods-pod1234_abcd.slice'],
    [
      'systemd burstable',
      podCgroupParent(systemd, burstable),
      '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_abcd.slice',
    ],
    ['systemd under a root', cgroupPath(nested.kubepods, 'systemd'), '/lab_one.slice/lab_one-kubepods.slice'],
    ['the root', cgroupPath([], 'systemd'), '/'],
  ];
  for (const [name, got, want] of table) test(name, () => assert.equal(got, want));
  test('paths back to names', () => {
    for (const tree of [fs, systemd, nested]) {
      const name = [...tree.kubepods, 'burstable', 'pod1-2'];
      assert.deepEqual(parseCgroupPath(cgroupPath(name, tree.driver), tree.driver), name);
    }
  });
  test('which directories are pods', () => {
    assert.equal(podUidOfDirectory(fs.kubepods, 'pod12-3', 'cgroupfs'), '12-3');
    assert.equal(podUidOfDirectory(fs.kubepods, 'burstable', 'cgroupfs'), undefined);
    assert.equal(podUidOfDirectory(qosCgroup(systemd, 'BestEffort'), 'kubepods-besteffort-pod12_3.slice', 'systemd'), '12-3');
    assert.equal(podUidOfDirectory(systemd.kubepods, 'kubepods-besteffort.slice', 'systemd'), undefined);
    assert.equal(podUidOfDirectory(systemd.kubepods, 'kubepods-besteffort-pod1.slice', 'systemd'), undefined);
  });
});

describe('cpu', () => {
  test('shares and quota', () => {
    assert.deepEqual([0, 1, 100, 1000, 1_000_000].map(sharesOfMilli), [2, 2, 102, 1024, 262144]);
    assert.deepEqual(
      [0, 5, 100, 2000].map((m) => quotaOfMilli(m, 100_000)),
      [0, 1000, 10_000, 200_000],
    );
    assert.equal(quotaOfMilli(100, 5000), 1000);
    assert.equal(milliOfShares(102), 100);
    assert.equal(milliOfQuota(10_000, 100_000), 100);
    assert.equal(milliOfQuota(-1, 100_000), 0);
  });
  test('weights', () => assert.deepEqual([2, 1024, 262144, 300000].map(cpuWeightOfShares), [1, 39, 10000, 10000]));
});

test('huge pages', () => {
  assert.deepEqual([2 << 20, 1 << 30, 64 << 10].map(hugePageSizeName), ['2MB', '1GB', '64KB']);
  assert.deepEqual(hugePageLimits({ 'hugepages-2Mi': '6Mi', cpu: '1' }, ['2MB', '1GB']), { '2MB': 6291456n, '1GB': 0n });
});

describe('pod cgroups', () => {
  const policy: CgroupPolicy = { cpuCfsQuota: true, cpuCfsQuotaPeriodUs: 100_000, podPidsLimit: -1, hugePageSizes: ['2MB'] };
  const none = { hugePageLimits: { '2MB': 0n } };
  const table: [string, AgentPod, Partial<CgroupPolicy>, object][] = [
    ['guaranteed', guaranteed, {}, { cpuShares: 102, cpuQuotaUs: 10_000, cpuPeriodUs: 100_000, memoryLimitBytes: 200 << 20, ...none }],
    [
      'burstable with limits',
      burstable,
      {},
      { cpuShares: 102, cpuQuotaUs: 20_000, cpuPeriodUs: 100_000, memoryLimitBytes: 200 << 20, ...none },
    ],
    ['burstable, one container without limits', burstablePartial, {}, { cpuShares: 204, ...none }],
    ['best effort', bestEffort, {}, { cpuShares: 2, ...none }],
    ['pids', bestEffort, { podPidsLimit: 100 }, { cpuShares: 2, pidsLimit: 100, ...none }],
    [
      'no quota',
      guaranteed,
      { cpuCfsQuota: false },
      { cpuShares: 102, cpuQuotaUs: -1, cpuPeriodUs: 100_000, memoryLimitBytes: 200 << 20, ...none },
    ],
    [
      'overhead is part of the pod',
      { ...guaranteed, spec: { ...guaranteed.spec, overhead: { cpu: '100m', memory: '56Mi' } } },
      {},
      { cpuShares: 204, cpuQuotaUs: 20_000, cpuPeriodUs: 100_000, memoryLimitBytes: 256 << 20, ...none },
    ],
    [
      'pod-level limits count as declared',
      pod([container()], { resources: { requests: { cpu: '1', memory: '1Gi' }, limits: { cpu: '2', memory: '2Gi' } } }),
      {},
      { cpuShares: 1024, cpuQuotaUs: 200_000, cpuPeriodUs: 100_000, memoryLimitBytes: 2 * 2 ** 30, ...none },
    ],
  ];
  for (const [name, p, change, want] of table) test(name, () => assert.deepEqual(podCgroupValues(p, { ...policy, ...change }), want));
  test('QoS classes', () => {
    assert.deepEqual(qosCgroupValues([guaranteed, burstable, burstablePartial, bestEffort], policy), {
      Burstable: { cpuShares: 307, hugePageLimits: { '2MB': 1n << 62n } },
      BestEffort: { cpuShares: 2, hugePageLimits: { '2MB': 1n << 62n } },
    });
    assert.deepEqual(qosMemoryLimits([guaranteed, burstable], 1000 << 20, 50), { Burstable: 900 << 20, BestEffort: 850 << 20 });
  });
  test('kubepods', () => {
    const left = withoutReserved({ cpu: '2', memory: '4Gi', pid: '1000' }, { cpu: '500m', memory: '5Gi' }, { cpu: '100m' });
    assert.deepEqual(left, { cpu: '1400m', memory: '0', pid: '1000' });
    assert.deepEqual(cgroupValuesOf({ cpu: '1400m', memory: '3Gi', pid: '1000' }, []), {
      cpuShares: 1433,
      memoryLimitBytes: 3 * 2 ** 30,
      pidsLimit: 1000,
      hugePageLimits: {},
    });
    assert.deepEqual(cgroupValuesOf({ cpu: '1', memory: '3Gi' }, [], true), { cpuShares: 1024 });
  });
});

describe('what is written', () => {
  const values = {
    cpuShares: 1024,
    cpuQuotaUs: 10_000,
    cpuPeriodUs: 100_000,
    memoryLimitBytes: 1 << 20,
    pidsLimit: 0,
    hugePageLimits: { '2MB': 0n },
  };
  const text = (version: 1 | 2, v: object): string[] => cgroupWrites(v, version).map((w) => `${w.file}=${w.value}`);
  test('v1', () =>
    assert.deepEqual(text(1, values), [
      'cpu.shares=1024',
      'cpu.cfs_period_us=100000',
      'cpu.cfs_quota_us=10000',
      'memory.limit_in_bytes=1048576',
      'pids.max=max',
      'hugetlb.2MB.limit_in_bytes=0',
      'hugetlb.2MB.rsvd.limit_in_bytes=0',
    ]));
  test('v2', () =>
    assert.deepEqual(text(2, values), [
      'cpu.weight=39',
      'cpu.max=10000 100000',
      'memory.max=1048576',
      'pids.max=max',
      'hugetlb.2MB.max=0',
      'hugetlb.2MB.rsvd.max=0',
    ]));
  test('v2, no quota', () => assert.deepEqual(text(2, { cpuQuotaUs: -1, cpuPeriodUs: 50_000 }), ['cpu.max=max 50000']));
  test('v1, none set', () =>
    assert.deepEqual(text(1, { cpuQuotaUs: 0, cpuPeriodUs: 100_000, memoryLimitBytes: 0 }), ['cpu.cfs_period_us=100000']));
});

describe('containers', () => {
  const policy: ContainerPolicy = {
    cpuCfsQuota: true,
    cpuCfsQuotaPeriodUs: 100_000,
    hugePageSizes: ['2MB'],
    cgroupVersion: 1,
    memoryCapacityBytes: 4_000_000_000,
    swapCapacityBytes: 1 << 30,
    swapController: false,
    swapBehavior: undefined,
    singleProcessOomKill: true,
  };
  const first = (p: AgentPod): Container => p.spec.containers[0] ?? container();
  test('limits', () =>
    assert.deepEqual(containerResources(burstable, first(burstable), policy), {
      cpu_shares: 102,
      cpu_period: 100_000,
      cpu_quota: 20_000,
      memory_limit_in_bytes: 200 << 20,
      oom_score_adj: 974,
      hugepage_limits: [{ page_size: '2MB', limit: 0 }],
    }));
  test('a limit is its own request', () => {
    const p = pod([container({ limits: { cpu: '1' } })]);
    assert.equal(containerResources(p, first(p), policy).cpu_shares, 1024);
  });
  test('best effort', () =>
    assert.deepEqual(containerResources(bestEffort, first(bestEffort), policy), {
      cpu_shares: 2,
      cpu_period: 100_000,
      cpu_quota: 0,
      oom_score_adj: 1000,
      hugepage_limits: [{ page_size: '2MB', limit: 0 }],
    }));
  test('the pod-level limit where there is no other', () => {
    const p = pod([container()], { resources: { limits: { cpu: '2', memory: '1Gi', 'hugepages-2Mi': '4Mi' } } });
    const got = containerResources(p, first(p), policy);
    assert.deepEqual([got.cpu_quota, got.memory_limit_in_bytes, got.hugepage_limits?.[0]?.limit], [200_000, 2 ** 30, 4 << 20]);
  });
  test('swap', () => {
    assert.equal(
      containerResources(burstable, first(burstable), { ...policy, swapController: true }).memory_swap_limit_in_bytes,
      200 << 20,
    );
    const v2 = { ...policy, swapController: true, cgroupVersion: 2 as const };
    assert.deepEqual(containerResources(burstable, first(burstable), v2).unified, { 'memory.swap.max': '0' });
    const limited = { ...v2, swapBehavior: 'LimitedSwap', singleProcessOomKill: false };
    assert.deepEqual(containerResources(burstable, first(burstable), limited).unified, {
      'memory.oom.group': '1',
      'memory.swap.max': '28147497',
    });
    assert.equal(containerResources(guaranteed, first(guaranteed), limited).unified?.['memory.swap.max'], '0');
  });
  const mayOrNot: [string, AgentPod, boolean][] = [
    ['a Burstable container that asks for less than it may have', burstable, true],
    ['one that asks without a limit', pod([container({ requests: { memory: '100Mi' } })]), true],
    ['a limit alone is no request', pod([container({ requests: { memory: '0' }, limits: { memory: '100Mi' } })]), true],
    [
      'one that asks for all that it may have',
      pod([container({ requests: { cpu: '1m', memory: '1Gi' }, limits: { memory: '1024Mi' } })]),
      false,
    ],
    ['one that asks for no memory', pod([container({ requests: { cpu: '100m' } })]), false],
    ['a Guaranteed pod', guaranteed, false],
    ['a best-effort pod', bestEffort, false],
    ['a static pod', { ...burstable, metadata: { ...burstable.metadata, annotations: { 'kubernetes.io/config.source': 'file' } } }, false],
    ['a pod that the system needs', pod(burstable.spec.containers, { priority: 2_000_001_000 }), false],
  ];
  for (const [name, p, may] of mayOrNot)
    test(`may swap: ${name}`, () => {
      const limited = { ...policy, swapController: true, cgroupVersion: 2 as const, swapBehavior: 'LimitedSwap' };
      assert.equal(maySwap(p, first(p), limited), may);
      assert.equal(maySwap(p, first(p), { ...limited, swapBehavior: 'NoSwap' }), false);
      assert.equal(maySwap(p, first(p), { ...limited, swapController: false }), false);
      assert.equal(maySwap(p, first(p), { ...limited, cgroupVersion: 1 }), false);
    });
  test('sandbox and overhead', () => {
    const p = { ...burstable, spec: { ...burstable.spec, overhead: { cpu: '250m', memory: '1Mi' } } };
    assert.deepEqual(sandboxResources(p, policy), {
      cpu_shares: 102,
      cpu_period: 100_000,
      cpu_quota: 20_000,
      memory_limit_in_bytes: 200 << 20,
    });
    assert.deepEqual(overheadResources(p, policy), {
      cpu_shares: 256,
      cpu_period: 100_000,
      cpu_quota: 25_000,
      memory_limit_in_bytes: 1 << 20,
    });
    assert.deepEqual(overheadResources(burstable, policy), {});
  });
});

describe('oom_score_adj', () => {
  // The numbers of pkg/kubelet/qos/policy_test.go: a machine with 4,000,000,000 bytes.
  const memory = 4_000_000_000;
  const asking = (request: string, more: Partial<Container> = {}): Container => container({ requests: { memory: request } }, more);
  const sidecar = (request: string): Container => asking(request, { name: 'side', restartPolicy: 'Always' });
  const table: [string, AgentPod, Container, number][] = [
    ['guaranteed', guaranteed, guaranteed.spec.containers[0] ?? container(), -997],
    ['best effort', bestEffort, bestEffort.spec.containers[0] ?? container(), 1000],
    ['burstable, almost nothing', pod([asking('1')]), asking('1'), 999],
    ['burstable, half', pod([asking('2000000000')]), asking('2000000000'), 500],
    ['burstable, everything', pod([asking('4000000000')]), asking('4000000000'), 3],
    ['node critical', pod([container()], { priority: 2_000_001_000, priorityClassName: 'system-node-critical' }), container(), -997],
    [
      'a sidecar that asks for less than the app',
      pod([asking('1000000000')], { initContainers: [sidecar('500000000')] }),
      sidecar('500000000'),
      750,
    ],
    ['a sidecar that asks for more', pod([asking('1000000000')], { initContainers: [sidecar('3000000000')] }), sidecar('3000000000'), 250],
    [
      'what the pod asks beyond its containers is shared',
      pod([asking('1000000000'), container({}, { name: 'd' })], { resources: { requests: { memory: '2000000000' } } }),
      asking('1000000000'),
      625,
    ],
  ];
  for (const [name, p, c, want] of table) test(name, () => assert.equal(oomScoreAdj(p, c, memory), want));
});
