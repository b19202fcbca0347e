// A node whose root directory is a symbolic link, as on machines with a larger disk elsewhere: a pod ends, and what is its user's stays.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { stringify } from 'yaml';
import { openMounts } from '../../agent/drivers/mounts/mounts.ts';
import { removeTreeHere } from '../../agent/drivers/mounts/remove-tree.ts';
import { makeCgroup } from '../testbed/cgroups.ts';
import { waitFor } from '../testbed/wait.ts';
import { type PrivateRuntime, startPrivateRuntime } from './private-runtime.ts';

const never = new AbortController().signal;
const mounts = openMounts();
const folder = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'keelson-link-')));
const at = (...names: string[]): string => join(folder, ...names);
const everything = (below: string): string[] =>
  fs
    .readdirSync(below, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => (fs.statSync(join(below, name)).isFile() ? `${name}: ${fs.readFileSync(join(below, name), 'utf8')}` : name));

let bed: PrivateRuntime;
let agent: ChildProcess | undefined;
let log = '';

before(async () => {
  bed = await startPrivateRuntime('containerd-2', 'link', ['busybox', 'pause']);
  await makeCgroup(`/${bed.id}`);
});

after(async () => {
  if (agent !== undefined && agent.exitCode === null) {
    agent.kill('SIGKILL');
    await once(agent, 'exit');
  }
  await bed?.[Symbol.asyncDispose]();
  await mounts.unmountUnder(folder, never);
  removeTreeHere(folder);
});

async function startAgent(): Promise<void> {
  fs.writeFileSync(
    at('kubelet.yaml'),
    stringify({
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      staticPodPath: at('manifests'),
      podLogsDir: at('kubelet', 'pod-logs'),
      containerRuntimeEndpoint: `unix://${join(bed.folder, 'c.sock')}`,
      cgroupDriver: 'cgroupfs',
      cgroupRoot: `/${bed.id}`,
      enableServer: false,
      healthzPort: 0,
      authentication: { anonymous: { enabled: false }, webhook: { enabled: false } },
      authorization: { mode: 'AlwaysAllow' },
      volumePluginDir: at('plugins'),
      fileCheckFrequency: '1s',
      failSwapOn: false,
      makeIPTablesUtilChains: false,
      failCgroupV1: false,
      imageGCHighThresholdPercent: 100,
      imageGCLowThresholdPercent: 99,
      evictionHard: Object.fromEntries(
        ['nodefs.available', 'nodefs.inodesFree', 'imagefs.available', 'imagefs.inodesFree'].map((s) => [s, '0%']),
      ),
    }),
  );
  const main = resolve(import.meta.dirname, '../../agent/main.ts');
  const flags = [`--config=${at('kubelet.yaml')}`, `--root-dir=${at('kubelet')}`, `--cert-dir=${at('pki')}`];
  agent = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main, 'run', ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, KEELSON_SOCKET: at('keelson.sock') },
  });
  const keep = (text: string): void => {
    log += text;
  };
  for (const stream of [agent.stdout, agent.stderr]) stream?.setEncoding('utf8').on('data', keep);
}

test('a pod ends, and what is its user’s stays', { timeout: 180_000 }, async () => {
  for (const name of ['disk/kubelet', 'manifests', 'user/sub/deep', 'user/csi/deep', 'user/inner', 'disk/pods'])
    fs.mkdirSync(at(name), { recursive: true });
  for (const name of ['user/sub/deep/a', 'user/file', 'user/csi/deep/b', 'user/inner/c']) fs.writeFileSync(at(name), `precious ${name}`);
  fs.symlinkSync(at('disk/kubelet'), at('kubelet'));
  // A link further down is as good: a larger disk for pods alone.
  fs.symlinkSync(at('disk/pods'), at('disk/kubelet/pods'));
  await startAgent();

  const { images } = await bed.client.listImages({}, never);
  const image = images?.flatMap((each) => each.repo_tags ?? []).find((tag) => tag.includes('busybox'));
  const manifest = at('manifests/pod.yaml');
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'user', namespace: 'default' },
    spec: {
      hostNetwork: true,
      terminationGracePeriodSeconds: 1,
      volumes: [
        { name: 'host', hostPath: { path: at('user') } },
        { name: 'memory', emptyDir: { medium: 'Memory' } },
        { name: 'disk', emptyDir: {} },
      ],
      containers: [
        {
          name: 'c',
          image,
          imagePullPolicy: 'Never',
          command: ['sh', '-c', 'echo in > /memory/f; mkdir -p /disk/inner /disk/a/b; echo in > /disk/a/b/f; while :; do sleep 0.2; done'],
          volumeMounts: [
            { name: 'host', mountPath: '/sub', subPath: 'sub' },
            { name: 'host', mountPath: '/file', subPath: 'file' },
            { name: 'memory', mountPath: '/memory' },
            { name: 'disk', mountPath: '/disk' },
          ],
        },
      ],
    },
  };
  fs.writeFileSync(manifest, stringify(pod));
  const seen = <T>(what: string, ask: () => T | undefined | Promise<T | undefined>): Promise<T> =>
    waitFor(
      what,
      60_000,
      async () => {
        assert.equal(agent?.exitCode, null, log);
        return await ask();
      },
      200,
    );
  try {
    const uid = await seen('the pod to run', () =>
      fs.readdirSync(at('disk/pods')).find((name) => fs.existsSync(at('disk/pods', name, 'volumes/kubernetes.io~empty-dir/disk/a/b/f'))),
    );
    const own = at('disk/pods', uid);
    const mine = everything(at('user'));
    const before = await mounts.listUnder(at('kubelet/pods', uid));
    assert.deepEqual(before.map(({ mountPoint }) => mountPoint.replace(own, '')).sort(), [
      '/volume-subpaths/host/c/0',
      '/volume-subpaths/host/c/1',
      '/volumes/kubernetes.io~empty-dir/memory',
    ]);
    // What a CSI driver would have mounted, and what a privileged container may mount in its volume.
    const csi = join(own, 'volumes/kubernetes.io~csi/vol');
    fs.mkdirSync(join(csi, 'mount'), { recursive: true });
    fs.writeFileSync(join(csi, 'vol_data.json'), '{}');
    await mounts.bindMount(at('user/csi'), join(csi, 'mount'), {}, never);
    await mounts.bindMount(at('user/inner'), join(own, 'volumes/kubernetes.io~empty-dir/disk/inner'), {}, never);

    fs.rmSync(manifest);
    await seen('the agent to say what is in the way', () => /volume vol of pod \S+ is still mounted by kubernetes.io~csi/.exec(log)?.[0]);
    assert.deepEqual(everything(at('user')), mine);
    // As its driver would.
    await mounts.unmount(join(csi, 'mount'), {}, never);
    await seen('the folder of the pod to go', () => (fs.existsSync(own) ? undefined : true));
    assert.deepEqual(everything(at('user')), mine);
    assert.deepEqual(await mounts.listUnder(folder), []);
    await seen('its logs to go', () => (fs.readdirSync(at('disk/kubelet/pod-logs')).length > 0 ? undefined : true));
    assert.deepEqual(fs.readdirSync(at('disk/pods')), []);
    assert.deepEqual(
      fs.readdirSync('/var/log/containers').filter((name) => name.startsWith('user-') && name.includes(uid)),
      [],
    );
    assert.deepEqual((await bed.client.listPodSandbox({}, never)).items ?? [], []);
  } catch (error) {
    process.stderr.write(log);
    throw error;
  }
});
