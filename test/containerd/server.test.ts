// The node's server and the exec probe on real containerds. The runtime's streaming server listens on the loopback of its own network namespace, so this file
// runs itself once more in there for each runtime: the outer run makes the runtime, the inner one has the tests.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { after, before, test } from 'node:test';
import { Agent, WebSocket } from 'undici';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { runStream } from '../../agent/cli/local/exec-stream.ts';
import { type CriClient, connectCri } from '../../agent/drivers/cri/client.ts';
import { lookWithin } from '../../agent/drivers/files/look.ts';
import { readContainerLog } from '../../agent/drivers/logs/read.ts';
import { openMounts } from '../../agent/drivers/mounts/mounts.ts';
import type { AgentPod } from '../../agent/model/pod.ts';
import { madeEnvironment } from '../../agent/pods/env-expand.ts';
import { execAttempt } from '../../agent/probes/attempt.ts';
import { createMetrics } from '../../agent/server/metrics.ts';
import { type Server, startServer } from '../../agent/server/server.ts';
import { makeCa } from '../fakes/certs.ts';
import type { RuntimeKind } from '../testbed/runtimes.ts';
import { waitFor } from '../testbed/wait.ts';
import { startPrivateRuntime } from './private-runtime.ts';

const never = new AbortController().signal;
const inside = process.env.SERVER_TEST_SOCKET;

if (inside === undefined) {
  const kinds: RuntimeKind[] = ['containerd-2', 'containerd-1.6'];
  for (const kind of kinds) {
    test(`server on ${kind}`, async () => {
      await using bed = await startPrivateRuntime(kind, 'server', ['busybox', 'pause']);
      const child = spawn('nsenter', [`--net=/run/netns/${bed.netns}`, process.execPath, import.meta.filename], {
        env: {
          ...process.env,
          SERVER_TEST_SOCKET: join(bed.folder, 'c.sock'),
          SERVER_TEST_ID: bed.id,
          SERVER_TEST_FOLDER: bed.folder,
          NODE_TEST_CONTEXT: undefined,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      let output = '';
      child.stdout.on('data', (chunk) => {
        output += String(chunk);
      });
      child.stderr.on('data', (chunk) => {
        output += String(chunk);
      });
      const [code] = await once(child, 'close');
      assert.equal(code, 0, output);
    });
  }
} else insideTests(inside, process.env.SERVER_TEST_ID ?? '', process.env.SERVER_TEST_FOLDER ?? '');

function insideTests(socket: string, cgroup: string, folder: string): void {
  let client: CriClient;
  let server: Server;
  let sandbox: string;
  let container: string;
  const logPath = join(folder, 'logs', 'main.log');
  const ca = makeCa();
  const serving = ca.issue({ commonName: 'node', sans: ['IP:127.0.0.1'] });
  const admin = ca.issue({ commonName: 'admin' });
  const files = mkdtempSync(join(tmpdir(), 'server-test-'));
  const listeners = new Set<() => void>();
  let running = true;

  before(async () => {
    client = connectCri({ endpoint: `unix://${socket}`, clock: systemClock, log: silentLog });
    writeFileSync(join(files, 'ca.crt'), ca.cert);
    const { images } = await client.listImages({}, never);
    const busybox = images?.flatMap((image) => image.repo_tags ?? []).find((tag) => tag.includes('busybox')) ?? '';
    const config = {
      metadata: { name: 'p', namespace: 'test', uid: 'uid-p', attempt: 0 },
      hostname: 'p',
      log_directory: join(folder, 'logs'),
      linux: {
        cgroup_parent: `/${cgroup}`,
        security_context: { namespace_options: { network: 'POD' as const, pid: 'CONTAINER' as const, ipc: 'POD' as const } },
      },
    };
    sandbox = (await client.runPodSandbox({ config }, never)).pod_sandbox_id ?? '';
    // An emptyDir that the container may only read, with a ConfigMap's file and a folder inside.
    const volume = join(folder, 'volume');
    const inner = join(folder, 'inner');
    for (const path of [volume, inner]) mkdirSync(path);
    writeFileSync(join(inner, 'app.conf'), 'of the ConfigMap\n');
    const mounts = openMounts();
    await mounts.makeMountPoint(volume, 'etc/app.conf', false, never);
    await mounts.makeMountPoint(volume, 'conf', true, never);
    const created = await client.createContainer(
      {
        pod_sandbox_id: sandbox,
        sandbox_config: config,
        config: {
          metadata: { name: 'c', attempt: 0 },
          image: { image: busybox },
          // Echoes what comes to port 7000, and writes a line to its log for each file that appears.
          command: [
            'sh',
            '-c',
            'echo started; nc -ll -p 7000 -e cat & n=0; while [ ! -e /end ]; do if [ -e /say ]; then n=$((n+1)); rm /say; echo line $n; fi; sleep 0.05; done; echo over',
          ],
          envs: [
            { key: 'SECRET', value: 'a=b "c"' },
            { key: 'EMPTY', value: '' },
          ],
          mounts: [
            { container_path: '/data', host_path: volume, readonly: true },
            { container_path: '/data/etc/app.conf', host_path: join(inner, 'app.conf'), readonly: true },
            { container_path: '/data/conf', host_path: inner, readonly: true },
          ],
          log_path: 'main.log',
          linux: { resources: { oom_score_adj: 1000 }, security_context: { run_as_user: { value: 0 } } },
        },
      },
      never,
    );
    container = created.container_id ?? '';
    await client.startContainer({ container_id: container }, never);
    const pod = {
      metadata: { name: 'p', namespace: 'test', uid: 'uid-p' },
      spec: { containers: [{ name: 'c' }] },
      status: {
        containerStatuses: [
          {
            name: 'c',
            image: '',
            imageID: '',
            ready: true,
            restartCount: 0,
            containerID: `containerd://${container}`,
            state: { running: {} },
          },
        ],
      },
    } as AgentPod;
    server = await startServer({
      clock: systemClock,
      log: silentLog,
      nodeName: 'node',
      settings: {
        address: '127.0.0.1',
        port: 0,
        readOnlyPort: 0,
        healthzBindAddress: '127.0.0.1',
        healthzPort: 0,
        clientCaFile: join(files, 'ca.crt'),
        anonymous: false,
        tokenWebhook: false,
        tokenTtlMs: 0,
        authorizationMode: 'AlwaysAllow',
        authorizedTtlMs: 0,
        unauthorizedTtlMs: 0,
        enableDebuggingHandlers: true,
        enableSystemLogHandler: false,
        enableDebugFlagsHandler: false,
        streamingConnectionIdleTimeoutMs: 0,
        splitLogStreams: false,
      },
      certificate: {
        current: () => ({ certPem: serving.cert, keyPem: serving.key }),
        onChange: () => ({ [Symbol.dispose]: () => undefined }),
      },
      node: {
        pods: () => [pod],
        pod: () => pod,
        runningPods: () => [],
        runningContainer: () => container,
        readySandbox: () => sandbox,
        containerLog: () => ({ path: logPath }),
        isRunning: () => running,
        onContainerChange(_, listener) {
          listeners.add(listener);
          return { [Symbol.dispose]: () => void listeners.delete(listener) };
        },
      },
      runtime: client,
      lookWithin,
      readLog: (path, options, signal) => readContainerLog(path, options, { clock: systemClock, log: silentLog }, signal),
      reviewToken: async () => ({ authenticated: false }),
      reviewAccess: async () => ({ allowed: false }),
      configz: () => ({}),
      checks: [],
      metrics: createMetrics(),
    });
  });

  after(async () => {
    await server?.[Symbol.asyncDispose]();
    await client?.[Symbol.asyncDispose]();
    ca[Symbol.dispose]();
    rmSync(files, { recursive: true });
  });

  const tls = { ca: ca.cert, cert: admin.cert, key: admin.key };

  /** A WebSocket in the channel protocol: each message begins with the number of its stream. */
  async function open(path: string) {
    const dispatcher = new Agent({ connect: tls, allowH2: false });
    const socket = new WebSocket(`wss://127.0.0.1:${server.port}${path}`, { protocols: ['v4.channel.k8s.io'], dispatcher });
    socket.binaryType = 'arraybuffer';
    const streams: Record<number, string> = {};
    let wake = (): void => undefined;
    socket.addEventListener('message', ({ data }) => {
      const bytes = Buffer.from(data as ArrayBuffer);
      streams[bytes[0] ?? 0] = (streams[bytes[0] ?? 0] ?? '') + bytes.subarray(1).toString('latin1');
      wake();
    });
    const closed = new Promise<void>((resolve) => {
      socket.addEventListener('close', () => {
        wake();
        resolve();
      });
    });
    await new Promise<void>((resolve, reject) => {
      socket.addEventListener('open', () => resolve());
      socket.addEventListener('error', ({ error }) => reject(error));
    });
    return {
      streams,
      closed,
      send: (stream: number, text: string) => socket.send(Buffer.concat([Buffer.from([stream]), Buffer.from(text)])),
      async until(done: () => boolean) {
        while (!done() && socket.readyState === WebSocket.OPEN) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
        assert.ok(done(), JSON.stringify(streams));
      },
      close: () => socket.close(),
    };
  }

  const execPath = (...command: string[]): string =>
    `/exec/test/p/c?output=1&error=1&${new URLSearchParams(command.map((c) => ['command', c]))}`;

  test('keelson exec: the end of the input reaches the command, which ends by itself', { timeout: 60_000 }, async () => {
    const exec = async (command: string[], input: Readable, stdin = true): Promise<{ code: number; out: string; err: string }> => {
      const said = { out: '', err: '' };
      const to = (name: 'out' | 'err'): Writable =>
        new Writable({
          write(chunk, _encoding, done) {
            said[name] += chunk;
            done();
          },
        });
      const request = { container_id: container, cmd: command, stdin, stdout: true, stderr: true, tty: false };
      const { url = '' } = await client.exec(request, never);
      const code = await runStream(url, { stdin, tty: false }, { stdin: input, stdout: to('out'), stderr: to('err') }, never);
      return { code, ...said };
    };
    assert.deepEqual(await exec(['cat'], Readable.from([Buffer.from('hi')])), { code: 0, out: 'hi', err: '' });
    assert.deepEqual(await exec(['cat'], Readable.from([])), { code: 0, out: '', err: '' });
    const mebibytes = Array.from({ length: 8 }, () => Buffer.alloc(1024 * 1024, 'x'));
    assert.equal((await exec(['wc', '-c'], Readable.from(mebibytes))).out.trim(), String(8 * 1024 * 1024));
    const echoed = await exec(['sh', '-c', 'cat; echo oops >&2; exit 3'], Readable.from(mebibytes));
    assert.deepEqual([echoed.code, echoed.out.length, echoed.err], [3, 8 * 1024 * 1024, 'oops\n']);
    // Its input is not read, and has no end.
    assert.deepEqual(await exec(['echo', 'done'], new PassThrough()), { code: 0, out: 'done\n', err: '' });
    assert.deepEqual(await exec(['sh', '-c', 'exit 4'], Readable.from([]), false), { code: 4, out: '', err: '' });
  });

  test('exec: output, errors and the exit code', async () => {
    const exec = await open(execPath('sh', '-c', 'echo out; echo err >&2; exit 3'));
    await exec.closed;
    assert.equal(exec.streams[1], 'out\n');
    assert.equal(exec.streams[2], 'err\n');
    const status = JSON.parse(exec.streams[3] ?? '{}');
    assert.deepEqual([status.status, status.reason, status.details.causes[0].message], ['Failure', 'NonZeroExitCode', '3']);
  });

  test('exec: input, and 8 MiB of output', async () => {
    const cat = await open(`${execPath('head', '-c', '5')}&input=1`);
    cat.send(0, 'hello world');
    await cat.closed;
    assert.equal(cat.streams[1], 'hello');
    const big = await open(execPath('sh', '-c', 'head -c 8388608 /dev/zero'));
    await big.closed;
    assert.equal(big.streams[1]?.length, 8 * 1024 * 1024);
  });

  test('port-forward: both ways', async () => {
    const forward = await open('/portForward/test/p?port=7000');
    // Both streams of a port begin with its number.
    await forward.until(() => forward.streams[0]?.length === 2 && forward.streams[1]?.length === 2);
    forward.send(0, 'echo me');
    await forward.until(() => forward.streams[0]?.slice(2) === 'echo me');
    forward.close();
    await forward.closed;
  });

  test('run', async () => {
    const answer = request({
      host: '127.0.0.1',
      port: server.port,
      path: '/run/test/p/c?cmd=hostname',
      method: 'POST',
      agent: false,
      ...tls,
    });
    answer.end();
    const [response] = await once(answer, 'response');
    let text = '';
    for await (const chunk of response) text += String(chunk);
    assert.deepEqual([response.statusCode, text], [200, 'p\n']);
  });

  test('the runtime tells what environment a container was made with', async () => {
    const { info } = await client.containerStatus({ container_id: container, verbose: true }, never);
    const environment = madeEnvironment(info?.info);
    assert.deepEqual([environment?.get('SECRET'), environment?.get('EMPTY'), environment?.get('PATH')], ['a=b "c"', '', undefined]);
  });

  test('what is mounted inside of a read-only mount is there', async () => {
    const cmd = ['sh', '-c', 'cat /data/etc/app.conf /data/conf/app.conf; touch /data/x || echo read-only'];
    const { stdout } = await client.execSync({ container_id: container, cmd, timeout: 5 }, never);
    assert.equal(Buffer.from(stdout ?? []).toString(), 'of the ConfigMap\nof the ConfigMap\nread-only\n');
  });

  test('an exec probe that takes too long fails, and its command is ended', async () => {
    const attempt = (command: string[], timeoutMs: number) =>
      execAttempt(client.execSync.bind(client), container, { command, written: command }, timeoutMs, never);
    assert.deepEqual(await attempt(['true'], 5000), { kind: 'success' });
    const failed = await attempt(['sh', '-c', 'echo bad; exit 1'], 5000);
    assert.deepEqual(failed, { kind: 'failure', message: 'bad\n' });
    const slow = await attempt(['sleep', '4242'], 1000);
    assert.deepEqual(slow, { kind: 'failure', message: 'command timed out: "sleep 4242" timed out after 1s' });
    const left = execFileSync('sh', ['-c', 'pgrep -xf "sleep 4242" || true']).toString();
    assert.equal(left, '');
    assert.equal((await attempt(['/no-such-command'], 5000)).kind, 'error');
  });

  test('logs -f goes on across a rotation and ends with the container', async () => {
    const say = async (): Promise<void> => {
      await client.execSync({ container_id: container, cmd: ['touch', '/say'], timeout: 5 }, never);
    };
    const follow = request({ host: '127.0.0.1', port: server.port, path: '/containerLogs/test/p/c?follow=true', agent: false, ...tls });
    follow.end();
    const [response] = await once(follow, 'response');
    let text = '';
    response.on('data', (chunk: Buffer) => {
      text += String(chunk);
    });
    const ended = once(response, 'end');
    const shows = (wanted: string) => waitFor(`the log to show ${wanted}`, 10_000, () => text.includes(wanted) || undefined, 10);
    await shows('started\n');
    await say();
    await shows('line 1\n');
    // As the agent rotates: rename, then the runtime opens the file anew.
    renameSync(logPath, `${logPath}.20260101-000000`);
    await say();
    await shows('line 2\n');
    await client.reopenContainerLog({ container_id: container }, never);
    assert.ok(existsSync(logPath));
    await say();
    await shows('line 3\n');
    await client.execSync({ container_id: container, cmd: ['touch', '/end'], timeout: 5 }, never);
    await waitFor('the container to end', 10_000, async () => {
      const { status } = await client.containerStatus({ container_id: container }, never);
      return status?.state === 'CONTAINER_EXITED' || undefined;
    });
    running = false;
    for (const listener of listeners) listener();
    await ended;
    assert.equal(text, 'started\nline 1\nline 2\nline 3\nover\n');
  });
}
