import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import type { Mounts } from '../../../agent/drivers/mounts/mounts.ts';
import * as disk from '../../../agent/drivers/mounts/volume-disk.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { startVolumes } from '../../../agent/volumes/worker.ts';
import { manualClock } from '../identity/manual-clock.ts';

/** Mounts whose paths never answer, as on a server that is away. */
const hanging = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));

test('a path that never answers is told, and tried again', async () => {
  const clock = manualClock(0);
  const stop = new AbortController();
  const events: string[] = [];
  let asked = 0;
  const mounts: Partial<Mounts> = {
    fileType: (_, signal) => {
      asked++;
      return hanging(signal);
    },
    makeSubPathDirectory: (_base, _subPath, signal) => hanging(signal),
  };
  const volumes = startVolumes({
    rootDir: '/nowhere',
    mounts: mounts as Mounts,
    disk,
    removeVolumes: async () => undefined,
    clock,
    log: silentLog,
    signal: stop.signal,
    objects: undefined,
    downward: () => '',
    allocatableMemory: () => undefined,
    podMemoryLimit: () => undefined,
    recordEvent: (_pod, _type, reason, message) => events.push(`${reason} ${message}`),
    random: () => 0,
  });
  const pod: AgentPod = {
    metadata: { name: 'p', namespace: 'ns', uid: 'u' },
    spec: {
      containers: [{ name: 'c', volumeMounts: [{ name: 'h', mountPath: '/h', subPath: 's' }] }],
      volumes: [{ name: 'h', hostPath: { path: '/srv', type: 'Directory' } }],
    },
  };
  const first = assert.rejects(volumes.mount(pod, stop.signal), (e) => hasCode(e, 'FailedMount'));
  await clock.advance(60_000);
  await first;
  assert.deepEqual(events, ['FailedMount MountVolume.SetUp failed for volume "h" : hostPath /srv has not answered for 60 s']);
  const again = assert.rejects(volumes.mount(pod, stop.signal));
  await clock.advance(60_000);
  await again;
  assert.equal(asked, 2);

  const [container] = pod.spec.containers;
  assert.ok(container !== undefined);
  const how = { expandSubPath: () => ({ path: '', missing: [] }), recursiveReadOnlySupported: false };
  const bind = assert.rejects(volumes.mountsFor(pod, container, how, stop.signal), (e) => hasCode(e, 'CreateContainerConfigError'));
  await clock.advance(60_000);
  await bind;
  stop.abort();
  await volumes[Symbol.asyncDispose]();
});
