// `keelson up --cluster`, from nothing to pods on a node that joined by token, and back to nothing; and in between, on the same cluster, static pods: the mirror on
// the API follows the manifest, and the pod follows the manifest whether there is an API server or not.
import assert from 'node:assert/strict';
import { type ExecFileException, execFile } from 'node:child_process';
import { existsSync, globSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { stringify } from 'yaml';
import { localCluster } from '../../agent/cli/local/paths.ts';
import type { CertificateSigningRequest, Pod } from '../../agent/model/generated/api.ts';
import { ensureBinaries } from '../testbed/binaries.ts';
import { api, kubectl as runKubectl, waitForApiserver } from '../testbed/control-plane.ts';
import { openLab, restartAgent, startAgain, stopComponent } from '../testbed/lab.ts';
import { labPaths } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';

const name = 'up';
const mirrorName = `web-${name}-n1`;
const image = 'keelson.local/example:1';
const { home, run } = labPaths(name).node('n1');
const manifests = join(home, 'etc-kubernetes', 'manifests');
const podLogs = join(home, 'pod-logs');
let binary: string;

const kubectl = (...args: string[]): Promise<string> => runKubectl(openLab(name), binary, args);
const pods = async (): Promise<Pod[]> => (await api<{ items: Pod[] }>(openLab(name), '/api/v1/namespaces/default/pods')).items;
const mirrors = async (): Promise<Pod[]> => (await pods()).filter((pod) => hashOf(pod) !== undefined);
const hashOf = (pod: Pod | undefined): string | undefined => pod?.metadata?.annotations?.['kubernetes.io/config.mirror'];

/** As a careful editor does it: the manifest appears at once and whole. */
function write(text: string): void {
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'web', labels: { app: 'web' } },
    spec: {
      terminationGracePeriodSeconds: 2,
      containers: [{ name: 'main', image, command: ['/bin/sh', '-c', `echo ${text}; trap 'exit 0' TERM; while :; do sleep 0.1; done`] }],
    },
  };
  writeFileSync(join(manifests, '.new'), stringify(pod));
  renameSync(join(manifests, '.new'), join(manifests, 'web.yaml'));
}

/** What the pods called web have written, by UID, as it lies on the node. */
function written(): Map<string, string> {
  const found = new Map<string, string>();
  for (const folder of readdirSync(podLogs)) {
    if (!folder.startsWith(`default_${mirrorName}_`)) continue;
    const file = join(podLogs, folder, 'main', '0.log');
    found.set(folder.split('_')[2] ?? '', existsSync(file) ? readFileSync(file, 'utf8') : '');
  }
  return found;
}
const saysLocally = (text: string): Promise<string> =>
  waitFor(`a local pod that says ${text} alone`, 20_000, () => {
    const logs = [...written()];
    return logs.length === 1 && logs[0]?.[1].includes(` ${text}\n`) ? logs[0][0] : undefined;
  });
/** The mirror that shows this hash, Running and Ready. */
const shown = (hash: string): Promise<Pod> =>
  waitFor(`the mirror of ${hash} to be ready`, 60_000, async () => {
    const all = await mirrors();
    const ready = all[0]?.status?.conditions?.find((c) => c.type === 'Ready')?.status;
    return all.length === 1 && hashOf(all[0]) === hash && ready === 'True' ? all[0] : undefined;
  });

/** Runs a command of keelson; both streams come together. */
const keelson = (...args: string[]): Promise<{ code: number; out: string }> =>
  new Promise((done) => {
    execFile(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', resolve(import.meta.dirname, '../../agent/main.ts'), ...args],
      // Not of an agent that somebody has up on this machine meanwhile.
      ['status', 'why', 'logs', 'exec'].includes(args[0] ?? '') ? { env: { ...process.env, KEELSON_SOCKET: localCluster.nodeSocket } } : {},
      (error: ExecFileException | null, stdout, stderr) =>
        done({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : 1, out: `${stdout}${stderr}` }),
    );
  });

/** What of the cluster is on this machine. */
const left = (): string[] =>
  [
    `/{run,var/lib}/keelson-lab/{${name},.${name}.lock*}`,
    `/run/netns/kl-${name}-*`,
    `/sys/fs/cgroup/{,*/}keelson-lab/${name}`,
    '/etc/kubernetes/*',
    '/var/lib/kubelet/*',
  ].flatMap((pattern) => globSync(pattern));

let leftBefore: string[];
let started: { code: number; out: string };

before(async () => {
  binary = (await ensureBinaries(['kubectl'])).kubectl;
  assert.ok(
    !existsSync(labPaths(name).home),
    'a cluster of keelson up --cluster is on this machine: ./keelson down, then run this test again',
  );
  leftBefore = left();
  started = await keelson('up', '--cluster');
});
after(() => keelson('down'));

describe('keelson up --cluster', () => {
  test('tells the join line and that the examples run', () => {
    assert.equal(started.code, 0, started.out);
    assert.match(
      started.out,
      /keelson join 172\.30\.0\.2:6443 --token [a-z0-9]{6}\.[a-z0-9]{16} --discovery-token-ca-cert-hash sha256:[0-9a-f]{64}/,
    );
    assert.match(started.out, /n1: Ready/);
    assert.match(started.out, /web: Running, ready, 10\.244\./);
    assert.match(started.out, /Everything is up/);
    assert.match(started.out, /Try next:\n {2}\.\/keelson kubectl get nodes/);
  });

  test('the node asked for its certificate with the token, which is nowhere on it any more', async () => {
    const { items } = await api<{ items: CertificateSigningRequest[] }>(
      openLab(name),
      '/apis/certificates.k8s.io/v1/certificatesigningrequests',
    );
    const token = /--token ([a-z0-9]{6})/.exec(started.out)?.[1];
    assert.deepEqual(
      items.map(({ spec }) => spec.username),
      [`system:bootstrap:${token}`],
    );
    assert.equal(existsSync(join(home, 'etc-kubernetes/bootstrap-kubelet.conf')), false);
    for (const file of globSync(`${home}/{etc-kubernetes,kubelet}/*.{conf,yaml,env}`))
      assert.ok(!readFileSync(file, 'utf8').includes(`${token}.`), file);
  });

  test('kubectl, status, logs, why and exec work at once', async () => {
    assert.match((await keelson('kubectl', 'get', 'nodes')).out, new RegExp(`^${name}-n1 +Ready `, 'm'));
    assert.match((await keelson('status')).out, /^Node up-n1, in a cluster[\s\S]*^web +1\/1 +Running/m);
    assert.match((await keelson('logs', 'web')).out, /^serving on port 80$/m);
    assert.match((await keelson('why', 'web')).out, /httpd: running/);
    assert.deepEqual(await keelson('exec', 'web', '--', 'sh', '-c', 'hostname; exit 3'), { code: 3, out: 'web\n' });
  });

  test('for the second time it changes nothing', async () => {
    const uids = (all: Pod[]): unknown => all.map(({ metadata }) => metadata?.uid);
    const before = uids(await pods());
    const again = await keelson('up', '--cluster');
    assert.equal(again.code, 0, again.out);
    assert.deepEqual(uids(await pods()), before);
  });
});

describe('keelson why', () => {
  interface Broken {
    readonly container?: object;
    readonly spec?: object;
    /** What the answer has to hold. */
    readonly says: readonly RegExp[];
  }
  const sleeping = { command: ['/bin/sh', '-c', 'sleep 3600'] };
  const probe = { periodSeconds: 1, failureThreshold: 300 };
  const table: Readonly<Record<string, Broken>> = {
    'image-that-is-not-there': {
      container: { image: 'keelson.local/absent:1', imagePullPolicy: 'Never' },
      says: [
        /: ErrImageNeverPull/,
        /Waiting for:\n {2}app: Container image "keelson.local\/absent:1" is not present with pull policy of Never/,
      ],
    },
    'image-without-a-name': { container: { image: 'Not A Name' }, says: [/: InvalidImageName/, /app: .*invalid reference format/] },
    'image-nobody-has': {
      container: { image: '127.0.0.1:9/nobody/has:1' },
      says: [/: (ErrImagePull|ImagePullBackOff)/, /127\.0\.0\.1:9: connect: connection refused/],
    },
    crashes: {
      container: { command: ['/bin/sh', '-c', 'echo no database; exit 3'] },
      says: [/: CrashLoopBackOff/, /starts again in \d/, /exit code 3 \(Error\)/, /app: back-off 10s/, /\.\/keelson logs crashes -c app/],
    },
    'no-program': {
      container: { command: ['/no/such/program'] },
      says: [/exit code 128 \(StartError\): .*\/no\/such\/program: no such file/],
    },
    'too-much-memory': {
      container: { command: ['/bin/sh', '-c', 'tail /dev/zero'], resources: { limits: { memory: '20Mi' } } },
      says: [/exit code 137 \(OOMKilled\)/],
    },
    'not-ready': {
      container: { ...sleeping, readinessProbe: { ...probe, httpGet: { port: 81 } } },
      says: [
        /running for .*, not ready/,
        /Waiting for:\n {2}app: its readiness probe to succeed; Readiness probe failed: .*:81\/.*connection refused/,
      ],
    },
    'not-started': {
      container: { ...sleeping, startupProbe: { ...probe, exec: { command: ['cat', '/none'] } } },
      says: [/Waiting for:\n {2}app: its startup probe to succeed; Startup probe failed: cat: can't open '\/none'/],
    },
    'no-configmap': {
      container: { volumeMounts: [{ name: 'v', mountPath: '/v' }] },
      spec: { volumes: [{ name: 'v', configMap: { name: 'absent' } }] },
      says: [/Waiting for:\n {2}volumes: MountVolume\.SetUp failed for volume "v" : configmap "absent" not found\n\n/],
    },
    'no-secret': {
      container: { env: [{ name: 'A', valueFrom: { secretKeyRef: { name: 'absent', key: 'k' } } }] },
      says: [/: CreateContainerConfigError/, /Waiting for:\n {2}app: secret "absent" not found/],
    },
    'root-refused': {
      container: { securityContext: { runAsNonRoot: true } },
      says: [/app: container has runAsNonRoot and image will run as root/],
    },
    'init-fails': {
      spec: { initContainers: [{ name: 'setup', image, command: ['false'] }] },
      says: [/: Init:CrashLoopBackOff/, /setup: back-off/, /app: waiting: PodInitializing/],
    },
    'too-big': {
      container: { resources: { requests: { cpu: '9000' } } },
      spec: { nodeName: `${name}-n1` },
      says: [/: OutOfcpu/, /Node didn't have enough resource: cpu/, /nothing: it has failed for good/],
    },
    'for-nobody': {
      spec: { nodeSelector: { no: 'node' } },
      says: [/this node has no pod default\/for-nobody: .*kubectl describe pod -n default for-nobody/],
    },
    critical: {
      container: { ...sleeping, resources: { requests: { cpu: '600m' } } },
      spec: { nodeName: `${name}-n1`, priorityClassName: 'system-node-critical' },
      says: [/Waiting for:\n {2}admission: room on this node: default\/filler is being ended for it/],
    },
  };
  const apply = (items: object[]): Promise<string> =>
    runKubectl(openLab(name), binary, ['apply', '-f', '-'], JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  const podOf = (podName: string, { container, spec }: Omit<Broken, 'says'>): object => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: podName, labels: { broken: 'yes' } },
    spec: { terminationGracePeriodSeconds: 1, containers: [{ name: 'app', image, command: ['sleep', '60'], ...container }], ...spec },
  });

  before(async () => {
    const node = await api<{ status: { allocatable: { cpu: string } } }>(openLab(name), `/api/v1/nodes/${name}-n1`);
    // Leaves too little for the critical one, and is slow to go.
    const cpu = `${Number(node.status.allocatable.cpu) * 1000 - 700}m`;
    const command = ['/bin/sh', '-c', "trap 'sleep 20; exit' TERM; echo up; while :; do sleep 0.1; done"];
    await apply([
      podOf('filler', { container: { command, resources: { requests: { cpu } } }, spec: { terminationGracePeriodSeconds: 25 } }),
    ]);
    await waitFor('the filler', 30_000, async () => ((await kubectl('logs', 'filler')) === 'up\n' ? true : undefined));
    await apply(Object.entries(table).map(([podName, broken]) => podOf(podName, broken)));
  });
  after(() => kubectl('delete', 'pods', '-l', 'broken=yes', '--grace-period=0', '--force'));

  for (const [podName, { says }] of Object.entries(table).sort(([a], [b]) => Number(b === 'critical') - Number(a === 'critical')))
    test(podName, async () => {
      let answer = '';
      await waitFor(`why ${podName} to tell it`, 45_000, async () => {
        answer = (await keelson('why', podName)).out;
        return says.every((words) => words.test(answer)) ? true : undefined;
      }).catch(() => {
        for (const words of says) assert.match(answer, words);
      });
    });
});

describe('static pods', () => {
  let hash: string;

  test('a manifest runs, and its mirror shows it', async () => {
    write('one');
    hash = await saysLocally('one');
    const pod = await shown(hash);
    assert.equal(pod.metadata?.name, mirrorName);
    assert.equal(pod.metadata?.annotations?.['kubernetes.io/config.source'], 'file');
    assert.deepEqual(
      pod.metadata?.ownerReferences?.map(({ kind, name: owner, controller }) => ({ kind, owner, controller })),
      [{ kind: 'Node', owner: `${name}-n1`, controller: true }],
    );
    assert.equal(pod.status?.phase, 'Running');
    assert.match(pod.status?.podIP ?? '', /^10\.244\./);
  });

  test('logs, exec and events by the name of the mirror', async () => {
    assert.equal(await kubectl('logs', mirrorName), 'one\n');
    assert.equal(await kubectl('exec', mirrorName, '--', 'echo', 'inside'), 'inside\n');
    await waitFor('the events', 10_000, async () => {
      const text = await kubectl('describe', 'pod', mirrorName);
      return /Normal\s+Started\s.*Container started/.test(text) ? true : undefined;
    });
  });

  test('a mirror that is deleted comes back with its status; the pod runs on', async () => {
    const [before] = await mirrors();
    await kubectl('delete', 'pod', mirrorName, '--wait=false');
    const again = await waitFor('another mirror', 20_000, async () => {
      const pod = await shown(hash);
      return pod.metadata?.uid === before?.metadata?.uid ? undefined : pod;
    });
    assert.deepEqual(again.status?.containerStatuses, before?.status?.containerStatuses);
    assert.equal(again.status?.podIP, before?.status?.podIP);
    assert.equal([...written().keys()].join(), hash);
  });

  test('an edit replaces the pod and its mirror', async () => {
    write('two');
    const next = await saysLocally('two');
    assert.notEqual(next, hash);
    hash = next;
    await shown(hash);
    assert.equal(await kubectl('logs', mirrorName), 'two\n');
  });

  test('an agent that is killed keeps pod and mirror', async () => {
    const [before] = await mirrors();
    await restartAgent(name, { signal: 'SIGKILL' });
    await waitFor('the agent to answer', 30_000, async () => ((await kubectl('logs', mirrorName)) === 'two\n' ? true : undefined));
    const [pod] = await mirrors();
    assert.equal(pod?.metadata?.uid, before?.metadata?.uid);
    assert.deepEqual(pod?.status, before?.status);
  });

  test('without an API server the pod follows the manifest all the same, and the mirror catches up', async () => {
    await stopComponent(name, 'apiserver');
    write('three');
    hash = await saysLocally('three');
    rmSync(join(manifests, 'web.yaml'));
    await waitFor('the pod to be gone', 20_000, () => (written().size === 0 ? true : undefined));
    write('four');
    await restartAgent(name, { signal: 'SIGKILL' });
    hash = await saysLocally('four');
    await startAgain(name, 'apiserver');
    await waitForApiserver(openLab(name));
    const pod = await shown(hash);
    assert.equal(pod.status?.containerStatuses?.[0]?.restartCount, 0);
  });

  test('a manifest that goes takes pod and mirror along', async () => {
    rmSync(join(manifests, 'web.yaml'));
    await waitFor('pod and mirror to be gone', 20_000, async () =>
      (await mirrors()).length === 0 && written().size === 0 ? true : undefined,
    );
  });
});

test('keelson down leaves nothing of the cluster behind', async () => {
  const ended = await keelson('down');
  assert.equal(ended.code, 0, ended.out);
  assert.match(ended.out, /Everything is gone\./);
  assert.deepEqual(
    left().filter((path) => !leftBefore.includes(path)),
    [],
  );
  assert.ok(!existsSync(run));
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
  assert.ok(!mounts.includes(home) && !mounts.includes(run), mounts);
});
