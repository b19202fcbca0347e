import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { createStats } from '../../../agent/stats/worker.ts';
import { instance, pod } from '../pods/build.ts';

test('what lies on the disk is walked once in its time, and forgotten with its pod', async () => {
  const admitted = new Table<{ pod: AgentPod }>('admitted');
  const runtime = new Table<RuntimePod>('runtime');
  const walked: string[][] = [];
  const file = { device: 1, capacityBytes: 100, availableBytes: 50, usedBytes: 50, inodes: 10, inodesFree: 5 };
  const stats = createStats({
    clock: systemClock,
    log: silentLog,
    nodeName: 'n1',
    bootTime: 0,
    memoryBytes: 1000,
    maxPids: 100,
    cgroups: { version: 2, read: () => ({}), children: () => [], createdAt: () => undefined },
    podsCgroup: undefined,
    systemCgroups: {},
    podCgroup: () => undefined,
    admitted,
    runtime,
    listContainerStats: async () => ({}),
    imageFsInfo: async () => ({}),
    fileSystemSize: async () => file,
    diskUsage: async (paths) => {
      walked.push([...paths]);
      return new Map(paths.map((path) => [path, { bytes: 7, inodes: 1 }]));
    },
    readProc: () => '',
    rootDir: '/var/lib/kubelet',
    volumePaths: ({ metadata }) => [{ name: 'data', path: `/${metadata.uid}/data` }],
    logFolder: ({ uid }, name) => `/${uid}/logs/${name}`,
    hostsFile: (uid) => `/${uid}/hosts`,
    diskMaxAgeMs: 0,
  });
  const show = (uid: string): void => {
    admitted.set(uid, { pod: pod({}, { uid }) });
    runtime.set(uid, { uid, namespace: 'ns', name: uid, sandboxes: [], containers: [instance('main')] });
  };
  const paths = (uid: string): string[] => [`/${uid}/data`, `/${uid}/logs/main`, `/${uid}/hosts`];
  const look = async (...uids: string[]): Promise<string[]> => {
    walked.length = 0;
    await stats.pods({ uids: new Set(uids), diskMaxAgeMs: 60_000 }, new AbortController().signal);
    return walked.flat();
  };
  show('u1');
  show('u2');
  assert.deepEqual(await look('u1', 'u2'), [...paths('u1'), ...paths('u2')]);
  assert.deepEqual(await look('u1', 'u2'), []);
  admitted.delete('u1');
  assert.deepEqual(await look('u2'), []);
  show('u1');
  assert.deepEqual(await look('u1', 'u2'), paths('u1'));
});
