import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { GrpcError } from '../../../agent/drivers/grpc/errors.ts';
import { type ApplyDeps, applyAction } from '../../../agent/pods/apply.ts';
import type { PodLifecycle } from '../../../agent/pods/lifecycle.ts';
import { duplicateNameMessage, hostIpMismatch, killOverdueAt, killPodFailure } from '../../../agent/pods/pod-events.ts';
import { instance, pod, runtimePod, sandbox } from './build.ts';
import { startWorld } from './worker-world.ts';

const nothing = async (): Promise<void> => undefined;
const down = new GrpcError('Unknown', 'the shim is gone');

test('a failed stop is told as kubelet tells the result of its step', () => {
  assert.equal(
    killPodFailure(
      { kind: 'stopContainer', id: 'i', container: 'web', graceSeconds: 1, reason: 'PodEnds', message: undefined, comesBack: false },
      'u1',
      'say "no"',
    ),
    'error killing pod: failed to "KillContainer" for "web" with KillContainerError: "say \\"no\\""',
  );
  assert.equal(
    killPodFailure({ kind: 'stopSandbox', id: 's', reason: 'PodEnds' }, 'u1', down.message),
    'error killing pod: failed to "KillPodSandbox" for "u1" with KillPodSandboxError: "rpc error: code = Unknown desc = the shim is gone"',
  );
  assert.equal(killPodFailure({ kind: 'removeSandbox', id: 's' }, 'u1', 'x'), undefined);
});

test('the node’s own wish to end a pod is overdue after half as long again, and ten seconds at least', () => {
  const ending = (graceSeconds: number, reason = 'Evicted'): PodLifecycle => ({
    kind: 'terminating',
    since: 1000,
    graceSeconds,
    cause: { kind: 'ended', reason, message: '' },
  });
  assert.equal(killOverdueAt(ending(0)), 11_000);
  assert.equal(killOverdueAt(ending(30)), 46_000);
  assert.equal(killOverdueAt(ending(30, 'DeadlineExceeded')), undefined);
  assert.equal(killOverdueAt({ kind: 'terminating', since: 0, graceSeconds: 1, cause: { kind: 'deleted' } }), undefined);
  assert.equal(killOverdueAt({ kind: 'syncing' }), undefined);
});

test('a change of the host address’s family is told, another change is not', () => {
  assert.equal(hostIpMismatch('10.0.0.1', '10.0.0.2'), undefined);
  assert.equal(hostIpMismatch(undefined, '::1'), undefined);
  assert.match(
    hostIpMismatch('10.0.0.1', 'fd00::1') ?? '',
    /^Kubelet detected an IPv4 node IP \(10\.0\.0\.1\), .* IPv6 node IP \(fd00::1\)/,
  );
});

test('a pod whose name is taken is told with both its names', () => {
  assert.equal(
    duplicateNameMessage(pod(), 'file'),
    'Error validating pod web_default(u1) from file due to duplicate pod name "web", ignoring',
  );
});

test('an evicted pod that the runtime does not end in time has an event of it, once', { timeout: 5000 }, async () => {
  let aheadMs = 0;
  const events: string[] = [];
  const told = Promise.withResolvers<void>();
  const stopping = Promise.withResolvers<void>();
  await using at = startWorld({
    wants: [{ pod: pod(), source: 'api' }],
    holds: [runtimePod([sandbox()], [instance('a')])],
    options: { clock: { ...systemClock, mono: () => systemClock.mono() + aheadMs } },
    cri: () => ({
      stopContainer: async (_request, signal) => {
        stopping.resolve();
        const { promise, reject } = Promise.withResolvers<never>();
        signal.addEventListener('abort', () => reject(signal.reason));
        return await promise;
      },
    }),
    apply: () => ({
      ensureCgroup: nothing,
      mountVolumes: nothing,
      recordEvent: (_pod, type, reason, message) => {
        events.push(`${type} ${reason} ${message}`);
        if (reason === 'ExceededGracePeriod') told.resolve();
      },
    }),
  });
  at.endings.set('u1', { reason: 'Evicted', message: 'no memory', graceSeconds: 0 });
  await stopping.promise;
  aheadMs = 11_000;
  at.pods.poke('u1');
  await told.promise;
  at.pods.poke('u1');
  assert.deepEqual(
    events.filter((event) => !event.includes('Killing')),
    ['Warning ExceededGracePeriod Container runtime did not kill the pod within specified grace period.'],
  );
});

test('a runtime that cannot tell of a new sandbox has an event on the pod', { timeout: 5000 }, async () => {
  const told = Promise.withResolvers<string>();
  await using _at = startWorld({
    wants: [{ pod: pod(), source: 'api' }],
    options: {
      observe: async () => {
        throw down;
      },
    },
    cri: () => ({ runPodSandbox: async () => ({ pod_sandbox_id: 's0' }) }),
    apply: () => ({
      ensureCgroup: nothing,
      mountVolumes: nothing,
      sandboxConfig: async () => ({}),
      runtimeHandler: async () => '',
      recordEvent: (_pod, type, reason, message) => {
        if (reason === 'FailedPodSandBoxStatus') told.resolve(`${type} ${message}`);
      },
    }),
  });
  assert.equal(await told.promise, 'Warning Unable to get pod sandbox status: rpc error: code = Unknown desc = the shim is gone');
});

test('what cannot be cleaned up is told on the Node', { timeout: 5000 }, async () => {
  const told = Promise.withResolvers<string>();
  await using _at = startWorld({
    options: {
      leftovers: async () => {
        throw down;
      },
      nodeEvent: (type, reason, message) => told.resolve(`${type} ${reason} ${message}`),
    },
  });
  assert.equal(await told.promise, 'Warning ContainerGCFailed rpc error: code = Unknown desc = the shim is gone');
});

test('a sandbox’s failure is told with the code of its call, a container’s in the runtime’s words alone', async () => {
  const events: string[] = [];
  const fails = async (): Promise<never> => {
    throw down;
  };
  const deps: Partial<ApplyDeps> = {
    clock: systemClock,
    podLogsDir: '/nowhere',
    recordEvent: (_pod, _type, reason, message) => void events.push(`${reason} ${message}`),
    sandboxConfig: async () => ({}),
    runtimeHandler: async () => '',
    containerConfig: fails,
    cri: { runPodSandbox: fails } as unknown as ApplyDeps['cri'],
  };
  const { signal } = new AbortController();
  await assert.rejects(applyAction(deps as ApplyDeps, pod(), runtimePod([]), { kind: 'createSandbox', attempt: 0 }, signal), down);
  await assert.rejects(
    applyAction(
      deps as ApplyDeps,
      pod(),
      runtimePod(),
      { kind: 'startContainer', container: 'a', containerKind: 'app', attempt: 0, sandboxId: 's0', imageRef: 'r', previousEnd: undefined },
      signal,
    ),
    (error) => error instanceof AgentError && error.code === 'CreateContainerConfigError' && error.message === 'the shim is gone',
  );
  assert.deepEqual(events, [
    'FailedCreatePodSandBox Failed to create pod sandbox: rpc error: code = Unknown desc = the shim is gone',
    'Failed Error: the shim is gone',
  ]);
});
