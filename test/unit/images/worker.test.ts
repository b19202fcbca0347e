import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { GrpcError } from '../../../agent/drivers/grpc/errors.ts';
import { openRecordFiles } from '../../../agent/drivers/images/record-files.ts';
import { createImages, ImageError, type ImageRequest, type ImageSettings, type ImagesOptions } from '../../../agent/images/worker.ts';
import type { Secret } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import type { PullImageRequest } from '../../../cri-protos/generated/cri.ts';

const never = new AbortController().signal;

interface Pull {
  readonly request: PullImageRequest;
  readonly signal: AbortSignal;
  done(imageRef: string): void;
  fail(error: Error): void;
}

/** The images room over a runtime whose pulls end when the test says so. */
async function withImages(
  run: (bed: ReturnType<typeof build>) => Promise<void>,
  change: Partial<ImagesOptions> & { settings?: () => ImageSettings } = {},
): Promise<void> {
  const root = mkdtempSync(join(tmpdir(), 'images-'));
  try {
    await run(build(root, { recordFiles: await openRecordFiles(root), ...change }));
  } finally {
    rmSync(root, { recursive: true });
  }
}

const settings: ImageSettings = {
  serializeImagePulls: false,
  maxParallelImagePulls: undefined,
  registryPullQPS: 0,
  registryBurst: 10,
  imagePullCredentialsVerificationPolicy: 'NeverVerifyPreloadedImages',
  preloadedImagesVerificationAllowlist: [],
};

function build(root: string, change: Partial<ImagesOptions>) {
  let now = 1000;
  const clock: Clock = { ...systemClock, mono: () => now, wall: () => Date.parse('2026-01-01T00:00:00Z') + now };
  const present = new Map<string, string>();
  const calls: string[] = [];
  const pulls: Pull[] = [];
  const refuse = { status: false };
  const events: string[] = [];
  const images = createImages({
    clock,
    log: silentLog,
    settings: () => settings,
    onEvent: (pod, type, reason, message, fieldPath) => events.push(`${pod.metadata.name} ${type} ${reason} ${message} @${fieldPath}`),
    recordFiles: undefined,
    readNodeConfig: async () => undefined,
    providers: [],
    runPlugin: () => Promise.reject(new Error('no plugin here')),
    serviceAccounts: undefined,
    runtime: {
      imageStatus: async ({ image }) => {
        const name = image?.image ?? '';
        calls.push(`status ${name}`);
        if (refuse.status) throw new GrpcError('Unavailable', 'no runtime');
        const id = present.get(name);
        return { image: id === undefined ? undefined : { id, size: 4096 } };
      },
      pullImage: (request, signal) => {
        calls.push(`pull ${request.image?.image} ${request.auth?.username ?? '-'}`);
        return new Promise((resolve, reject) => {
          signal.addEventListener('abort', () => reject(new AgentError('Canceled', 'cancelled')));
          pulls.push({
            request,
            signal,
            done(imageRef) {
              present.set(request.image?.image ?? '', imageRef);
              resolve({ image_ref: imageRef });
            },
            fail: reject,
          });
        });
      },
    },
    ...change,
  });
  return {
    root,
    images,
    present,
    calls,
    pulls,
    refuse,
    events,
    pass: (ms: number) => {
      now += ms;
    },
  };
}

const pod = (name: string): AgentPod => ({
  metadata: { name, namespace: 'ns', uid: `uid-${name}` },
  spec: { containers: [{ name: 'main' }], initContainers: [{ name: 'prepare' }] },
});
const want = (image: string, options: { pod?: string; policy?: string; secrets?: Secret[]; container?: string } = {}): ImageRequest => ({
  pod: pod(options.pod ?? 'a'),
  container: { name: options.container ?? 'main', image, imagePullPolicy: options.policy ?? 'IfNotPresent' },
  pullSecrets: options.secrets ?? [],
});
const secret = (name: string, user: string): Secret => ({
  type: 'kubernetes.io/dockerconfigjson',
  metadata: { name, namespace: 'ns', uid: `uid-${name}` },
  data: { '.dockerconfigjson': Buffer.from(JSON.stringify({ auths: { 'r.io': { username: user, password: 'p' } } })).toString('base64') },
});
const settle = async (): Promise<void> => {
  for (let i = 0; i < 50; i++) await setImmediate();
};
const settled = async (until: () => boolean): Promise<void> => {
  // Files are written on the way, which takes its time on a busy machine.
  const giveUpAt = performance.now() + 10_000;
  while (!until() && performance.now() < giveUpAt) await setImmediate();
  assert.ok(until());
};
const rejection = async (promise: Promise<unknown>): Promise<ImageError> => {
  const error = await promise.then(
    () => assert.fail('should have rejected'),
    (e: unknown) => e,
  );
  assert.ok(error instanceof ImageError, String(error));
  return error;
};

test('a present image costs one call', async () => {
  await withImages(async ({ images, present, calls, events }) => {
    present.set('web:1', 'sha256:web');
    assert.deepEqual(await images.ensureImage(want('web:1'), never), { imageRef: 'sha256:web', runtimeImage: 'web:1', pulled: false });
    assert.deepEqual(calls, ['status web:1']);
    assert.deepEqual(events, [
      'a Normal Pulled Container image "web:1" already present on machine and can be accessed by the pod @spec.containers{main}',
    ]);
  });
});

test('an absent image is pulled, and remembered as open to all', async () => {
  await withImages(async ({ root, images, calls, events, pulls, pass }) => {
    const ensured = images.ensureImage(want('web', { container: 'prepare' }), never);
    await settled(() => pulls.length === 1);
    assert.equal(readdirSync(join(root, 'image_manager/pulling')).length, 1);
    pass(1234);
    pulls[0]?.done('sha256:web');
    assert.deepEqual(await ensured, { imageRef: 'sha256:web', runtimeImage: 'web:latest', pulled: true });
    assert.deepEqual(calls, ['status web:latest', 'pull web:latest -', 'status web:latest']);
    assert.deepEqual(events, [
      'a Normal Pulling Pulling image "web" @spec.initContainers{prepare}',
      'a Normal Pulled Successfully pulled image "web" in 1.234s (1.234s including waiting). Image size: 4096 bytes. @spec.initContainers{prepare}',
    ]);
    assert.deepEqual(readdirSync(join(root, 'image_manager/pulling')), []);
    const [file] = readdirSync(join(root, 'image_manager/pulled'));
    assert.deepEqual(JSON.parse(readFileSync(join(root, 'image_manager/pulled', file ?? ''), 'utf8')).credentialMapping, {
      web: { nodePodsAccessible: true },
    });
    await images.ensureImage(want('web', { pod: 'b' }), never);
  });
});

test('a failed pull: ErrImagePull, then back-off at once, then another try', async () => {
  await withImages(async ({ root, images, pulls, events, pass }) => {
    const first = images.ensureImage(want('web:1', { policy: 'Always' }), never);
    await settled(() => pulls.length === 1);
    pulls[0]?.fail(new GrpcError('NotFound', 'no such tag'));
    const error = await rejection(first);
    assert.deepEqual([error.code, error.message, error.retryAt], ['ErrImagePull', 'rpc error: code = NotFound desc = no such tag', 11_000]);
    assert.deepEqual(readdirSync(join(root, 'image_manager/pulling')), []);
    const waiting = await rejection(images.ensureImage(want('web:1', { policy: 'Always' }), never));
    assert.deepEqual(
      [waiting.code, waiting.message, waiting.retryAt],
      ['ImagePullBackOff', 'Back-off pulling image "web:1": ErrImagePull: rpc error: code = NotFound desc = no such tag', 11_000],
    );
    assert.deepEqual(
      events.map((event) => event.replace(' @spec.containers{main}', '')),
      [
        'a Normal Pulling Pulling image "web:1"',
        'a Warning Failed Failed to pull image "web:1": rpc error: code = NotFound desc = no such tag',
        'a Warning Failed Error: ErrImagePull',
        'a Normal BackOff Back-off pulling image "web:1"',
        'a Warning Failed Error: ImagePullBackOff',
      ],
    );
    // Another pod does not wait for this one's back-off.
    const other = images.ensureImage(want('web:1', { pod: 'b', policy: 'Always' }), never);
    await settled(() => pulls.length === 2);
    pulls[1]?.done('sha256:web');
    await other;
    pass(10_000);
    const again = images.ensureImage(want('web:1', { policy: 'Always' }), never);
    await settled(() => pulls.length === 3);
    pulls[2]?.fail(new GrpcError('Unknown', 'still not'));
    assert.equal((await rejection(again)).retryAt, 31_000);
    images.forgetPod('uid-a');
    const fresh = images.ensureImage(want('web:1', { policy: 'Always' }), never);
    await settled(() => pulls.length === 4);
    pulls[3]?.done('sha256:web');
    await fresh;
  });
});

test('names and policies that cannot work ask nobody', async () => {
  await withImages(async ({ images, calls }) => {
    assert.equal((await rejection(images.ensureImage(want('Web:1'), never))).code, 'InvalidImageName');
    assert.deepEqual(calls, []);
    const error = await rejection(images.ensureImage(want('web:1', { policy: 'Never' }), never));
    assert.deepEqual([error.code, error.retryAt], ['ErrImageNeverPull', undefined]);
  });
});

test('an image volume is pulled the same way, its events without a container', async () => {
  await withImages(async ({ images, pulls, events }) => {
    const ensured = images.ensureImage(
      { pod: pod('a'), pullSecrets: [], imageVolume: { reference: 'data:1', pullPolicy: 'IfNotPresent' } },
      never,
    );
    await settled(() => pulls.length === 1);
    pulls[0]?.fail(new GrpcError('Unknown', 'no'));
    await rejection(ensured);
    assert.deepEqual(events, [
      'a Normal Pulling Pulling image "data:1" @undefined',
      'a Warning Failed Failed to pull image "data:1": no @undefined',
    ]);
  });
});

test('credentials are tried in turn; the one that worked is what counts later', async () => {
  await withImages(async ({ images, pulls, calls, present }) => {
    const secrets = [secret('s1', 'wrong'), secret('s2', 'right')];
    const ensured = images.ensureImage(want('r.io/web:1', { secrets }), never);
    await settled(() => pulls.length === 1);
    pulls[0]?.fail(new GrpcError('Unknown', 'denied'));
    await settled(() => pulls.length === 2);
    pulls[1]?.done('sha256:web');
    await ensured;
    assert.deepEqual(
      calls.filter((call) => call.startsWith('pull')),
      ['pull r.io/web:1 wrong', 'pull r.io/web:1 right'],
    );

    // With the same secret: no pull. Without: the image is as good as absent.
    assert.equal((await images.ensureImage(want('r.io/web:1', { pod: 'b', secrets }), never)).pulled, false);
    assert.equal((await rejection(images.ensureImage(want('r.io/web:1', { pod: 'c', policy: 'Never' }), never))).code, 'ErrImageNeverPull');
    const denied = images.ensureImage(want('r.io/web:1', { pod: 'd' }), never);
    await settled(() => pulls.length === 3);
    pulls[2]?.fail(new GrpcError('Unknown', 'denied'));
    assert.equal((await rejection(denied)).code, 'ErrImagePull');
    assert.equal(present.get('r.io/web:1'), 'sha256:web');
  });
});

test('without the gate a present image is for all', async () => {
  await withImages(
    async ({ root, images, present, events }) => {
      writeFileSync(join(root, 'image_manager/pulled/sha256-x'), 'rubbish');
      present.set('r.io/web:1', 'sha256:web');
      assert.equal((await images.ensureImage(want('r.io/web:1'), never)).pulled, false);
      assert.deepEqual(events, ['a Normal Pulled Container image "r.io/web:1" already present on machine @spec.containers{main}']);
    },
    { recordFiles: undefined },
  );
});

test('a broken pull secret fails the pull by its name', async () => {
  await withImages(async ({ images }) => {
    const broken: Secret = { ...secret('s1', 'u'), data: { '.dockerconfigjson': Buffer.from('{').toString('base64') } };
    const error = await rejection(images.ensureImage(want('r.io/web:1', { secrets: [broken] }), never));
    assert.deepEqual([error.code, error.message], ['ErrImagePull', 'image pull secret ns/s1 cannot be read: not valid JSON']);
  });
});

test('the same pull asked for twice is made once, and each pod has its events', async () => {
  await withImages(async ({ images, pulls, events }) => {
    const both = Promise.all([images.ensureImage(want('web:1'), never), images.ensureImage(want('web:1', { pod: 'b' }), never)]);
    await settled(() => events.length === 2);
    await settle();
    assert.equal(pulls.length, 1);
    pulls[0]?.done('sha256:web');
    await both;
    assert.equal(events.filter((event) => event.includes('Successfully pulled')).length, 2);
  });
});

test('a pull is cancelled when nobody waits for it any more', async () => {
  await withImages(async ({ root, images, pulls, events }) => {
    const first = new AbortController();
    const second = new AbortController();
    const one = images.ensureImage(want('web:1'), first.signal);
    const two = images.ensureImage(want('web:1', { pod: 'b' }), second.signal);
    await settled(() => events.length === 2);
    await settle();
    const gone = new Error('pod deleted');
    first.abort(gone);
    await assert.rejects(one, gone);
    assert.equal(pulls[0]?.signal.aborted, false);
    second.abort(gone);
    await assert.rejects(two, gone);
    assert.equal(pulls[0]?.signal.aborted, true);
    assert.deepEqual(readdirSync(join(root, 'image_manager/pulling')), []);
    assert.deepEqual(
      events.map((event) => event.split(' ')[2]),
      ['Pulling', 'Pulling'],
    );
    // It is not backed off, and a new one starts afresh.
    const third = images.ensureImage(want('web:1'), never);
    await settled(() => pulls.length === 2);
    pulls[1]?.done('sha256:web');
    await third;
  });
});

test('serialised pulls go one by one, in order; one that gives up lets the next go', async () => {
  await withImages(
    async ({ images, pulls }) => {
      const waiting = new AbortController();
      const one = images.ensureImage(want('one:1'), never);
      await settled(() => pulls.length === 1);
      const two = images.ensureImage(want('two:1'), waiting.signal);
      await settle();
      const three = images.ensureImage(want('three:1'), never);
      await settle();
      assert.equal(pulls.length, 1);
      waiting.abort(new Error('gone'));
      await assert.rejects(two, /gone/);
      pulls[0]?.done('sha256:1');
      await one;
      await settled(() => pulls.length === 2);
      assert.equal(pulls[1]?.request.image?.image, 'three:1');
      pulls[1]?.done('sha256:3');
      await three;
    },
    { settings: () => ({ ...settings, serializeImagePulls: true }) },
  );
});

test('parallel pulls keep to their limit', async () => {
  await withImages(
    async ({ images, pulls }) => {
      const all = ['a:1', 'b:1', 'c:1'].map((image) => images.ensureImage(want(image), never));
      await settled(() => pulls.length === 2);
      await settle();
      assert.equal(pulls.length, 2);
      pulls[0]?.done('sha256:0');
      await settled(() => pulls.length === 3);
      pulls[1]?.done('sha256:1');
      pulls[2]?.done('sha256:2');
      await Promise.all(all);
    },
    { settings: () => ({ ...settings, maxParallelImagePulls: 2 }) },
  );
});

test('more pulls than the rate allows fail, and may come back later', async () => {
  await withImages(
    async ({ images, pulls, pass }) => {
      const one = images.ensureImage(want('a:1'), never);
      await settled(() => pulls.length === 1);
      const error = await rejection(images.ensureImage(want('b:1'), never));
      assert.deepEqual([error.code, error.message], ['ErrImagePull', 'pull QPS exceeded']);
      pulls[0]?.done('sha256:a');
      await one;
      pass(10_000);
      const two = images.ensureImage(want('b:1'), never);
      await settled(() => pulls.length === 2);
      pulls[1]?.done('sha256:b');
      await two;
    },
    { settings: () => ({ ...settings, registryPullQPS: 1, registryBurst: 1 }) },
  );
});

test("an interrupted agent's pull is taken over: the image counts as pulled, for nobody yet", async () => {
  await withImages(async ({ root, images, present, pulls }) => {
    const files = await openRecordFiles(root);
    const name = 'sha256-5f3ca9e4d82e32203c2fafb410dfae9c8047bc6ebe57d642fe264d479e152955';
    await files.write(
      'pulling',
      name,
      '{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1alpha1","image":"secretorg/myimage:customtag"}\n',
    );
    present.set('secretorg/myimage:customtag', 'sha256:my');
    await images.adoptInterruptedPulls(never);
    assert.deepEqual(readdirSync(join(root, 'image_manager/pulling')), []);
    assert.equal(readdirSync(join(root, 'image_manager/pulled')).length, 1);
    const ensured = images.ensureImage(want('secretorg/myimage:customtag'), never);
    await settled(() => pulls.length === 1);
    pulls[0]?.done('sha256:my');
    await ensured;
    await images.pruneRecords(new Set(['sha256:my']), Number.POSITIVE_INFINITY);
    assert.equal(readdirSync(join(root, 'image_manager/pulled')).length, 1);
    await images.pruneRecords(new Set(), 0);
    assert.equal(readdirSync(join(root, 'image_manager/pulled')).length, 1);
    await images.pruneRecords(new Set(), Number.POSITIVE_INFINITY);
    assert.equal(readdirSync(join(root, 'image_manager/pulled')).length, 0);
  });
});

test('a record stays when it was written in the second of the listing: files tell whole seconds', async () => {
  await withImages(async ({ root, images, pulls, pass }) => {
    pass(900);
    const ensured = images.ensureImage(want('r.io/web:1'), never);
    await settled(() => pulls.length === 1);
    pulls[0]?.done('sha256:web');
    await ensured;
    await images.pruneRecords(new Set(), Date.parse('2026-01-01T00:00:01.500Z'));
    assert.equal(readdirSync(join(root, 'image_manager/pulled')).length, 1);
    await images.pruneRecords(new Set(), Date.parse('2026-01-01T00:00:02.900Z'));
    assert.equal(readdirSync(join(root, 'image_manager/pulled')).length, 0);
  });
});

test('an image that arrived although its pull was called off is not open to pods without its credentials', async () => {
  for (const seen of [true, false]) {
    await withImages(async ({ root, images, present, pulls, refuse }) => {
      const gone = new AbortController();
      const first = images.ensureImage(want('r.io/web:1', { secrets: [secret('s1', 'u')] }), gone.signal);
      await settled(() => pulls.length === 1);
      present.set('r.io/web:1', 'sha256:web');
      refuse.status = !seen;
      gone.abort(new Error('pod deleted'));
      await assert.rejects(first, /pod deleted/);
      refuse.status = false;
      assert.equal(readdirSync(join(root, 'image_manager/pulling')).length, seen ? 0 : 1);
      assert.equal(readdirSync(join(root, 'image_manager/pulled')).length, seen ? 1 : 0);
      const other = images.ensureImage(want('r.io/web:1', { pod: 'b' }), never);
      await settled(() => pulls.length === 2);
      pulls[1]?.fail(new GrpcError('Unknown', 'unauthorized'));
      assert.equal((await rejection(other)).code, 'ErrImagePull');
      assert.equal(
        (await rejection(images.ensureImage(want('r.io/web:1', { pod: 'c', policy: 'Never' }), never))).code,
        'ErrImageNeverPull',
      );
    });
  }
});

test('a pull of a preloaded image that ends in the dark does not take it from others', async () => {
  for (const code of ['DeadlineExceeded', 'Unavailable', 'Unknown']) {
    await withImages(async ({ images, present, pulls }) => {
      present.set('r.io/web:1', 'sha256:web');
      const first = images.ensureImage(want('r.io/web:1', { policy: 'Always' }), never);
      await settled(() => pulls.length === 1);
      pulls[0]?.fail(new GrpcError(code, 'registry away'));
      assert.equal((await rejection(first)).code, 'ErrImagePull');
      assert.equal((await images.ensureImage(want('r.io/web:1', { pod: 'b' }), never)).pulled, false);
    });
  }
});

test('a pull that was called off and brought nothing leaves no record', async () => {
  await withImages(async ({ root, images, pulls }) => {
    const gone = new AbortController();
    const first = images.ensureImage(want('r.io/web:1'), gone.signal);
    await settled(() => pulls.length === 1);
    gone.abort(new Error('pod deleted'));
    await assert.rejects(first, /pod deleted/);
    assert.deepEqual(readdirSync(join(root, 'image_manager/pulling')), []);
    assert.deepEqual(readdirSync(join(root, 'image_manager/pulled')), []);
  });
});

test('who asks while a record is being written does not take the image for a preloaded one', async () => {
  const root = mkdtempSync(join(tmpdir(), 'images-'));
  const files = await openRecordFiles(root);
  let letGo = (): void => undefined;
  const held = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  let slow = false;
  await withImages(
    async ({ images, present, pulls }) => {
      const first = images.ensureImage(want('r.io/web:1', { secrets: [secret('s1', 'u')] }), never);
      await settled(() => pulls.length === 1);
      present.set('r.io/web:1', 'sha256:web');
      slow = true;
      const other = images.ensureImage(want('r.io/web:1', { pod: 'b' }), never);
      await settle();
      slow = false;
      pulls[0]?.done('sha256:web');
      // The first has all the time that it may take to write.
      for (let i = 0; i < 20; i++) await settle();
      letGo();
      await first;
      await settled(() => pulls.length === 2);
      pulls[1]?.fail(new GrpcError('Unknown', 'unauthorized'));
      assert.equal((await rejection(other)).code, 'ErrImagePull');
    },
    {
      recordFiles: {
        ...files,
        async read(folder, name) {
          const wait = slow && folder === 'pulled';
          const text = await files.read(folder, name);
          if (wait) await held;
          return text;
        },
      },
    },
  );
  rmSync(root, { recursive: true });
});
