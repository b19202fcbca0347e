import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createOomParser, openKernelLog } from '../../../agent/drivers/sys/kernel-log.ts';

const a = 'a'.repeat(63).concat('1');
const b = 'b'.repeat(63).concat('2');
let sequence = 100;
const line = (text: string): string => `6,${sequence++},516508742,-;${text}\n`;
const invoked = line('sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0');
// As a kernel 6.18 wrote them.
const victim = (task: string, oom = task): string =>
  line(
    `oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=${oom},task_memcg=${task},task=sh,pid=2338,uid=0`,
  );
const killed = (pid = 2338, name = 'sh'): string =>
  line(
    `Memory cgroup out of memory: Killed process ${pid} (${name}) total-vm:30244kB, anon-rss:19584kB, file-rss:608kB, shmem-rss:0kB, UID:0 pgtables:84kB oom_score_adj:0`,
  );
const group = (path: string): string => line(`Tasks in ${path} are going to be killed due to memory.oom.group set`);
const pod = '/kubepods/burstable/poddeadbeef';
const scope = (id: string): string => `/kubepods.slice/kubepods-pod1.slice/cri-containerd-${id}.scope`;

const cases: { name: string; records: string[]; containers: Record<string, number>; system?: number[] }[] = [
  { name: 'one process of a container', records: [invoked, victim(`${pod}/${a}`), killed()], containers: { [a]: 1 } },
  { name: "systemd's names, and a limit of the pod", records: [victim(scope(a), pod), killed()], containers: { [a]: 1 } },
  { name: 'a cgroup that the container made', records: [victim(`${pod}/${a}/init.scope`), killed()], containers: { [a]: 1 } },
  {
    name: 'all of a group',
    records: [victim(scope(a)), killed(1), group(scope(a)), killed(1), killed(2), killed(3)],
    containers: { [a]: 4 },
  },
  { name: 'a kill whose cgroup the kernel did not tell', records: [victim(`${pod}/${a}`), killed(1), killed(2)], containers: { [a]: 1 } },
  {
    name: 'two containers in turn',
    records: [victim(`${pod}/${a}`), killed(), invoked, victim(`${pod}/${b}`), killed(), victim(`${pod}/${a}`), killed()],
    containers: { [a]: 2, [b]: 1 },
  },
  {
    name: 'what a process has written there, which is not the kernel',
    records: [victim(`${pod}/${a}`), killed()].map((each) => each.replace(/^6,/, '14,')),
    containers: {},
  },
  { name: 'a process of the machine, for a limit of its own', records: [victim('/system.slice/x.service'), killed()], containers: {} },
  {
    name: 'a machine without memory',
    records: [
      line(
        'oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/system.slice,task=hog,pid=7,uid=0',
      ),
      line('Out of memory: Killed process 7 (hog) total-vm:3024kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:0 pgtables:84kB'),
    ],
    containers: {},
    system: [7],
  },
  {
    name: 'a machine without memory, and a container is chosen',
    records: [
      line(
        `oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=${scope(a)},task=x,y,pid=7,uid=0`,
      ),
      line('Out of memory: Killed process 7 (x,y) total-vm:3024kB'),
    ],
    containers: { [a]: 1 },
    system: [7],
  },
  {
    name: 'what a process wrote to /dev/kmsg to look so',
    records: [`12,5,1,-;x oom-kill:constraint=\n`, 'not a record', ''],
    containers: {},
  },
];
for (const { name, records, containers, system = [] } of cases)
  test(`the kernel's log tells of ${name}`, () => {
    // In one read, and in one read a record: it may come in pieces.
    for (const pieces of [[records], records.map((one) => [one])]) {
      const parse = createOomParser();
      const sum = new Map<string, number>();
      const pids: number[] = [];
      for (const piece of pieces) {
        const found = parse(piece);
        for (const [id, { count }] of found.containers) sum.set(id, (sum.get(id) ?? 0) + count);
        pids.push(...found.system.map(({ pid }) => pid));
      }
      assert.deepEqual(Object.fromEntries(sum), containers);
      assert.deepEqual(pids, system);
    }
  });

test('the log that this machine has can be read twice, and one that is not there is an error', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kmsg-'));
  try {
    // An ordinary file ends where the device would block.
    const file = join(folder, 'kmsg');
    writeFileSync(file, '');
    using log = openKernelLog(file);
    assert.equal(log.read().containers.size, 0);
    assert.equal(log.read().system.length, 0);
    assert.throws(() => openKernelLog(join(folder, 'none')), { code: 'NotFound' });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
