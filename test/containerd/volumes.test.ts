import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { AgentError, hasCode } from '../../agent/base/errors.ts';
import { silentLog } from '../../agent/base/log.ts';
import { downwardValue } from '../../agent/cli/wiring/downward.ts';
import { openMounts } from '../../agent/drivers/mounts/mounts.ts';
import { removeVolumes } from '../../agent/drivers/mounts/pod-folder.ts';
import * as disk from '../../agent/drivers/mounts/volume-disk.ts';
import type { ConfigMap, Container, Secret, TokenRequest, TokenRequestSpec, Volume } from '../../agent/model/generated/api.ts';
import type { AgentPod } from '../../agent/model/pod.ts';
import { expandSubPath } from '../../agent/pods/env-expand.ts';
import { startVolumes, type Volumes, type VolumesOptions, type WatchedObjects } from '../../agent/volumes/worker.ts';

// Volumes on the real kernel and disk: only the API server is a stand-in.

/** Objects that a test sets; a change is told as a watch would. */
function fakeObjects<T extends object>(): WatchedObjects<T> & {
  set(key: string, value: T | undefined): void;
  claims: Map<string, number>;
} {
  const values = new Map<string, T>();
  const claims = new Map<string, number>();
  const listeners = new Set<(key: string) => void>();
  return {
    claims,
    set(key, value) {
      if (value === undefined) values.delete(key);
      else values.set(key, value);
      for (const listener of listeners) listener(key);
    },
    acquire(namespace, name) {
      const key = `${namespace}/${name}`;
      claims.set(key, (claims.get(key) ?? 0) + 1);
      return { [Symbol.dispose]: () => void claims.set(key, (claims.get(key) ?? 0) - 1) };
    },
    get: (namespace, name) => Promise.resolve(values.get(`${namespace}/${name}`)),
    subscribe(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
  };
}

const base64 = (text: string): string => Buffer.from(text).toString('base64');

describe('volumes on the node', { skip: process.getuid?.() !== 0 && 'needs root' }, () => {
  const dir = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'keelson-volumes-')));
  const rootDir = path.join(dir, 'root');
  const controller = new AbortController();
  const { signal } = controller;
  const configMaps = fakeObjects<ConfigMap>();
  const secrets = fakeObjects<Secret>();
  const mounts = openMounts();
  const events: string[] = [];
  const asked: { account: string; spec: TokenRequestSpec }[] = [];
  let tokenLifeMs = 3_600_000;
  let tokenError: AgentError | undefined;
  let volumes: Volumes;

  const requestToken = async (_: string, account: string, spec: TokenRequestSpec): Promise<TokenRequest> => {
    asked.push({ account, spec });
    if (tokenError !== undefined) throw tokenError;
    const expirationTimestamp = new Date(systemClock.wall() + tokenLifeMs).toISOString();
    return { spec: { expirationSeconds: tokenLifeMs / 1000 }, status: { token: `token-${asked.length}`, expirationTimestamp } };
  };
  const options: VolumesOptions = {
    rootDir,
    mounts,
    disk,
    removeVolumes: (podDir, own, s) => removeVolumes(podDir, own, { mounts, clock: systemClock }, s),
    clock: systemClock,
    log: silentLog,
    signal,
    objects: { configMaps, secrets, requestToken },
    downward: (pod, file) => downwardValue(pod, file, { memory: '1Gi' }),
    allocatableMemory: () => 64 << 20,
    podMemoryLimit: () => undefined,
    recordEvent: (pod, type, reason, message) => void events.push(`${pod.metadata.name} ${type} ${reason} ${message}`),
    random: () => 0,
  };

  before(() => {
    volumes = startVolumes(options);
  });
  after(async () => {
    controller.abort();
    await volumes[Symbol.asyncDispose]();
    const clean = new AbortController().signal;
    for (const entry of await mounts.listUnder(dir)) await mounts.unmount(entry.mountPoint, { lazy: true }, clean);
    fs.rmSync(dir, { recursive: true });
  });

  const podOf = (name: string, list: Volume[], container: Partial<Container> = {}, spec: Partial<AgentPod['spec']> = {}): AgentPod => ({
    metadata: { name, namespace: 'ns', uid: `uid-${name}`, labels: { app: name } },
    spec: {
      containers: [{ name: 'c', image: 'i', volumeMounts: list.map((v) => ({ name: v.name, mountPath: `/v/${v.name}` })), ...container }],
      volumes: list,
      ...spec,
    },
  });
  const mustMount = async (pod: AgentPod): Promise<(volume: string, file?: string) => string> => {
    const paths = await volumes.mount(pod, signal);
    return (volume, file = '') => path.join(paths.get(volume) ?? assert.fail(`no ${volume}`), file);
  };
  const read = (at: string): string => fs.readFileSync(at, 'utf8');
  const mode = (at: string): string => (fs.lstatSync(at).mode & 0o7777).toString(8);
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise((resolve) => setImmediate(resolve));
  };
  const everything = (): Volume[] => [
    {
      name: 'cm',
      configMap: {
        name: 'conf',
        defaultMode: 0o640,
        items: [
          { key: 'a', path: 'deep/a' },
          { key: 'b', path: 'b', mode: 0o400 },
        ],
      },
    },
    { name: 'sec', secret: { secretName: 's', defaultMode: 0o644 } },
    {
      name: 'down',
      downwardAPI: {
        items: [
          { path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } },
          { path: 'mem', resourceFieldRef: { containerName: 'c', resource: 'limits.memory', divisor: '1Mi' } },
        ],
      },
    },
    {
      name: 'api',
      projected: {
        defaultMode: 0o644,
        sources: [
          { serviceAccountToken: { path: 'token', expirationSeconds: 3600 } },
          { configMap: { name: 'conf', items: [{ key: 'a', path: 'ca.crt' }] } },
        ],
      },
    },
    { name: 'empty', emptyDir: {} },
    { name: 'mem', emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } },
    { name: 'host', hostPath: { path: path.join(dir, 'host/made'), type: 'DirectoryOrCreate' } },
  ];

  test('everything at once: layout, contents, modes, and all of it taken away', async () => {
    configMaps.set('ns/conf', { data: { a: 'A1', b: 'B1' } });
    secrets.set('ns/s', { data: { pass: base64('word') } });
    const pod = podOf('all', everything(), { securityContext: { runAsUser: 1000 } });
    const at = await mustMount(pod);
    const own = path.join(rootDir, 'pods/uid-all');
    assert.equal(at('cm'), path.join(own, 'volumes/kubernetes.io~configmap/cm'));
    assert.equal(at('sec'), path.join(own, 'volumes/kubernetes.io~secret/sec'));
    assert.equal(at('api'), path.join(own, 'volumes/kubernetes.io~projected/api'));
    assert.equal(at('down'), path.join(own, 'volumes/kubernetes.io~downward-api/down'));
    assert.equal(at('empty'), path.join(own, 'volumes/kubernetes.io~empty-dir/empty'));

    assert.equal(read(at('cm', 'deep/a')), 'A1');
    assert.equal(fs.readlinkSync(at('cm', 'deep')), '..data/deep');
    assert.match(fs.readlinkSync(at('cm', '..data')), /^\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\./);
    assert.deepEqual([mode(at('cm', '..data/deep/a')), mode(at('cm', '..data/b')), mode(at('cm'))], ['640', '400', '777']);
    assert.equal(read(at('sec', 'pass')), 'word');
    assert.equal(read(at('down', 'labels')), 'app="all"');
    assert.equal(read(at('down', 'mem')), '1024');
    assert.equal(read(at('api', '..data/token')), 'token-1');
    assert.equal(read(at('api', 'ca.crt')), 'A1');
    assert.deepEqual([mode(at('api', '..data/token')), fs.lstatSync(at('api', '..data/token')).uid], ['600', 1000]);
    assert.deepEqual(asked.at(-1), {
      account: 'default',
      spec: { audiences: [], expirationSeconds: 3600, boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: 'all', uid: 'uid-all' } },
    });
    assert.deepEqual([mode(at('empty')), mode(at('mem'))], ['777', '1777']);
    assert.equal(fs.statfsSync(at('mem')).blocks * fs.statfsSync(at('mem')).bsize, 1 << 20);
    assert.equal(fs.statSync(path.join(dir, 'host/made')).isDirectory(), true);
    assert.deepEqual((await mounts.listUnder(own)).map((m) => `${m.fsType} ${path.basename(m.mountPoint)}`).sort(), [
      'tmpfs api',
      'tmpfs down',
      'tmpfs mem',
      'tmpfs sec',
    ]);
    assert.deepEqual(volumes.listPodsOnDisk(), ['uid-all']);
    assert.equal(configMaps.claims.get('ns/conf'), 1);

    await volumes.unmount('uid-all', signal);
    await volumes.unmount('uid-all', signal);
    assert.deepEqual(await mounts.listUnder(own), []);
    assert.deepEqual(fs.readdirSync(own), []);
    assert.equal(configMaps.claims.get('ns/conf'), 0);
    assert.equal(fs.existsSync(path.join(dir, 'host/made')), true);
    assert.deepEqual(events, []);
  });

  test('content follows its object at once, and a reader never sees half of it', async () => {
    configMaps.set('ns/live', { data: { one: '1', two: '1', 'gone.txt': 'x' } });
    const at = await mustMount(podOf('live', [{ name: 'cm', configMap: { name: 'live' } }]));
    const started = systemClock.mono();
    configMaps.set('ns/live', { data: { one: '2', two: '2', new: 'n' } });
    await until(() => read(at('cm', 'one')) === '2');
    assert.ok(systemClock.mono() - started < 1000);
    await until(() => fs.existsSync(at('cm', 'new')) && !fs.existsSync(at('cm', 'gone.txt')));
    assert.deepEqual(
      fs.readdirSync(at('cm')).filter((name) => !/^\.\.\d/.test(name)),
      ['..data', 'new', 'one', 'two'],
    );
    assert.equal(fs.readdirSync(at('cm')).filter((name) => /^\.\.\d/.test(name)).length, 1);
    // The object goes: the pod lives on what it has, and its user is told once.
    configMaps.set('ns/live', undefined);
    await until(() => events.length > 0);
    assert.deepEqual(events.splice(0), ['live Warning FailedMount MountVolume.SetUp failed for volume "cm" : configmap "live" not found']);
    assert.equal(read(at('cm', 'one')), '2');
    configMaps.set('ns/live', { data: { one: '3' } });
    await until(() => read(at('cm', 'one')) === '3');
    await volumes.unmount('uid-live', signal);
  });

  test('labels reach their file', async () => {
    const pod = podOf('lab', [{ name: 'd', downwardAPI: { items: [{ path: 'l', fieldRef: { fieldPath: "metadata.labels['app']" } }] } }]);
    const at = await mustMount(pod);
    assert.equal(read(at('d', 'l')), 'lab');
    volumes.update({ ...pod, metadata: { ...pod.metadata, labels: { app: 'other' } } });
    await until(() => read(at('d', 'l')) === 'other');
    await volumes.unmount('uid-lab', signal);
  });

  test('what is missing is said, and told when it comes', async () => {
    const pod = podOf('late', [
      { name: 'cm', configMap: { name: 'late' } },
      { name: 'sec', secret: { secretName: 'late' } },
      { name: 'pvc', persistentVolumeClaim: { claimName: 'x' } },
    ]);
    await assert.rejects(
      volumes.mount(pod, signal),
      (e) =>
        hasCode(e, 'FailedMount') &&
        e.message.startsWith(
          'MountVolume.SetUp failed for volume "cm" : configmap "late" not found; MountVolume.SetUp failed for volume "sec" : secret',
        ),
    );
    assert.equal(events.splice(0).length, 3);
    const told: string[] = [];
    using _ = volumes.onChange((uid) => void told.push(uid));
    secrets.set('ns/late', { data: {} });
    configMaps.set('ns/late', { data: { k: 'v' } });
    assert.deepEqual(told, ['uid-late', 'uid-late']);
    await assert.rejects(
      volumes.mount(pod, signal),
      /^AgentError: MountVolume.SetUp failed for volume "pvc" : spec\.volumes\{pvc\}\.persistentVolumeClaim: volumes of this type are not supported by this node;/,
    );
    events.length = 0;
    await volumes.unmount('uid-late', signal);
  });

  test('hostPath types', async () => {
    const socketless = podOf('hp', [{ name: 'h', hostPath: { path: '/etc/hostname', type: 'Socket' } }]);
    await assert.rejects(volumes.mount(socketless, signal), /hostPath type check failed: \/etc\/hostname is not a socket file/);
    await volumes.unmount('uid-hp', signal);
    events.length = 0;
    const made = path.join(dir, 'host-file');
    await mustMount(
      podOf('hp2', [
        { name: 'h', hostPath: { path: made, type: 'FileOrCreate' } },
        { name: 'd', hostPath: { path: '/dev/null', type: 'CharDevice' } },
      ]),
    );
    assert.equal(mode(made), '644');
    await volumes.unmount('uid-hp2', signal);
    assert.equal(fs.existsSync(made), true);
  });

  test('fsGroup owns what is written, setgid on directories', async () => {
    secrets.set('ns/s', { data: { pass: base64('word') } });
    configMaps.set('ns/conf', { data: { a: 'A1', b: 'B1' } });
    const at = await mustMount(podOf('grp', everything(), {}, { securityContext: { fsGroup: 2000 } }));
    const of = (p: string): string => `${mode(p)} ${fs.lstatSync(p).gid}`;
    assert.equal(of(at('sec', '..data/pass')), '644 2000');
    assert.equal(of(at('cm', '..data/b')), '440 2000');
    assert.equal(of(at('api', '..data/token')), '640 2000');
    assert.equal(of(fs.realpathSync(at('sec', '..data'))), '2755 2000');
    assert.equal(of(at('empty')), '2777 2000');
    assert.equal(of(at('mem')), '3777 2000');
    await volumes.unmount('uid-grp', signal);
  });

  test('a token is renewed in time; one that cannot be is kept', async () => {
    tokenLifeMs = 1500;
    const before = asked.length;
    const at = await mustMount(
      podOf('tok', [{ name: 'api', projected: { sources: [{ serviceAccountToken: { path: 'token', audience: 'vault' } }] } }]),
    );
    const first = read(at('api', 'token'));
    // 80 % of 1.5 s.
    await until(() => read(at('api', 'token')) !== first);
    assert.deepEqual(asked.at(-1)?.spec.audiences, ['vault']);
    assert.equal(asked.length, before + 2);
    tokenError = new AgentError('Unavailable', 'away');
    const second = read(at('api', 'token'));
    await until(() => asked.length === before + 3);
    assert.equal(read(at('api', 'token')), second);
    tokenError = undefined;
    tokenLifeMs = 3_600_000;
    await volumes.unmount('uid-tok', signal);
    events.length = 0;
  });

  test('subPaths are bound, made where missing, follow a restart, and go with the pod', async () => {
    configMaps.set('ns/sub', { data: { key: 'v1' } });
    const list: Volume[] = [
      { name: 'cm', configMap: { name: 'sub' } },
      { name: 'e', emptyDir: {} },
    ];
    const pod = podOf('sub', list, {
      volumeMounts: [
        { name: 'cm', mountPath: '/f', subPath: 'key' },
        { name: 'e', mountPath: '/d', subPathExpr: 'dir/$(NAME)' },
        { name: 'e', mountPath: '/all', readOnly: true },
      ],
    });
    const container = pod.spec.containers[0] as Container;
    const how = { recursiveReadOnlySupported: false, expandSubPath: (text: string) => expandSubPath(text, [{ name: 'NAME', value: 'x' }]) };
    const at = await mustMount(pod);
    const own = path.join(rootDir, 'pods/uid-sub');
    const got = await volumes.mountsFor(pod, container, how, signal);
    assert.deepEqual(
      got.map((m) => [m.container_path, m.host_path, m.readonly]),
      [
        ['/f', path.join(own, 'volume-subpaths/cm/c/0'), true],
        ['/d', path.join(own, 'volume-subpaths/e/c/1'), false],
        ['/all', at('e'), true],
      ],
    );
    assert.equal(read(got[0]?.host_path ?? ''), 'v1');
    assert.equal(mode(at('e', 'dir/x')), '777');
    fs.writeFileSync(path.join(got[1]?.host_path ?? '', 'f'), 'in');
    assert.equal(read(at('e', 'dir/x/f')), 'in');

    // The next run of the container sees the new file; the binds are not doubled.
    configMaps.set('ns/sub', { data: { key: 'v2' } });
    await until(() => read(at('cm', 'key')) === 'v2');
    assert.equal(read(got[0]?.host_path ?? ''), 'v1');
    const again = await volumes.mountsFor(pod, container, how, signal);
    assert.equal(read(again[0]?.host_path ?? ''), 'v2');
    assert.equal((await mounts.listUnder(path.join(own, 'volume-subpaths'))).length, 2);

    fs.rmSync(at('e', 'dir/x'), { recursive: true });
    fs.symlinkSync('/etc', at('e', 'dir/x'));
    await assert.rejects(
      volumes.mountsFor(pod, container, how, signal),
      /^AgentError: failed to prepare subPath for volumeMount "e" of container "c"$/,
    );
    fs.writeFileSync(at('e', 'env'), "A='1'\n");
    assert.equal(await volumes.readFile(pod, 'e', 'env', signal), "A='1'\n");
    await assert.rejects(volumes.readFile(pod, 'e', 'dir/x/hostname', signal), (e) => hasCode(e, 'OutsideVolume'));
    await volumes.unmount('uid-sub', signal);
    assert.deepEqual(fs.readdirSync(own), []);
    assert.equal(fs.existsSync('/etc/hostname'), true);
  });

  test('what goes inside of a read-only volume gets its mount point: a directory, a file, and nothing over a link of the pod', async () => {
    configMaps.set('ns/nest', { data: { 'app.conf': 'x', link: 'y' } });
    const list: Volume[] = [
      { name: 'cm', configMap: { name: 'nest' } },
      { name: 'e', emptyDir: {} },
      { name: 'm', emptyDir: { medium: 'Memory' } },
    ];
    const pod = podOf('nest', list, {
      volumeMounts: [
        { name: 'e', mountPath: '/data', readOnly: true },
        { name: 'cm', mountPath: '/data/conf' },
        { name: 'cm', mountPath: '/data/etc/app.conf', subPath: 'app.conf' },
        { name: 'm', mountPath: '/data/evil/tmp' },
        { name: 'm', mountPath: '/data/conf/tmp' },
        { name: 'cm', mountPath: '/data/conf/more.conf', subPath: 'app.conf' },
      ],
    });
    const at = await mustMount(pod);
    // An init container has been here.
    fs.symlinkSync(path.join(dir, 'outside'), at('e', 'evil'));
    fs.mkdirSync(path.join(dir, 'outside'));
    const others = [{ container_path: '/data/last-words', host_path: at('cm', 'app.conf'), readonly: false }];
    const how = { recursiveReadOnlySupported: false, expandSubPath: () => ({ path: '', missing: [] }), others };
    await volumes.mountsFor(pod, pod.spec.containers[0] as Container, how, signal);
    const type = (file: string): string =>
      fs.lstatSync(file).isDirectory() ? 'directory' : fs.lstatSync(file).isFile() ? 'file' : 'other';
    assert.equal(type(at('e', 'conf')), 'directory');
    assert.equal(type(at('e', 'etc/app.conf')), 'file');
    assert.equal(type(at('e', 'last-words')), 'file');
    assert.equal(type(at('cm', 'tmp')), 'directory');
    assert.equal(type(at('cm', 'more.conf')), 'file');
    assert.deepEqual(fs.readdirSync(path.join(dir, 'outside')), []);
    // The next content of the ConfigMap leaves them.
    configMaps.set('ns/nest', { data: { 'app.conf': 'z' } });
    await until(() => read(at('cm', 'app.conf')) === 'z');
    assert.equal(type(at('cm', 'tmp')), 'directory');
    await volumes.unmount('uid-nest', signal);
  });

  test('another run of the agent finds everything, and can take it away without a spec', async () => {
    configMaps.set('ns/conf', { data: { a: 'A1', b: 'B1' } });
    const pod = podOf('again', everything());
    const at = await mustMount(pod);
    fs.writeFileSync(at('empty', 'kept'), 'kept');
    const link = fs.readlinkSync(at('cm', '..data'));
    const before = (await mounts.listUnder(rootDir)).length;
    {
      await using second = startVolumes(options);
      await second.mount(pod, signal);
      assert.equal(fs.readlinkSync(at('cm', '..data')), link);
      assert.equal((await mounts.listUnder(rootDir)).length, before);
      assert.equal(read(at('empty', 'kept')), 'kept');
    }
    // The server is away: what is there is good enough.
    const away: WatchedObjects<never> = { ...fakeObjects<never>(), get: () => Promise.reject(new AgentError('Unavailable', 'away')) };
    {
      await using third = startVolumes({
        ...options,
        objects: { configMaps: away, secrets: away, requestToken: () => Promise.reject(new AgentError('Unavailable', 'away')) },
      });
      await third.mount(pod, signal);
      assert.equal(read(at('cm', 'b')), 'B1');
      await third.unmount('uid-again', signal);
      assert.deepEqual(fs.readdirSync(path.join(rootDir, 'pods/uid-again')), []);
    }
    events.length = 0;
    await volumes.unmount('uid-again', signal);
  });

  test('without an API server', async () => {
    await using alone = startVolumes({ ...options, objects: undefined });
    const plain = podOf('alone', [
      { name: 'e', emptyDir: {} },
      { name: 'd', downwardAPI: { items: [{ path: 'n', fieldRef: { fieldPath: 'metadata.name' } }] } },
    ]);
    const paths = await alone.mount(plain, signal);
    assert.equal(read(path.join(paths.get('d') ?? '', 'n')), 'alone');
    await alone.unmount('uid-alone', signal);
    await assert.rejects(alone.mount(podOf('alone2', everything()), signal), /couldn't get configMap ns\/conf, no kubeClient defined/);
    await alone.unmount('uid-alone2', signal);
    events.length = 0;
  });

  test('unmounting ends a mount that waits', async () => {
    const stuck: WatchedObjects<ConfigMap> = {
      ...fakeObjects<ConfigMap>(),
      get: (_, __, s) => new Promise((_resolve, reject) => s.addEventListener('abort', () => reject(s.reason), { once: true })),
    };
    await using waiting = startVolumes({ ...options, objects: { configMaps: stuck, secrets, requestToken } });
    const mounting = waiting.mount(podOf('stuck', [{ name: 'cm', configMap: { name: 'x' } }]), signal);
    const rejected = assert.rejects(mounting, (e) => hasCode(e, 'Canceled'));
    await new Promise((resolve) => setImmediate(resolve));
    await waiting.unmount('uid-stuck', signal);
    await rejected;
  });

  test("something mounted inside by a container goes too; another plugin's mount is left alone", async () => {
    const at = await mustMount(podOf('prop', [{ name: 'e', emptyDir: {} }]));
    fs.mkdirSync(at('e', 'inner'));
    await mounts.mountTmpfs(at('e', 'inner'), {}, signal);
    fs.writeFileSync(at('e', 'inner/x'), 'x');
    const foreign = path.join(rootDir, 'pods/uid-prop/volumes/kubernetes.io~csi/data/mount');
    fs.mkdirSync(foreign, { recursive: true });
    await mounts.mountTmpfs(foreign, {}, signal);
    await assert.rejects(volumes.unmount('uid-prop', signal), (e) => hasCode(e, 'NotSupported'));
    assert.equal(fs.existsSync(at('e', 'inner/x')), true);
    await mounts.unmount(foreign, {}, signal);
    await volumes.unmount('uid-prop', signal);
    assert.deepEqual(fs.readdirSync(path.join(rootDir, 'pods/uid-prop')), []);
  });

  test('sixty pods at once', async () => {
    configMaps.set('ns/conf', { data: { a: 'A1', b: 'B1' } });
    const list = everything().filter((v) => v.hostPath === undefined);
    const pods = Array.from({ length: 60 }, (_, i) => podOf(`many-${i}`, list));
    const started = systemClock.mono();
    await Promise.all(pods.map((pod) => volumes.mount(pod, signal)));
    const mounted = systemClock.mono();
    await Promise.all(pods.map((pod) => volumes.unmount(pod.metadata.uid, signal)));
    const ended = systemClock.mono();
    assert.equal((await mounts.listUnder(rootDir)).length, 0);
    console.log(`60 pods with six volumes: mounted in ${Math.round(mounted - started)} ms, unmounted in ${Math.round(ended - mounted)} ms`);
  });
});
