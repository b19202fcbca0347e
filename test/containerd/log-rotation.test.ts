// Log rotation on real containerds: a container that writes all the time loses no line.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { Table } from '../../agent/base/table.ts';
import * as logFiles from '../../agent/drivers/logs/files.ts';
import { readContainerLog } from '../../agent/drivers/logs/read.ts';
import { startLogRotation } from '../../agent/logs/worker.ts';
import type { RuntimeKind } from '../testbed/runtimes.ts';
import { waitFor } from '../testbed/wait.ts';
import { startPrivateRuntime } from './private-runtime.ts';

const never = new AbortController().signal;
const kinds: RuntimeKind[] = ['containerd-2', 'containerd-1.6'];

for (const kind of kinds)
  test(`logs rotate on ${kind}`, async () => {
    await using bed = await startPrivateRuntime(kind, 'rotate', ['busybox', 'pause']);
    const { client } = bed;
    const folder = join(bed.folder, 'logs');
    mkdirSync(folder);
    const { images } = await client.listImages({}, never);
    const image = images?.flatMap((i) => i.repo_tags ?? []).find((tag) => tag.includes('busybox')) ?? '';
    const sandboxConfig = {
      metadata: { name: 'p', namespace: 'test', uid: 'uid-p', attempt: 0 },
      log_directory: folder,
      linux: {
        cgroup_parent: `/${bed.id}`,
        security_context: { namespace_options: { network: 'POD' as const, pid: 'CONTAINER' as const, ipc: 'POD' as const } },
      },
    };
    const { pod_sandbox_id: sandbox = '' } = await client.runPodSandbox({ config: sandboxConfig }, never);
    const { container_id: id = '' } = await client.createContainer(
      {
        pod_sandbox_id: sandbox,
        sandbox_config: sandboxConfig,
        config: {
          metadata: { name: 'main', attempt: 0 },
          image: { image },
          command: [
            '/bin/sh',
            '-c',
            'trap "exit 0" TERM; i=0; while [ ! -e /stop ]; do echo "line $i"; i=$((i+1)); sleep 0.002; done; echo end',
          ],
          log_path: '0.log',
        },
      },
      never,
    );
    await client.startContainer({ container_id: id }, never);
    const logPath = join(folder, '0.log');

    const runtime = new Table<{
      namespace: string;
      name: string;
      containers: { id: string; name: string; state: string; logPath: string }[];
    }>('runtime');
    const row = (state: string) => ({ namespace: 'test', name: 'p', containers: [{ id, name: 'main', state, logPath }] });
    runtime.set('uid-p', row('running'));
    await using rotation = startLogRotation({
      clock: systemClock,
      log: silentLog,
      signal: never,
      runtime,
      files: logFiles,
      reopen: (container, signal) => client.reopenContainerLog({ container_id: container }, signal),
      maxSizeBytes: 5000,
      maxFiles: 20,
      workers: 1,
      // A rotated file's name has a resolution of a second.
      intervalMs: 1100,
    });

    // A reader that follows sees every line once, across the rotations.
    let followed = '';
    const following = (async () => {
      const chunks = readContainerLog(
        logPath,
        {
          follow: {
            running: () => runtime.get('uid-p')?.containers[0]?.state === 'running',
            onChange: (listener) => runtime.subscribe(listener),
          },
        },
        { clock: systemClock, log: silentLog },
        never,
      );
      for await (const chunk of chunks) followed += chunk.toString('utf8');
    })();
    const archives = (): string[] => readdirSync(folder).filter((name) => name.endsWith('.gz'));
    await waitFor('three archives', 20_000, () => (archives().length >= 3 ? true : undefined));

    await client.execSync({ container_id: id, cmd: ['touch', '/stop'], timeout: 5 }, never);
    await waitFor('the end', 20_000, async () => {
      const { status } = await client.containerStatus({ container_id: id }, never);
      return status?.state === 'CONTAINER_EXITED' ? true : undefined;
    });
    runtime.set('uid-p', row('exited'));
    await following;
    await rotation[Symbol.asyncDispose]();

    const names = readdirSync(folder).sort();
    assert.equal(names.filter((name) => name.endsWith('.tmp')).length, 0, names.join());
    assert.equal(names.filter((name) => name.startsWith('0.log.') && !name.endsWith('.gz')).length, 1, names.join());
    // Oldest first, the present log last.
    const ordered = [...names.filter((name) => name !== '0.log'), '0.log'];
    const text = ordered
      .map((name) => readFileSync(join(folder, name)))
      .map((bytes, i) => (ordered[i]?.endsWith('.gz') === true ? gunzipSync(bytes) : bytes).toString('utf8'))
      .join('');
    const lines = text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => line.split(' ').slice(3).join(' '));
    assert.equal(lines.at(-1), 'end');
    assert.deepEqual(
      lines.slice(0, -1),
      Array.from({ length: lines.length - 1 }, (_, i) => `line ${i}`),
    );
    assert.equal(followed, `${lines.join('\n')}\n`);
  });
