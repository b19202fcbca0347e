import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CgroupMount, parseCgroupMounts } from '../../testbed/cgroups.ts';

const cases: Record<string, { lines: string[]; mounts: CgroupMount[] }> = {
  'v2 alone': {
    lines: ['cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0', 'proc /proc proc rw 0 0'],
    mounts: [{ point: '/sys/fs/cgroup', type: 'cgroup2', options: 'rw' }],
  },
  'v1: what names the hierarchy is kept': {
    lines: [
      'tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0',
      'cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,nodev,noexec,relatime,cpu,cpuacct 0 0',
      'cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,release_agent=/lib/agent,name=systemd 0 0',
    ],
    mounts: [
      { point: '/sys/fs/cgroup/cpu,cpuacct', type: 'cgroup', options: 'cpu,cpuacct' },
      { point: '/sys/fs/cgroup/systemd', type: 'cgroup', options: 'none,name=systemd' },
    ],
  },
};
for (const [name, { lines, mounts }] of Object.entries(cases))
  test(`parseCgroupMounts: ${name}`, () => assert.deepEqual(parseCgroupMounts(`${lines.join('\n')}\n`), mounts));
