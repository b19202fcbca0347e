import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { hasCode } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { openCgroups } from '../../../agent/drivers/cgroup/cgroups.ts';
import { cgroupLayout } from '../../../agent/drivers/cgroup/layout.ts';
import { parseMountinfo } from '../../../agent/drivers/mounts/mountinfo.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { type ResourcesConfig, startResources } from '../../../agent/resources/worker.ts';

describe('layout', () => {
  test('v2', () => {
    const mounts = parseMountinfo('30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw');
    assert.deepEqual(cgroupLayout(mounts, '/sys/fs/cgroup'), { version: 2, mountPoint: '/sys/fs/cgroup' });
  });
  test('v1 with shared and repeated mounts, and hybrid', () => {
    const mounts = parseMountinfo(
      [
        '31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw',
        '32 31 0:29 / /other/place/cpu rw - cgroup cgroup rw,cpu,cpuacct',
        '33 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct',
        '34 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd',
        '35 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw',
      ].join('\n'),
    );
    const layout = cgroupLayout(mounts, '/sys/fs/cgroup');
    assert.equal(layout?.version, 1);
    if (layout?.version === 1) {
      assert.deepEqual(
        [...layout.mountPoints],
        [
          ['cpu', '/other/place/cpu'],
          ['cpuacct', '/other/place/cpu'],
          ['systemd', '/sys/fs/cgroup/systemd'],
        ],
      );
    }
  });
  test('none', () => assert.equal(cgroupLayout([], '/sys/fs/cgroup'), undefined));
});

describe('the tree on the kernel', { skip: process.getuid?.() !== 0 && 'needs root' }, () => {
  const config: ResourcesConfig = {
    cgroupDriver: 'cgroupfs',
    cgroupRoot: `/keelsontest${process.pid}`,
    cgroupsPerQos: true,
    cpuCfsQuota: true,
    cpuCfsQuotaPeriodUs: 100_000,
    podPidsLimit: 123,
    enforceNodeAllocatable: ['pods'],
    systemReserved: { memory: '1Gi' },
    kubeReserved: {},
    systemReservedCgroup: '',
    kubeReservedCgroup: '',
    qosReservedMemoryPercent: 0,
  };
  const pod: AgentPod = {
    metadata: { name: 'p', namespace: 'n', uid: 'aaaa-1' },
    spec: { containers: [{ name: 'c', image: 'i', resources: { requests: { cpu: '500m' }, limits: { cpu: '1', memory: '64Mi' } } }] },
  };

  test('made, followed, filled, emptied and removed', { timeout: 20_000 }, async () => {
    const cgroups = await openCgroups(systemClock);
    const controller = new AbortController();
    const { signal } = controller;
    const admitted = new Table<{ pod: AgentPod }>('admitted');
    const events: string[] = [];
    const capacity = { cpu: '2', memory: '4Gi', pid: '5000' };
    const options = {
      cgroups,
      config,
      clock: systemClock,
      log: silentLog,
      signal,
      admitted,
      capacity: () => capacity,
      event: (_: string, reason: string) => void events.push(reason),
    };
    const read = (cgroup: string, v1: [string, string], v2: string): Promise<string | undefined> =>
      cgroups.version === 1 ? cgroups.read(cgroup, ...v1) : cgroups.read(cgroup, '', v2);
    try {
      {
        await using missing = startResources(options);
        await assert.rejects(missing.ensureTree(signal), (e) => hasCode(e, 'InvalidConfig'));
      }
      await cgroups.create(config.cgroupRoot, {}, signal);
      await using resources = startResources(options);
      await resources.ensureTree(signal);
      await resources.ensureTree(signal);
      const kubepods = `${config.cgroupRoot}/kubepods`;
      const parent = await resources.ensurePodCgroup(pod, signal);
      assert.equal(parent, `${kubepods}/burstable/podaaaa-1`);
      assert.equal(await resources.ensurePodCgroup(pod, signal), parent);
      assert.equal(await read(parent, ['memory', 'memory.limit_in_bytes'], 'memory.max'), `${64 << 20}`);
      assert.equal(await read(parent, ['pids', 'pids.max'], 'pids.max'), '123');
      assert.equal(await read(parent, ['cpu', 'cpu.cfs_quota_us'], 'cpu.max'), cgroups.version === 1 ? '100000' : '100000 100000');
      assert.deepEqual(await resources.listPodCgroups(), ['aaaa-1']);

      admitted.set('aaaa-1', { pod });
      await until(
        async () => (await read(`${kubepods}/burstable`, ['cpu', 'cpu.shares'], 'cpu.weight')) === (cgroups.version === 1 ? '512' : '20'),
      );
      await until(async () => events.includes('NodeAllocatableEnforced'));
      assert.equal(await read(kubepods, ['memory', 'memory.limit_in_bytes'], 'memory.max'), `${3 * 2 ** 30}`);

      // A process that somebody left behind, in a cgroup of its own below the pod's.
      await cgroups.create(`${parent}/left`, {}, signal);
      const child = spawn('sleep', ['60'], { stdio: 'ignore' });
      const directory = cgroups.version === 1 ? '/sys/fs/cgroup/memory' : '/sys/fs/cgroup';
      fs.writeFileSync(`${directory}${parent}/left/cgroup.procs`, `${child.pid}`);
      const ended = new Promise((resolve) => child.on('exit', (_, by) => resolve(by)));
      {
        using soon = systemClock.deadline(signal, 60);
        await assert.rejects(cgroups.remove(parent, soon.signal), (e) => hasCode(e, 'Busy'));
      }
      await resources.removePodCgroup('aaaa-1', signal);
      await resources.removePodCgroup('aaaa-1', signal);
      assert.equal(await ended, 'SIGKILL');
      assert.deepEqual(await resources.listPodCgroups(), []);
    } finally {
      await cgroups.remove(config.cgroupRoot, signal);
      controller.abort();
    }
    assert.equal(await cgroups.exists(config.cgroupRoot), false);
  });
});

async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setImmediate(resolve));
}
