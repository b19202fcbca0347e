import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { type ApplyDeps, applyAction, targetOf } from '../../../agent/pods/apply.ts';
import { container, instance, pod, runtimePod } from './build.ts';

test('a container whose log cannot be linked runs all the same, and its postStart hook with it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'start-container-'));
  try {
    // A file where the folder of the links should be.
    writeFileSync(join(folder, 'links'), '');
    const story: string[] = [];
    const deps: Partial<ApplyDeps> = {
      clock: systemClock,
      log: { warn: (_facts: unknown, message?: string) => void story.push(`warn ${message}`) },
      podLogsDir: join(folder, 'logs'),
      containerLogsDir: join(folder, 'links'),
      recordEvent: (_pod, _type, reason) => void story.push(reason),
      sandboxConfig: async () => ({}),
      containerConfig: async () => ({ log_path: 'a/0.log' }),
      containerActuated: () => undefined,
      expandHook: async (_pod, _container, _id, command) => [...command],
      cri: {
        createContainer: async () => ({ container_id: 'a-0' }),
        startContainer: async () => ({}),
        execSync: async ({ cmd }: { cmd: string[] }) => {
          story.push(`exec ${cmd[0]}`);
          return { exit_code: 0 };
        },
      } as unknown as ApplyDeps['cri'],
    };
    const result = await applyAction(
      deps as ApplyDeps,
      pod({ containers: [container('a', { lifecycle: { postStart: { exec: { command: ['hello'] } } } })] }),
      runtimePod(),
      { kind: 'startContainer', container: 'a', containerKind: 'app', attempt: 0, sandboxId: 's0', imageRef: 'r', previousEnd: undefined },
      new AbortController().signal,
    );
    assert.deepEqual(result, { kind: 'made', made: { sandboxId: 's0', containerId: 'a-0' } });
    assert.deepEqual(story, ['Created', 'warn no link to a log', 'Started', 'exec hello']);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a start that fails is told by the container’s name, so that the event of each try is the same', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'start-container-'));
  try {
    const told: string[] = [];
    const deps: Partial<ApplyDeps> = {
      clock: systemClock,
      podLogsDir: join(folder, 'logs'),
      containerLogsDir: join(folder, 'links'),
      recordEvent: (_pod, _type, reason, message) => void told.push(`${reason} ${message}`),
      sandboxConfig: async () => ({}),
      containerConfig: async () => ({ log_path: 'a/0.log' }),
      containerActuated: () => undefined,
      cri: {
        createContainer: async () => ({ container_id: '0123abcd' }),
        startContainer: async () => {
          throw new AgentError('Unknown', 'runc: no cgroup /kubepods/0123abcd for 0123abcd');
        },
      } as unknown as ApplyDeps['cri'],
    };
    await assert.rejects(
      applyAction(
        deps as ApplyDeps,
        pod(),
        runtimePod(),
        {
          kind: 'startContainer',
          container: 'a',
          containerKind: 'app',
          attempt: 0,
          sandboxId: 's0',
          imageRef: 'r',
          previousEnd: undefined,
        },
        new AbortController().signal,
      ),
      (error) =>
        error instanceof AgentError &&
        error.code === 'RunContainerError' &&
        error.message === 'runc: no cgroup /kubepods/0123abcd for 0123abcd',
    );
    assert.deepEqual(told, ['Created Container created', 'Failed Error: runc: no cgroup /kubepods/a for a']);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

const debug = (spec: object) => pod({ ephemeralContainers: [{ name: 'd', image: 'd', targetContainerName: 'a' }], ...spec });
const targets: [name: string, spec: object, state: 'running' | 'exited' | 'gone', id: string | undefined][] = [
  ['one that runs', {}, 'running', 'a-0'],
  ['one that has ended, whose processes it would join', {}, 'exited', undefined],
  ['one that has ended, in a pod that shares its processes', { shareProcessNamespace: true }, 'exited', 'a-0'],
  ['one that has ended, among the node’s processes', { hostPID: true }, 'exited', 'a-0'],
  ['one that never was', { hostPID: true }, 'gone', undefined],
];
for (const [name, spec, state, id] of targets) {
  test(`the target of an ephemeral container: ${name}`, () => {
    const runtime = runtimePod(undefined, state === 'gone' ? [] : [instance('a', { state })]);
    if (id === undefined) assert.throws(() => targetOf(debug(spec), 'd', runtime), /unable to find target container a/);
    else assert.equal(targetOf(debug(spec), 'd', runtime), id);
  });
}

test("an HTTP hook asks the pod's address, and the node's where the pod is on its network", async () => {
  const folder = mkdtempSync(join(tmpdir(), 'start-container-'));
  try {
    for (const [hostNetwork, address] of [
      [false, '10.0.0.7'],
      [true, '192.0.2.1'],
    ] as const) {
      const asked: string[] = [];
      const deps: Partial<ApplyDeps> = {
        clock: systemClock,
        podLogsDir: join(folder, 'logs'),
        containerLogsDir: join(folder, 'links'),
        recordEvent: () => undefined,
        sandboxConfig: async () => ({}),
        containerConfig: async () => ({ log_path: 'a/0.log' }),
        containerActuated: () => undefined,
        hostIp: () => '192.0.2.1',
        httpGet: async (_action, _container, podIp) => void asked.push(podIp),
        cri: { createContainer: async () => ({ container_id: 'a-0' }), startContainer: async () => ({}) } as unknown as ApplyDeps['cri'],
      };
      const lifecycle = { postStart: { httpGet: { port: 80 } } };
      const runtime = runtimePod();
      const sandboxes = runtime.sandboxes.map((each) => ({ ...each, ips: hostNetwork ? [] : ['10.0.0.7'] }));
      await applyAction(
        deps as ApplyDeps,
        pod({ hostNetwork, containers: [container('a', { lifecycle })] }),
        { ...runtime, sandboxes },
        {
          kind: 'startContainer',
          container: 'a',
          containerKind: 'app',
          attempt: 0,
          sandboxId: 's0',
          imageRef: 'r',
          previousEnd: undefined,
        },
        new AbortController().signal,
      );
      assert.deepEqual(asked, [address]);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
