import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import { parseExecArguments } from '../../../agent/cli/exec.ts';
import { agent, parsePodName } from '../../../agent/cli/local/client.ts';
import { containerdConfig, whyNotUp } from '../../../agent/cli/local/containerd.ts';
import {
  describeStatus,
  describeWhy,
  formatTook,
  isSettled,
  isStuck,
  shortName,
  stateOf,
  stepWords,
} from '../../../agent/cli/local/describe.ts';
import { exitCodeOf } from '../../../agent/cli/local/exec-stream.ts';
import { chooseSubnet } from '../../../agent/cli/local/network.ts';
import { parseContainerdVersion } from '../../../agent/cli/local/packages.ts';
import { podNews } from '../../../agent/cli/local/progress.ts';
import { writeTar } from '../../../agent/cli/local/tar.ts';
import { parseLogsArguments } from '../../../agent/cli/logs.ts';
import { nextCommands, standaloneConfig } from '../../../agent/cli/up.ts';
import { loadConfig } from '../../../agent/config/config.ts';
import type { PodStatus } from '../../../agent/model/generated/api.ts';
import type { LocalPod, LocalStatus } from '../../../agent/server/local.ts';

function localPod(status: PodStatus, name = 'web'): LocalPod {
  return {
    pod: {
      metadata: { name: `${name}-n1`, namespace: 'default', uid: name, annotations: { 'kubernetes.io/config.source': 'file' } },
      spec: { containers: [{ name: 'app', image: 'x', ports: [{ containerPort: 80, protocol: 'TCP' }] }] },
      status,
    },
    activity: { lifecycle: 'syncing', waiting: [], inFlight: [], steps: [] },
  };
}

const base = { image: 'x', imageID: '', restartCount: 0 };
const ready: PodStatus = {
  phase: 'Running',
  podIP: '10.0.0.2',
  startTime: '2026-01-01T00:00:00Z',
  conditions: [{ type: 'Ready', status: 'True' }],
  containerStatuses: [{ ...base, name: 'app', ready: true, state: { running: {} } }],
};
const crashing: PodStatus = {
  phase: 'Running',
  containerStatuses: [{ ...base, name: 'app', ready: false, restartCount: 3, state: { waiting: { reason: 'CrashLoopBackOff' } } }],
};

test('the word for a state is that of kubectl get pods', () => {
  const table: readonly [string, PodStatus][] = [
    ['Running', ready],
    ['Pending', {}],
    ['CrashLoopBackOff', crashing],
    [
      'Completed',
      {
        phase: 'Succeeded',
        containerStatuses: [{ ...base, name: 'app', ready: false, state: { terminated: { exitCode: 0, reason: 'Completed' } } }],
      },
    ],
    [
      'Error',
      {
        phase: 'Failed',
        containerStatuses: [{ ...base, name: 'app', ready: false, state: { terminated: { exitCode: 1, reason: 'Error' } } }],
      },
    ],
    ['Evicted', { phase: 'Failed', reason: 'Evicted' }],
    ['Init:0/1', { phase: 'Pending', initContainerStatuses: [{ ...base, name: 'i', ready: false, state: { running: {} } }] }],
    [
      'Init:ErrImagePull',
      { phase: 'Pending', initContainerStatuses: [{ ...base, name: 'i', ready: false, state: { waiting: { reason: 'ErrImagePull' } } }] },
    ],
  ];
  for (const [word, status] of table) assert.equal(stateOf(localPod(status)), word);
  assert.equal(stateOf({ pod: { metadata: { name: 'a', namespace: 'b', uid: 'c' } }, activity: undefined }), 'Terminating');
  assert.ok(isSettled(localPod(ready)) && isSettled(localPod({ phase: 'Succeeded' })) && !isSettled(localPod({})));
  assert.ok(isStuck(localPod(crashing)) && isStuck(localPod({ phase: 'Failed' })) && !isStuck(localPod({})));
});

const status = (...pods: LocalPod[]): LocalStatus => ({
  node: 'n1',
  runtime: 'containerd',
  standalone: true,
  startedAt: Date.UTC(2026, 0, 1),
  manifests: '/manifests',
  pressure: [],
  problems: [],
  passedOver: [],
  pods,
});

test('status shows the pods in a table, then what needs a person', () => {
  const waiting: LocalPod = {
    ...localPod({}, 'job'),
    activity: { lifecycle: 'syncing', waiting: [{ subject: 'app', message: 'image is being pulled' }], inFlight: [], steps: [] },
  };
  const shown = describeStatus(
    {
      ...status(localPod(ready), waiting),
      problems: [{ origin: '/manifests/bad.yaml', message: '/manifests/bad.yaml: metadata.name: required' }],
    },
    Date.UTC(2026, 0, 1, 0, 2, 5),
  );
  assert.equal(
    shown,
    `Node n1, standalone, containerd, agent up for 2m5s
Manifests: /manifests

POD  READY  STATUS   RESTARTS  AGE   IP
web  1/1    Running  0         2m5s  10.0.0.2
job  0/1    Pending  0         -     -

Waiting:
  job: app: image is being pulled

Manifests that are not used, or not wholly:
  /manifests/bad.yaml: metadata.name: required
`,
  );
});

test('why tells what holds a pod back, and where to look next', () => {
  const now = Date.UTC(2026, 0, 1, 0, 0, 15);
  const finishedAt = '2026-01-01T00:00:10Z';
  const unhealthy = {
    at: now,
    firstAt: now,
    type: 'Warning',
    reason: 'Unhealthy',
    message: 'Readiness probe failed: refused\n',
    count: 3,
  } as const;
  const told = (pod: LocalPod, spec: object = {}): string => {
    const { pod: shown, activity } = pod;
    const containers = [{ name: 'app', image: 'x', ...spec }];
    const answer = { pod: { ...shown, spec: { containers } }, activity, events: [unhealthy], pressure: [], now };
    return describeWhy(answer);
  };
  const running = { ...base, name: 'app', ready: false, started: true, containerID: 'containerd://abc', state: { running: {} } };
  const table: readonly [string, string, RegExp][] = [
    [
      'a readiness probe',
      told(localPod({ phase: 'Running', containerStatuses: [running] }), { readinessProbe: {} }),
      /Waiting for:\n {2}app: its readiness probe to succeed; Readiness probe failed: refused \(3 times\)\n/,
    ],
    [
      'a startup probe before it',
      told(localPod({ phase: 'Running', containerStatuses: [{ ...running, started: false }] }), { readinessProbe: {}, startupProbe: {} }),
      /Waiting for:\n {2}app: its startup probe to succeed\n/,
    ],
    [
      'a back-off',
      told(
        localPod({
          phase: 'Running',
          containerStatuses: [
            {
              ...base,
              name: 'app',
              ready: false,
              restartCount: 1,
              state: { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 1m20s restarting failed container=app pod=web' } },
              lastState: { terminated: { exitCode: 3, reason: 'Error', message: 'no database\n', finishedAt } },
            },
          ],
        }),
      ),
      /1 restart; starts again in 1m15s; before that it ended with exit code 3 \(Error\): no database\n[\s\S]*logs web-n1 -c app/,
    ],
    ['one that failed', told(localPod({ phase: 'Failed', reason: 'OutOfcpu' })), /Waiting for:\n {2}nothing: it has failed for good/],
    [
      'what is under way, and the same said twice',
      told({
        ...localPod({ phase: 'Running', containerStatuses: [running] }),
        activity: {
          lifecycle: 'syncing',
          waiting: [
            { subject: 'volumes', message: 'no "v"' },
            { subject: 'volumes', message: 'no "v"' },
          ],
          inFlight: ['stop:abc', 'pull:app'],
          steps: [],
        },
      }),
      /Waiting for:\n {2}volumes: no "v"\n\nUnder way:\n {2}stop app\n {2}pull the image for app\n/,
    ],
  ];
  for (const [what, text, words] of table) assert.match(text, words, what);
});

test('news are told once', () => {
  const seen = new Set<string>();
  const step = { step: 'createSandbox', startedAt: 1, tookMs: 82 };
  const now: LocalPod = { ...localPod({ phase: 'Pending' }), activity: { lifecycle: 'syncing', waiting: [], inFlight: [], steps: [step] } };
  assert.deepEqual(podNews(status(now), seen), ['  ✓ web: sandbox and network (82 ms)', '  … web: Pending']);
  assert.deepEqual(podNews(status(now), seen), []);
  assert.deepEqual(podNews(status({ ...now, pod: localPod(ready).pod }), seen), ['  ✓ web: Running, ready, 10.0.0.2']);
});

test('small words', () => {
  assert.deepEqual([3.4, 1500, 65_000, 3_600_000, 93_600_000].map(formatTook), ['3 ms', '1.5 s', '1m5s', '1h', '1d2h']);
  assert.equal(stepWords('startContainer app'), 'start app');
  assert.equal(shortName(localPod({}).pod, 'N1'), 'web');
  assert.equal(shortName({ metadata: { name: 'x-n1', namespace: 'kube-system', uid: 'u' } }, 'n1'), 'kube-system/x-n1');
  assert.deepEqual(parsePodName('kube-system/dns', undefined), { namespace: 'kube-system', name: 'dns' });
  assert.deepEqual(parsePodName('web', 'other'), { namespace: 'other', name: 'web' });
  assert.equal(parseContainerdVersion('containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n'), '1.6.20');
  assert.equal(parseContainerdVersion('containerd github.com/containerd/containerd/v2 v2.1.9 abc'), '2.1.9');
  assert.ok(nextCommands({ ...status(localPod(ready)), manifests: undefined }).includes('  curl http://10.0.0.2'));
});

test('exec takes flags before the command and leaves those behind it alone', () => {
  const plain = { pod: 'web', container: undefined, namespace: undefined, stdin: false, tty: false };
  assert.deepEqual(parseExecArguments(['web', '--', 'ls', '-l']), { ...plain, command: ['ls', '-l'] });
  assert.deepEqual(parseExecArguments(['web', 'ls', '--', '-l']), { ...plain, command: ['ls', '--', '-l'] });
  assert.deepEqual(parseExecArguments(['-it', '-c', 'app', '--namespace=x', 'web', '--', 'sh']), {
    pod: 'web',
    container: 'app',
    namespace: 'x',
    stdin: true,
    tty: true,
    command: ['sh'],
  });
  for (const wrong of [[], ['web'], ['-x', 'web', 'ls']])
    assert.throws(
      () => parseExecArguments(wrong),
      (error) => hasCode(error, 'Usage'),
    );
});

test('logs: flags become a query, and what makes no sense is told by its flag', () => {
  const queryOf = (...args: string[]) => String(parseLogsArguments(args)?.query);
  assert.equal(queryOf('web'), '');
  assert.equal(
    queryOf('-f', '-p', '--timestamps', '--tail=0', '--limit-bytes', '10', 'web'),
    'follow=true&previous=true&timestamps=true&tailLines=0&limitBytes=10',
  );
  assert.equal(queryOf('--since', '1m0.2s', '--tail=-1', 'web'), 'sinceSeconds=61');
  assert.equal(queryOf('--since=0s', '--since-time=2026-01-02T03:04:05Z', 'web'), 'sinceTime=2026-01-02T03%3A04%3A05Z');
  assert.equal(parseLogsArguments(['web', 'side'])?.container, 'side');
  assert.equal(parseLogsArguments(['-h']), undefined);
  for (const [args, word] of [
    [[], 'name one pod'],
    [['web', 'side', 'more'], 'name one pod'],
    [['--tail', 'ten', 'web'], '--tail'],
    [['--tail=-2', 'web'], '--tail'],
    [['--limit-bytes', '0', 'web'], '--limit-bytes'],
    [['--since', '5', 'web'], '--since'],
    [['--since=-5m', 'web'], '--since'],
    [['--since-time', 'noon', 'web'], '--since-time'],
    [['--since', '5m', '--since-time', '2026-01-02T03:04:05Z', 'web'], '--since-time'],
  ] as const)
    assert.throws(
      () => parseLogsArguments(args),
      (error) => hasCode(error, 'Usage') && error.message.includes(word),
      args.join(' '),
    );
});

test('an agent that hangs is told, and waited for no longer than half a minute', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const folder = mkdtempSync(join(tmpdir(), 'hung-'));
  const socket = join(folder, 'socket');
  const server = createServer();
  try {
    const asked = once(server, 'request');
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    const answer = agent.status(new AbortController().signal, socket);
    answer.catch(() => undefined);
    await asked;
    t.mock.timers.tick(30_000);
    await assert.rejects(answer, (error) => hasCode(error, 'DeadlineExceeded') && error.message.includes(socket));
  } finally {
    server.closeAllConnections();
    server.close();
    rmSync(folder, { recursive: true });
  }
});

test('exit codes of streams', () => {
  assert.equal(exitCodeOf('{"metadata":{},"status":"Success"}'), 0);
  const failure = { status: 'Failure', reason: 'NonZeroExitCode', details: { causes: [{ reason: 'ExitCode', message: '3' }] } };
  assert.equal(exitCodeOf(JSON.stringify(failure)), 3);
  assert.throws(() => exitCodeOf('{"status":"Failure","message":"no such file"}'), { message: 'no such file' });
});

test('the pods get a range that no route of the machine touches', () => {
  assert.equal(chooseSubnet(['192.0.2.0/24', '169.254.1.1']), '10.199.77.0/24');
  assert.equal(chooseSubnet(['10.0.0.0/8', '172.16.0.0/12']), '192.168.177.0/24');
  assert.throws(
    () => chooseSubnet(['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16']),
    (error) => hasCode(error, 'Conflict'),
  );
});

test('a tar archive that tar reads', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'tar-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'a.tar');
  writeFileSync(
    file,
    writeTar([
      { name: 'bin/', mode: 0o755 },
      { name: 'bin/tool', mode: 0o755, content: 'x'.repeat(600) },
      { name: 'bin/link', mode: 0o777, linkTo: '/bin/tool' },
    ]),
  );
  const lines = execFileSync('tar', ['--numeric-owner', '-tvf', file], { encoding: 'utf8', env: { ...process.env, TZ: 'UTC' } });
  assert.equal(
    lines,
    'drwxr-xr-x 0/0               0 1970-01-01 00:00 bin/\n' +
      '-rwxr-xr-x 0/0             600 1970-01-01 00:00 bin/tool\n' +
      'lrwxrwxrwx 0/0               0 1970-01-01 00:00 bin/link -> /bin/tool\n',
  );
});

test('containerd 1 and 2 are told where everything is in their own words', () => {
  const settings = {
    root: '/r',
    state: '/s',
    socket: '/s.sock',
    runc: '/usr/sbin/runc',
    cniBinDir: '/usr/lib/cni',
    cniConfDir: '/net.d',
    pauseImage: 'pause:1',
    snapshotter: 'overlayfs',
    restrictOomScore: true,
  } as const;
  const one = containerdConfig({ ...settings, major: 1 });
  assert.match(one, /^version = 2$/m);
  assert.match(one, /^sandbox_image = "pause:1"$/m);
  assert.match(one, /^bin_dir = "\/usr\/lib\/cni"$/m);
  const two = containerdConfig({ ...settings, major: 2 });
  assert.match(two, /^version = 3$/m);
  assert.match(two, /^sandbox = "pause:1"$/m);
  assert.match(two, /^bin_dirs = \["\/usr\/lib\/cni"\]$/m);
});

test('why containerd did not come up is in its log', () => {
  const failed = (error: string): string =>
    `time="2026" level=info msg=a\ntime="2026" level=warning msg="failed to load plugin io.containerd.grpc.v1.cri" error="${error}"\ntime="2026" level=info msg=b`;
  assert.match(whyNotUp('Unimplemented', failed('no such thing')), /^containerd did not come up: no such thing\n/);
  assert.match(
    whyNotUp('Unimplemented', failed('failed to create fsnotify watcher: too many open files')),
    /sysctl -w fs\.inotify\.max_user_instances=1024/,
  );
  assert.match(whyNotUp('Unavailable: no socket', '(no log)'), /^containerd did not come up: Unavailable: no socket\n/);
});

test("the standalone agent's configuration is one that the agent takes", async () => {
  const text = JSON.stringify(standaloneConfig('/manifests'));
  const config = await loadConfig(['--config=/k.yaml'], { readFile: async () => text, listFiles: async () => [] });
  assert.equal(config.kubelet.staticPodPath, '/manifests');
  assert.equal(config.kubelet.enableServer, false);
});
