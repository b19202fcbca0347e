import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseOomKills, readOomKills } from '../../../agent/drivers/cgroup/oom-kills.ts';
import { cgroupTree, podCgroupPlaces } from '../../../agent/resources/cgroup-names.ts';

test('the count in what kernels write', () => {
  // cgroup v2, and v1 of Linux 6.18; v1 before 4.13 does not count.
  assert.equal(parseOomKills('low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n'), 2);
  assert.equal(parseOomKills('oom_kill_disable 0\nunder_oom 0\noom_kill 4\n'), 4);
  assert.equal(parseOomKills('oom_kill_disable 0\nunder_oom 0\n'), undefined);
  assert.equal(parseOomKills(''), undefined);
});

const a = 'a'.repeat(64);
const b = 'b'.repeat(64);

/** A cgroup file system: path → its file of counts. */
const fileSystem = (version: 1 | 2, files: Record<string, number>) => ({
  version,
  read(cgroup: string, asked: readonly { file: string }[]): Record<string, string> {
    const count = files[cgroup];
    return count === undefined ? {} : { [asked[0]?.file ?? '']: `oom_kill ${count}\n` };
  },
  children: (cgroup: string): string[] =>
    Object.keys(files)
      .filter((path) => path.startsWith(`${cgroup}/`))
      .map((path) => path.slice(cgroup.length + 1)),
  createdAt: () => undefined,
});

for (const [name, version, driver, files, pod, containers] of [
  [
    'systemd',
    2,
    'systemd',
    {
      '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu1_x.slice': 3,
      [`/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu1_x.slice/cri-containerd-${a}.scope`]: 2,
      [`/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu1_x.slice/crio-conmon-${b}.scope`]: 1,
    },
    3,
    { [a]: 2 },
  ],
  [
    'cgroupfs',
    2,
    'cgroupfs',
    { '/kubepods/podu1-x': 1, [`/kubepods/podu1-x/${a}`]: 0, [`/kubepods/podu1-x/crio-${b}`]: 1 },
    1,
    { [a]: 0, [b]: 1 },
  ],
  ['v1', 1, 'cgroupfs', { '/kubepods/besteffort/podu1-x': 0, [`/kubepods/besteffort/podu1-x/${a}`]: 1 }, undefined, { [a]: 1 }],
  ['a pod whose cgroup has gone', 2, 'cgroupfs', {}, undefined, {}],
  ['a kernel that does not count', 1, 'cgroupfs', {}, undefined, {}],
] as const)
  test(`counts of a pod: ${name}`, () => {
    const found = readOomKills(fileSystem(version, files), podCgroupPlaces(cgroupTree(driver, ''), 'u1-x'));
    assert.equal(found.pod, pod);
    assert.deepEqual(Object.fromEntries(found.containers), containers);
  });
