// The CRI client on real containerds, each in a network namespace and folders of its own.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { AgentError, hasCode } from '../../agent/base/errors.ts';
import type { CriClient } from '../../agent/drivers/cri/client.ts';
import type { ContainerConfig, PodSandboxConfig } from '../../cri-protos/generated/cri.ts';
import type { RuntimeKind } from '../testbed/runtimes.ts';
import { waitFor } from '../testbed/wait.ts';
import { type PrivateRuntime, startPrivateRuntime } from './private-runtime.ts';

const never = new AbortController().signal;
const kinds: RuntimeKind[] = ['containerd-2', 'containerd-1.6'];

for (const kind of kinds) {
  describe(`CRI on ${kind}`, () => {
    let bed: PrivateRuntime;
    let client: CriClient;
    let busybox: string;

    before(async () => {
      bed = await startPrivateRuntime(kind, 'cri', ['busybox', 'pause']);
      client = bed.client;
      const { images } = await client.listImages({}, never);
      busybox = images?.flatMap((image) => image.repo_tags ?? []).find((tag) => tag.includes('busybox')) ?? '';
      assert.notEqual(busybox, '');
    });

    after(async () => {
      await bed?.[Symbol.asyncDispose]();
    });

    const sandboxConfig = (name: string): PodSandboxConfig => ({
      metadata: { name, namespace: 'test', uid: `uid-${name}`, attempt: 0 },
      hostname: name,
      log_directory: join(bed.folder, 'logs', name),
      labels: { app: name },
      linux: { cgroup_parent: `/${bed.id}`, security_context: { namespace_options: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } } },
    });
    const containerConfig = (script: string): ContainerConfig => ({
      metadata: { name: 'main', attempt: 0 },
      image: { image: busybox },
      command: ['sh', '-c', script],
      envs: [{ key: 'GREETING', value: 'hello' }],
      log_path: 'main.log',
      labels: { role: 'main' },
      linux: { resources: { cpu_shares: 2, oom_score_adj: 1000 }, security_context: { run_as_user: { value: 0 } } },
    });

    test('version, status and images are typed as the contract says', async () => {
      const version = await client.version({}, never);
      assert.equal(version.runtime_name, 'containerd');
      assert.equal(version.runtime_version?.replace(/^v/, '').startsWith(bed.runtime.version.slice(0, 3)), true);
      const { status } = await client.status({}, never);
      assert.deepEqual(
        status?.conditions?.filter((c) => c.type === 'RuntimeReady').map((c) => c.status),
        [true],
      );
      const absent = await client.imageStatus({ image: { image: 'docker.io/library/nothing:1' } }, never);
      assert.equal(absent.image, undefined);
      const present = await client.imageStatus({ image: { image: busybox } }, never);
      assert.ok(present.image !== undefined && (present.image.size ?? 0) > 1000 && present.image.id?.startsWith('sha256:'));
    });

    test('a pod lives and dies; errors have their codes', async () => {
      const config = sandboxConfig('life');
      const seen: string[] = [];
      const watching = new AbortController();
      const events = (async () => {
        for await (const event of client.containerEvents(watching.signal)) seen.push(`${event.container_id} ${event.container_event_type}`);
      })();
      const eventsEnded = events.then(
        () => undefined,
        (error: unknown) => error,
      );

      const { pod_sandbox_id } = await client.runPodSandbox({ config }, never);
      const sandbox = await client.podSandboxStatus({ pod_sandbox_id }, never);
      assert.equal(sandbox.status?.state, 'SANDBOX_READY');
      assert.match(sandbox.status?.network?.ip ?? '', /^10\.99\.0\./);

      const { container_id } = await client.createContainer(
        {
          pod_sandbox_id,
          config: containerConfig('echo $GREETING; trap "exit 3" TERM; while :; do sleep 0.1; done'),
          sandbox_config: config,
        },
        never,
      );
      const created = await client.containerStatus({ container_id }, never);
      assert.equal(created.status?.state, 'CONTAINER_CREATED');
      assert.equal(created.status?.started_at, 0);
      await client.startContainer({ container_id }, never);

      const exec = await client.execSync({ container_id, cmd: ['sh', '-c', 'echo out; echo err >&2; exit 7'], timeout: 10 }, never);
      assert.deepEqual(
        [Buffer.from(exec.stdout ?? []).toString(), Buffer.from(exec.stderr ?? []).toString(), exec.exit_code],
        ['out\n', 'err\n', 7],
      );
      await assert.rejects(client.execSync({ container_id, cmd: ['sleep', '10'], timeout: 1 }, never), { code: 'DeadlineExceeded' });

      const { stats } = await client.containerStats({ container_id }, never);
      assert.ok((stats?.cpu?.usage_core_nano_seconds?.value ?? 0) > 0);
      const streaming = await client.exec({ container_id, cmd: ['true'], stdout: true }, never);
      assert.match(streaming.url ?? '', /^http:\/\//);

      const list = await client.listContainers(
        { filter: { label_selector: { role: 'main' }, state: { state: 'CONTAINER_RUNNING' } } },
        never,
      );
      assert.deepEqual(
        list.containers?.map((c) => [c.id, c.pod_sandbox_id, c.labels?.role]),
        [[container_id, pod_sandbox_id, 'main']],
      );

      await client.stopContainer({ container_id, timeout: 10 }, never);
      const stopped = await client.containerStatus({ container_id }, never);
      assert.deepEqual([stopped.status?.state, stopped.status?.exit_code], ['CONTAINER_EXITED', 3]);
      assert.ok((stopped.status?.finished_at ?? 0) > (stopped.status?.started_at ?? 0));

      await assert.rejects(client.containerStatus({ container_id: 'no-such-container' }, never), (error) => {
        assert.ok(error instanceof AgentError && error.code === 'NotFound');
        assert.match(error.message, /^rpc error: code = NotFound desc = /);
        return true;
      });
      await client.removeContainer({ container_id }, never);
      await client.removeContainer({ container_id: 'no-such-container' }, never);
      await client.stopPodSandbox({ pod_sandbox_id }, never);
      await client.removePodSandbox({ pod_sandbox_id }, never);

      if (kind === 'containerd-2') {
        const last = `${container_id} CONTAINER_DELETED_EVENT`;
        await waitFor(last, 10_000, () => (seen.includes(last) ? true : undefined), 10);
        for (const type of ['CREATED', 'STARTED', 'STOPPED']) assert.ok(seen.includes(`${container_id} CONTAINER_${type}_EVENT`), type);
        watching.abort(new Error('enough'));
        assert.ok(hasCode(await eventsEnded, 'Canceled'));
      } else assert.ok(hasCode(await eventsEnded, 'Unimplemented'));
    });

    test('a restart of containerd breaks the event stream, and calls work again at once after', async () => {
      const eventsEnded = (async () => {
        for await (const _ of client.containerEvents(never));
      })().then(
        () => undefined,
        (error: unknown) => error,
      );
      await client.version({}, never);
      await bed.stop();
      if (kind === 'containerd-2')
        assert.ok(hasCode(await eventsEnded, 'Unavailable', 'Canceled', 'Unknown') || (await eventsEnded) === undefined);
      await assert.rejects(client.version({}, never), { code: 'Unavailable' });
      await bed.start();
      await waitFor(
        'containerd to answer again',
        1500,
        async () => {
          try {
            return await client.version({}, never);
          } catch (error) {
            if (hasCode(error, 'Unavailable')) return undefined;
            throw error;
          }
        },
        20,
      );
    });

    test('a pull from nowhere is an error in the words of the runtime', async () => {
      await assert.rejects(client.pullImage({ image: { image: '127.0.0.1:9/nothing:1' } }, never), (error) => {
        assert.ok(error instanceof AgentError && 'details' in error);
        assert.match(String(error.details), /failed to pull|connection refused|dial/);
        return true;
      });
    });
  });
}
