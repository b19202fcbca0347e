// `keelson up`, as a person uses it: a containerd and an agent on this very machine, from nothing to curl, and back to nothing.
import assert from 'node:assert/strict';
import { type ExecFileException, execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { test } from 'node:test';
import { waitFor } from '../testbed/wait.ts';

const repository = resolve(import.meta.dirname, '../..');
const lib = '/var/lib/keelson/standalone';
const run = '/run/keelson/standalone';

interface Result {
  readonly code: number;
  readonly out: string;
}

/** Runs a command of keelson; both streams come together. */
const keelson = (...args: string[]): Promise<Result> =>
  new Promise((done) => {
    execFile(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', join(repository, 'agent/main.ts'), ...args],
      (error: ExecFileException | null, stdout, stderr) =>
        done({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : 1, out: `${stdout}${stderr}` }),
    );
  });

interface Shown {
  readonly uid: string;
  readonly ip: string | undefined;
  readonly phase: string | undefined;
  readonly container: { readonly containerID?: string; readonly restartCount: number; readonly ready: boolean } | undefined;
}

const shown = async (name: string): Promise<Shown | undefined> => {
  const { code, out } = await keelson('status', '--json');
  assert.equal(code, 0, out);
  const { pods } = JSON.parse(out) as {
    pods: {
      pod: {
        metadata: { name: string; uid: string };
        spec?: object;
        status?: { podIP?: string; phase?: string; containerStatuses?: Shown['container'][] };
      };
    }[];
  };
  const found = pods.find(({ pod }) => pod.spec !== undefined && pod.metadata.name.startsWith(`${name}-`))?.pod;
  return (
    found && {
      uid: found.metadata.uid,
      ip: found.status?.podIP,
      phase: found.status?.phase,
      container: found.status?.containerStatuses?.[0],
    }
  );
};

const page = async (ip: string | undefined): Promise<string | undefined> => {
  try {
    return await (await fetch(`http://${ip}/`, { signal: AbortSignal.timeout(1000) })).text();
  } catch {
    return undefined;
  }
};

/** Everything on this machine that `up` could leave: what other tests have (in namespaces and folders of their own) is not in it. */
const inventory = (): Record<string, unknown> => ({
  mounts: readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((at) => at.includes('/standalone')),
  links: readdirSync('/sys/class/net').sort(),
  cgroups: globSync('/sys/fs/cgroup/{keelson,*/keelson}'),
  processes: readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && commandOf(pid).includes('/keelson/standalone')),
  folders: [lib, run, `${run}.lock`, '/run/keelson/keelson.sock', '/var/lib/keelson', '/run/keelson', '/var/lib/cni'].filter(
    // Empty, they are what a lab's nodes mount theirs on, and labs come and go beside this test.
    (path) => existsSync(path) && (!/^\/(var\/lib|run)\/keelson$/.test(path) || readdirSync(path).length > 0),
  ),
  logLinks: globSync('/var/log/containers/*').filter((file) => readlinkSync(file).startsWith(lib)),
  cniResults: globSync('/var/lib/cni/results/keelson-*'),
  forwarding: readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8'),
  rules: execFileSync('nft', ['list', 'tables'], { encoding: 'utf8' }),
});

const commandOf = (pid: string): string => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return ''; // it has ended
  }
};

test('up, curl, logs, exec, why, edit, a killed agent, down: and nothing is left', { timeout: 300_000 }, async (t) => {
  assert.ok(!existsSync(lib), 'a standalone node is up on this machine: ./keelson down, then run this test again');
  const manifests = mkdtempSync(join(tmpdir(), 'standalone-'));
  t.after(() => rmSync(manifests, { recursive: true, force: true }));
  t.after(() => keelson('down'));
  cpSync(join(repository, 'examples'), manifests, { recursive: true });
  const before = inventory();

  const first = await keelson('up', '--manifests', manifests);
  assert.equal(first.code, 0, first.out);
  assert.match(first.out, /web: sandbox and network \([\d.]+ m?s\)/);
  assert.match(first.out, /web: Running, ready, 10\./);
  assert.match(first.out, /\.\/keelson logs web/);
  const web = await shown('web');
  assert.match((await page(web?.ip)) ?? '', /^Hello from web-/);
  assert.ok(first.out.includes(`curl http://${web?.ip}`), first.out);

  const log = await keelson('logs', 'web');
  assert.match(log.out, /^serving on port 80$/m);
  const asked = await keelson('exec', 'web', '--', 'sh', '-c', 'echo to stdout; echo to stderr >&2; exit 7');
  assert.equal(asked.code, 7);
  assert.match(asked.out, /to stdout\n/);
  assert.match(asked.out, /to stderr\n/);
  const why = await keelson('why', 'web');
  assert.match(why.out, /httpd: running/);
  assert.match(why.out, /start httpd +\d+ ms/);
  assert.match(why.out, /Normal +Started/);
  const nobody = await keelson('logs', 'nobody');
  assert.equal(nobody.code, 1);
  assert.match(nobody.out, /error: there is no pod "nobody" in namespace default; there are: default\/job-/);

  await waitFor('the job to end', 30_000, async () => ((await shown('job'))?.phase === 'Succeeded' ? true : undefined), 200);
  assert.match((await keelson('logs', 'job')).out, /step 3 of 3\ndone\n$/);

  const again = await keelson('up');
  assert.equal(again.code, 0, again.out);
  assert.deepEqual(await shown('web'), web, 'up for the second time changes nothing');

  const file = join(manifests, 'web.yaml');
  writeFileSync(join(manifests, 'broken.yaml'), 'kind: Pod\n');
  writeFileSync(file, readFileSync(file, 'utf8').replace('Hello', 'Moin'));
  const edited = await waitFor(
    'the edited pod to answer',
    20_000,
    async () => {
      const now = await shown('web');
      // A page may be had a moment before the status tells of its container.
      return now?.container?.ready === true && (await page(now.ip))?.startsWith('Moin') === true ? now : undefined;
    },
    200,
  );
  assert.notEqual(edited.uid, web?.uid);
  assert.match((await keelson('status')).out, /broken\.yaml: only Pods can run from a manifest/);
  rmSync(join(manifests, 'broken.yaml'));

  const { agent } = JSON.parse(readFileSync(join(lib, 'state.json'), 'utf8')) as { agent: { pid: number } };
  process.kill(agent.pid, 'SIGKILL');
  assert.ok((await page(edited.ip))?.startsWith('Moin'), 'the pod runs on without an agent');
  const lost = await keelson('status');
  assert.match(lost.out, /error: no agent runs here .*start one with \.\/keelson up/);
  const back = await keelson('up');
  assert.equal(back.code, 0, back.out);
  const adopted = await waitFor('the pod to be ready again', 10_000, async () => {
    const now = await shown('web');
    return now?.container?.ready === true ? now : undefined;
  });
  assert.equal(adopted.container?.containerID, edited.container?.containerID);
  assert.equal(adopted.container?.restartCount, 0);

  const shims = globSync(`${run}/containerd/io.containerd.runtime.v2.task/k8s.io/*/address`).map((at) =>
    readFileSync(at, 'utf8').replace('unix://', ''),
  );
  assert.ok(shims.length > 0);
  const ended = await keelson('down');
  assert.equal(ended.code, 0, ended.out);
  assert.match(ended.out, /Everything is gone\./);
  assert.deepEqual(inventory(), before);
  assert.deepEqual(
    shims.filter((socket) => existsSync(socket)),
    [],
  );
  assert.equal((await keelson('down')).out, 'Nothing is up.\n');
});

/** A pod whose volumes the agent mounts; what is in `user` is its user's. */
const userPod = (user: string): string => `apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  dnsPolicy: Default
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: host, hostPath: {path: ${user}}}
  - {name: memory, emptyDir: {medium: Memory}}
  containers:
  - name: c
    image: keelson.local/example:1
    command: [/bin/sh, -c, 'while :; do sleep 1; done']
    volumeMounts:
    - {name: host, mountPath: /sub, subPath: sub}
    - {name: host, mountPath: /file, subPath: file}
    - {name: memory, mountPath: /memory}
`;

for (const linked of [false, true])
  test(`down after everything was killed leaves nothing either${linked ? ', behind a symbolic link' : ''}`, {
    timeout: 120_000,
  }, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'standalone-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    t.after(() => keelson('down'));
    const [manifests, user, disk] = [join(folder, 'manifests'), join(folder, 'user'), join(folder, 'disk')];
    for (const each of [manifests, join(user, 'sub', 'deep'), disk]) mkdirSync(each, { recursive: true });
    for (const name of ['sub/deep/a', 'sub/b', 'file']) writeFileSync(join(user, name), `precious ${name}`);
    writeFileSync(join(manifests, 'user.yaml'), userPod(user));
    const mine = readdirSync(user, { recursive: true }).sort();
    if (linked) {
      mkdirSync(dirname(lib), { recursive: true });
      symlinkSync(disk, lib);
      t.after(() => rmSync(lib, { force: true }));
    }
    const before = inventory();
    const started = await keelson('up', '--manifests', manifests);
    assert.equal(started.code, 0, started.out);
    assert.equal(readFileSync('/proc/self/mountinfo', 'utf8').match(/\/volume-subpaths\/host\/c\/[01] /g)?.length, 2);
    const shims = globSync(`${run}/containerd/io.containerd.runtime.v2.task/k8s.io/*/address`).map((at) =>
      readFileSync(at, 'utf8').replace('unix://', ''),
    );
    const state = JSON.parse(readFileSync(join(lib, 'state.json'), 'utf8')) as Record<'agent' | 'containerd', { pid: number }>;
    for (const { pid } of [state.agent, state.containerd]) process.kill(pid, 'SIGKILL');
    const ended = await keelson('down');
    assert.equal(ended.code, 0, ended.out);
    assert.deepEqual(inventory(), before);
    assert.deepEqual(
      shims.filter((socket) => existsSync(socket)),
      [],
    );
    assert.deepEqual(readdirSync(user, { recursive: true }).sort(), mine);
    assert.equal(readFileSync(join(user, 'sub/deep/a'), 'utf8'), 'precious sub/deep/a');
    assert.deepEqual(readdirSync(disk), []);
  });

/** The agents of a standalone node. */
const agents = (): string[] =>
  readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && /main\.ts\0run\0.*\/keelson\/standalone\/kubelet\.yaml/.test(commandOf(pid)));

test('up that is broken off while the agent starts: the next one goes on, and down takes away all', { timeout: 240_000 }, async (t) => {
  t.after(() => keelson('down'));
  const before = inventory();
  const first = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', join(repository, 'agent/main.ts'), 'up'], {
    stdio: 'ignore',
  });
  const broken = once(first, 'close');
  await waitFor('the agent to start', 120_000, () => (agents().length > 0 ? true : undefined), 20);
  first.kill('SIGINT');
  await broken;
  const again = await keelson('up');
  assert.equal(again.code, 0, again.out);
  assert.equal(agents().length, 1);
  const ended = await keelson('down');
  assert.equal(ended.code, 0, ended.out);
  assert.deepEqual(inventory(), before);
});
