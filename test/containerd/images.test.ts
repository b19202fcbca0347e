// The images room on real containerds that pull from a real registry, with passwords, plugins and failures.
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { createRunPlugin } from '../../agent/drivers/images/plugin.ts';
import { openRecordFiles } from '../../agent/drivers/images/record-files.ts';
import { parseProviderConfig } from '../../agent/images/providers.ts';
import { createImages, ImageError, type ImageRequest, type Images } from '../../agent/images/worker.ts';
import type { Secret } from '../../agent/model/generated/api.ts';
import { endProcess, spawnTracked, type Tracked } from '../testbed/process.ts';
import { type Registry, startRegistry, writeCertsDir } from '../testbed/registry.ts';
import type { RuntimeKind } from '../testbed/runtimes.ts';
import { waitFor } from '../testbed/wait.ts';
import { type PrivateRuntime, startPrivateRuntime } from './private-runtime.ts';

const never = new AbortController().signal;
const image = 'registry.k8s.io/e2e-test-images/nonroot:1.5';
const repository = 'registry.k8s.io/e2e-test-images/nonroot';
const locked = { repository, auth: { user: 'puller', password: 'open-sesame' } };
const kinds: RuntimeKind[] = ['containerd-2', 'containerd-1.6'];

const secretOf = (name: string, password: string): Secret => ({
  type: 'kubernetes.io/dockerconfigjson',
  metadata: { name, namespace: 'ns', uid: `uid-${name}` },
  data: {
    '.dockerconfigjson': Buffer.from(
      JSON.stringify({ auths: { 'registry.k8s.io': { auth: Buffer.from(`puller:${password}`).toString('base64') } } }),
    ).toString('base64'),
  },
});

for (const kind of kinds) {
  describe(`images on ${kind}`, () => {
    let bed: PrivateRuntime;
    let registry: Registry;
    const processes: Tracked[] = [];
    let roots = 0;
    let root: string;
    let events: string[];
    let images: Images;

    before(async () => {
      bed = await startPrivateRuntime(kind, 'img', ['pause']);
      registry = await startRegistry({
        listen: '127.0.0.1:5000',
        netns: bed.netns,
        dataDir: join(bed.folder, 'registry'),
        spawn: async (argv, options) => {
          const started = await spawnTracked(argv, options);
          processes.push(started);
          return started;
        },
      });
      await writeCertsDir({ certsDir: bed.certsDir, registry: registry.url });
    });

    after(async () => {
      for (const tracked of processes) await endProcess(tracked);
      await bed?.[Symbol.asyncDispose]();
    });

    const open = async (plugin?: string): Promise<Images> => {
      const binDir = join(bed.folder, 'plugins');
      mkdirSync(binDir, { recursive: true });
      if (plugin !== undefined) {
        writeFileSync(join(binDir, 'cloud'), `#!/bin/sh\n${plugin}\n`);
        chmodSync(join(binDir, 'cloud'), 0o755);
      }
      const config = {
        apiVersion: 'kubelet.config.k8s.io/v1',
        kind: 'CredentialProviderConfig',
        providers: [
          {
            name: 'cloud',
            apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
            matchImages: ['*.k8s.io'],
            defaultCacheDuration: '1m',
            env: [{ name: 'PASSWORD', value: 'open-sesame' }],
          },
        ],
      };
      return createImages({
        runtime: bed.client,
        clock: systemClock,
        log: silentLog,
        settings: () => ({
          serializeImagePulls: true,
          maxParallelImagePulls: undefined,
          registryPullQPS: 5,
          registryBurst: 10,
          imagePullCredentialsVerificationPolicy: 'NeverVerifyPreloadedImages',
          preloadedImagesVerificationAllowlist: [],
        }),
        onEvent: (_pod, type, reason, message) => events.push(`${type} ${reason} ${message}`),
        recordFiles: await openRecordFiles(root),
        readNodeConfig: async () => undefined,
        providers: plugin === undefined ? [] : parseProviderConfig([{ path: 'config.json', text: JSON.stringify(config) }]),
        runPlugin: createRunPlugin(binDir, process.env),
        serviceAccounts: undefined,
      });
    };

    beforeEach(async () => {
      roots += 1;
      root = join(bed.folder, `root${roots}`);
      events = [];
      images = await open();
      await registry.setRules([]);
      await bed.client.removeImage({ image: { image } }, never);
    });

    const want = (pod: string, secrets: Secret[] = [], policy = 'IfNotPresent', name = image): ImageRequest => ({
      pod: { metadata: { name: pod, namespace: 'ns', uid: `uid-${pod}` }, spec: { containers: [{ name: 'main' }] } },
      container: { name: 'main', image: name, imagePullPolicy: policy },
      pullSecrets: secrets,
    });
    const refusal = async (request: ImageRequest): Promise<ImageError> => {
      const error = await images.ensureImage(request, never).catch((e: unknown) => e);
      assert.ok(error instanceof ImageError, String(error));
      return error;
    };

    test('a pull, then a present image', async () => {
      const first = await images.ensureImage(want('a'), never);
      assert.equal(first.pulled, true);
      const { image: there } = await bed.client.imageStatus({ image: { image } }, never);
      assert.equal(first.imageRef, there?.id);
      assert.deepEqual(await images.ensureImage(want('b'), never), { ...first, pulled: false });
      assert.match(
        events[1] ?? '',
        /^Normal Pulled Successfully pulled image ".*nonroot:1\.5" in [\d.]+m?s \([\d.]+m?s including waiting\)\. Image size: [1-9]\d+ bytes\.$/,
      );
      const [file] = readdirSync(join(root, 'image_manager/pulled'));
      assert.deepEqual(JSON.parse(readFileSync(join(root, 'image_manager/pulled', file ?? ''), 'utf8')).credentialMapping, {
        [repository]: { nodePodsAccessible: true },
      });
    });

    test('a preloaded image is for every pod, an image of an interrupted pull is not', async () => {
      await images.ensureImage(want('a'), never);
      root = join(bed.folder, `root${roots}-fresh`);
      images = await open();
      assert.equal((await images.ensureImage(want('b'), never)).pulled, false);

      const files = await openRecordFiles(root);
      const intent = `{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"${image}"}\n`;
      await files.write('pulling', 'sha256-interrupted', intent);
      images = await open();
      await images.adoptInterruptedPulls(never);
      await registry.setRules([locked]);
      assert.equal((await refusal(want('c'))).code, 'ErrImagePull');
      assert.equal((await images.ensureImage(want('d', [secretOf('good', 'open-sesame')]), never)).pulled, true);
    });

    test('no such tag', async () => {
      const error = await refusal(want('a', [], 'Always', `${repository}:nothing`));
      assert.equal(error.code, 'ErrImagePull');
      assert.match(error.message, /^rpc error: code = NotFound desc = failed to pull and unpack image .*nonroot:nothing.*not found$/);
    });

    test('a locked image: without a password refused, with a wrong and a right one pulled, and then only for those who have it', async () => {
      await registry.setRules([locked]);
      const refused = await refusal(want('a'));
      assert.equal(refused.code, 'ErrImagePull');
      assert.match(refused.message, /401|authorization failed|no basic auth credentials/);
      const good = secretOf('good', 'open-sesame');
      assert.equal((await images.ensureImage(want('b', [secretOf('bad', 'wrong'), good]), never)).pulled, true);
      assert.equal((await images.ensureImage(want('c', [good]), never)).pulled, false);
      assert.equal((await refusal(want('d'))).code, 'ErrImagePull');
      assert.equal((await refusal(want('d'))).code, 'ImagePullBackOff');
      assert.equal((await refusal(want('e', [], 'Never'))).code, 'ErrImageNeverPull');
      // The restarted agent knows it still.
      images = await open();
      assert.equal((await images.ensureImage(want('f', [good], 'Never'), never)).pulled, false);
      assert.equal((await refusal(want('g', [], 'Never'))).code, 'ErrImageNeverPull');
    });

    test('a credential provider plugin opens the registry for the node', async () => {
      await registry.setRules([locked]);
      const answer = (password: string): string =>
        `grep -q '"image":"${repository}"' || exit 1
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":{"registry.k8s.io":{"username":"puller","password":"'${password}'"}}}'`;
      images = await open(answer('"$PASSWORD"'));
      assert.equal((await images.ensureImage(want('a'), never)).pulled, true);
      assert.equal((await images.ensureImage(want('b'), never)).pulled, false);
      // A plugin that fails leaves the pull to fail by itself.
      await bed.client.removeImage({ image: { image } }, never);
      images = await open('echo broken >&2; exit 3');
      assert.equal((await refusal(want('c'))).code, 'ErrImagePull');
    });

    test('a slow pull ends when the pod goes', async () => {
      await registry.setRules([{ repository, kind: 'blobs', bytesPerSecond: 1000 }]);
      const controller = new AbortController();
      const slow = images.ensureImage(want('a'), controller.signal);
      await waitFor('the pull', 5000, () => (events.length === 1 ? true : undefined), 10);
      const gone = new Error('pod deleted');
      controller.abort(gone);
      await assert.rejects(slow, gone);
      await registry.setRules([]);
      assert.equal((await images.ensureImage(want('b'), never)).pulled, true);
    });
  });
}
