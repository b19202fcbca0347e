import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Container, PodStatus } from '../../../agent/model/generated/api.ts';
import { type AgentPod, containersOf, isSidecar, isTerminalPhase } from '../../../agent/model/pod.ts';
import { type Ending, nextLifecycle, type PodLifecycle } from '../../../agent/pods/lifecycle.ts';
import { hasInitialized, latestContainer, lostEnd, type RuntimeContainer, type RuntimePod } from '../../../agent/pods/observed.ts';
import { planPod } from '../../../agent/pods/plan.ts';
import { isCleanedUp } from '../../../agent/pods/plan-termination.ts';
import { actionKey, type PodAction } from '../../../agent/pods/pod-action.ts';
import { advanceBackoff, backoffKey, shouldRestart, shouldStart } from '../../../agent/pods/restart.ts';
import { couldRestartAll, isRestartingAll } from '../../../agent/pods/restart-all.ts';
import { assemblePod } from '../../../agent/pods/runtime-parse.ts';
import { computeStatus } from '../../../agent/pods/status.ts';
import { forgetGone, freshWork, type MutableWork, noteFailure, noteSuccess, touchesRuntime } from '../../../agent/pods/work.ts';
import { container, instance, pod, runtimePod, sandbox, now as start } from './build.ts';

// The loop of worker.ts without its I/O, against a runtime that takes its time, fails, forgets and lies, with agents that are killed in the middle of
// everything. What happens is dealt by fast-check; then it grows quiet, and all has to come right.

type Outcome = 'done' | 'failed' | 'done, told as failed';
type Happening =
  | { readonly kind: 'finish'; readonly which: number; readonly outcome: Outcome }
  | { readonly kind: 'exit'; readonly which: number; readonly code: number }
  | { readonly kind: 'unknown' | 'lose' | 'probe'; readonly which: number }
  | { readonly kind: 'time'; readonly ms: number }
  | { readonly kind: 'sandboxDies' | 'relist' | 'api' }
  /** The agent is killed; what was under way took effect, or none of it did. */
  | { readonly kind: 'restart'; readonly tookEffect: boolean }
  | { readonly kind: 'evict' | 'delete'; readonly graceSeconds: number };

const which = fc.nat(5);
const happening: fc.Arbitrary<Happening> = fc.oneof(
  {
    weight: 14,
    arbitrary: fc.record({
      kind: fc.constant('finish' as const),
      which,
      outcome: fc.constantFrom<Outcome>('done', 'done', 'done', 'done', 'failed', 'done, told as failed'),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('exit' as const), which, code: fc.constantFrom(0, 1, 42) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('time' as const), ms: fc.constantFrom(500, 15_000, 400_000) }) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constantFrom('relist' as const, 'relist' as const, 'api' as const, 'api' as const, 'sandboxDies' as const),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('unknown' as const, 'lose' as const, 'probe' as const), which }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const), tookEffect: fc.boolean() }) },
);
const ending: fc.Arbitrary<Happening> = fc.record({
  kind: fc.constantFrom('evict' as const, 'delete' as const),
  graceSeconds: fc.constantFrom(0, 5, 600),
});

interface Shape {
  readonly restartPolicy: string;
  readonly inits: readonly { readonly sidecar: boolean; readonly hook: boolean }[];
  readonly apps: readonly { readonly hook: boolean; readonly policy: string | undefined }[];
  /** The first app container's exit code 42 restarts all. */
  readonly restartAll: boolean;
}
const shape: fc.Arbitrary<Shape> = fc.record({
  restartPolicy: fc.constantFrom('Always', 'OnFailure', 'Never'),
  inits: fc.array(fc.record({ sidecar: fc.boolean(), hook: fc.boolean() }), { maxLength: 3 }),
  apps: fc.array(fc.record({ hook: fc.boolean(), policy: fc.constantFrom(undefined, 'Never', 'Always') }), { minLength: 1, maxLength: 3 }),
  restartAll: fc.boolean(),
});

/** What the runtime holds before the agent looks for the first time: sandboxes by attempt, containers of any state in any of them. */
interface Found {
  readonly sandboxes: readonly boolean[];
  readonly containers: readonly {
    readonly name: number;
    readonly sandbox: number;
    readonly state: RuntimeContainer['state'];
    readonly exitCode: number;
  }[];
}
const found: fc.Arbitrary<Found> = fc.record({
  sandboxes: fc.array(fc.boolean(), { maxLength: 3 }),
  containers: fc.array(
    fc.record({
      name: which,
      sandbox: fc.nat(2),
      state: fc.constantFrom<RuntimeContainer['state']>('created', 'running', 'exited', 'unknown'),
      exitCode: fc.constantFrom(0, 1),
    }),
    { maxLength: 6 },
  ),
});

function podOf({ restartPolicy, inits, apps, restartAll }: Shape): AgentPod {
  const hooked = (hook: boolean): Partial<Container> => (hook ? { lifecycle: { preStop: { exec: { command: ['x'] } } } } : {});
  const rules: Partial<Container> = {
    restartPolicy,
    restartPolicyRules: [{ action: 'RestartAllContainers', exitCodes: { operator: 'In', values: [42] } }],
  };
  return pod({
    restartPolicy,
    initContainers: inits.map(({ sidecar, hook }, i) =>
      container(`i${i}`, { ...hooked(hook), ...(sidecar ? { restartPolicy: 'Always' } : {}) }),
    ),
    containers: apps.map(({ hook, policy }, i) =>
      container(`a${i}`, {
        ...hooked(hook),
        ...(policy === undefined ? {} : { restartPolicy: policy }),
        ...(restartAll && i === 0 ? rules : {}),
      }),
    ),
  });
}

interface Step {
  readonly action: PodAction;
  /** Given up by the agent: its end changes nothing that the agent knows of its own doing. */
  canceled: boolean;
}

class World {
  /** As the API shows it. */
  pod: AgentPod;
  inSource = true;
  ending: Ending | undefined;
  truth: RuntimePod;
  /** What the agent has seen of the truth. */
  seen: RuntimePod;
  lifecycle: PodLifecycle = { kind: 'syncing' };
  work: MutableWork = freshWork();
  failureCounts = new Map<string, number>();
  published: PodStatus | undefined;
  pending: Step[] = [];
  failedProbes = new Set<string>();
  wall = start.wall;
  mono = start.mono;
  serial = 0;
  phases: string[] = [];
  /** Somebody outside has taken away what a pod that runs is made of: only then may it be seen as Pending again. */
  setBack = false;
  /** App containers that were told to run or to have ended. */
  readonly told = new Set<string>();
  /** Purged: the worker knows it no more. */
  forgotten = false;
  /** The pod's end has begun, at any time, under any agent. */
  hasBegunToEnd = false;

  constructor(shaped: Shape, before: Found) {
    this.pod = podOf(shaped);
    const names = containersOf(this.pod).map((c) => c.container.name);
    const sandboxes = before.sandboxes.map((ready, attempt) => sandbox({ id: `s${attempt}`, attempt, ready }));
    // Later instances lie in later sandboxes.
    const inOrder = before.containers.toSorted((a, b) => a.sandbox - b.sandbox);
    const containers = inOrder.flatMap(({ name, sandbox: at, state, exitCode }, restartCount) => {
      const called = names[name];
      // What was made and not started was removed before the next was made.
      if (state === 'created' && inOrder.slice(restartCount + 1).some((later) => later.name === name)) return [];
      if (called === undefined || at >= sandboxes.length) return [];
      return [instance(called, { id: `old${restartCount}`, sandboxId: `s${at}`, state, exitCode, restartCount })];
    });
    this.truth = assemblePod(runtimePod(), sandboxes, containers);
    this.seen = this.truth;
  }

  change(id: string, more: Partial<RuntimeContainer>): void {
    this.truth = { ...this.truth, containers: this.truth.containers.map((c) => (c.id === id ? { ...c, ...more } : c)) };
  }

  keep(sandboxes: RuntimePod['sandboxes'], containers: RuntimePod['containers']): void {
    this.truth = assemblePod(this.truth, sandboxes, containers);
  }

  /** What the action does in the runtime. Throws where a runtime would refuse. */
  effect({ action }: Step): void {
    const { truth } = this;
    switch (action.kind) {
      case 'createSandbox':
        assert.ok(!truth.sandboxes.some((s) => s.attempt === action.attempt), 'failed to reserve the name of a sandbox');
        assert.ok(!truth.sandboxes.some((s) => s.ready), 'two sandboxes at once');
        this.keep(
          [...truth.sandboxes, sandbox({ id: `n${++this.serial}`, attempt: action.attempt, createdAt: this.wall })],
          truth.containers,
        );
        return;
      case 'stopSandbox':
        this.keep(
          truth.sandboxes.map((s) => (s.id === action.id ? { ...s, ready: false } : s)),
          truth.containers.map((c) => (c.sandboxId === action.id && c.state === 'running' ? this.ended(c, 137) : c)),
        );
        return;
      case 'removeSandbox':
        assert.ok(!truth.containers.some((c) => c.sandboxId === action.id && c.state === 'running'), 'a sandbox in use is removed');
        this.keep(
          truth.sandboxes.filter((s) => s.id !== action.id),
          truth.containers.filter((c) => c.sandboxId !== action.id),
        );
        return;
      case 'startContainer':
        this.startEffect(action);
        return;
      case 'stopContainer':
        for (const c of truth.containers) if (c.id === action.id && c.state !== 'exited') this.change(c.id, this.ended(c, 137));
        return;
      case 'resetContainer':
      case 'removeContainer': {
        const target = truth.containers.find((c) => c.id === action.id);
        assert.ok(action.kind === 'resetContainer' || target?.state !== 'running', `${target?.name} is removed while it runs`);
        this.keep(
          truth.sandboxes,
          truth.containers.filter((c) => c !== target),
        );
        return;
      }
      case 'purge':
        assert.ok(!truth.containers.some((c) => c.state === 'running'), 'what runs is purged');
        this.keep([], []);
        return;
      default:
        return;
    }
  }

  ended(c: RuntimeContainer, exitCode: number): RuntimeContainer {
    return { ...c, state: 'exited', exitCode, finishedAt: this.wall };
  }

  startEffect(action: PodAction & { kind: 'startContainer' }): void {
    const { truth } = this;
    const mine = truth.containers.filter((c) => c.name === action.container);
    if (!truth.sandboxes.some((s) => s.id === action.sandboxId && s.ready)) throw new Error('the sandbox is gone');
    assert.ok(!mine.some((c) => c.restartCount === action.attempt), `failed to reserve the name of ${action.container}`);
    assert.ok(!mine.some((c) => c.state === 'running' || c.state === 'unknown'), `${action.container} would run twice`);
    const made = instance(action.container, {
      id: `n${++this.serial}`,
      sandboxId: action.sandboxId,
      restartCount: action.attempt,
      createdAt: this.wall,
      startedAt: this.wall,
    });
    this.keep(truth.sandboxes, [made, ...truth.containers]);
  }

  runsOnce(c: Container): boolean {
    return (c.restartPolicy ?? this.pod.spec.restartPolicy) === 'Never' && !couldRestartAll(this.pod.spec);
  }

  /** What may be started, judged by what the agent has seen. */
  judgeStart(action: PodAction & { kind: 'startContainer' }): void {
    const { pod: p, seen } = this;
    assert.equal(this.lifecycle.kind, 'syncing', `${action.container} is started in a pod that ends`);
    assert.ok(!this.hasBegunToEnd, `${action.container} is started after the pod had begun to end`);
    assert.ok(!isTerminalPhase(this.published?.phase), `${action.container} is started in a pod that has ended`);
    const spec = containersOf(p).find(({ container: c }) => c.name === action.container);
    const latest = latestContainer(seen, action.container);
    if (spec !== undefined && !isSidecar(spec.container) && latest?.sandboxId === action.sandboxId) {
      const marked = latest.state === 'exited' && this.work.comeBack.has(latest.id) ? { ...latest, comesBack: true } : latest;
      assert.ok(shouldStart(spec.container, p.spec, marked), `${action.container} is restarted against its policy`);
    }
    if (action.containerKind === 'app' && spec !== undefined && this.runsOnce(spec.container))
      assert.ok(!this.told.has(action.container), `${action.container} is run a second time, though it is to run once`);
    if (action.containerKind !== 'app' || hasInitialized(p, seen)) return;
    const inits = p.spec.initContainers ?? [];
    const instances = (name: string) => seen.containers.filter((c) => c.name === name && c.sandboxId === action.sandboxId);
    const reached = inits.findLastIndex((c) => !isSidecar(c) && instances(c.name).length > 0);
    for (const [at, init] of inits.entries()) {
      const newest = instances(init.name)[0];
      if (isSidecar(init)) assert.equal(newest?.state, 'running', `${action.container} is started before sidecar ${init.name}`);
      else
        assert.ok(
          at < reached || (newest?.state === 'exited' && newest.exitCode === 0),
          `${action.container} is started before ${init.name}`,
        );
    }
  }

  /** One run of the loop. */
  step(): readonly PodAction[] {
    const now = { wall: this.wall, mono: this.mono };
    forgetGone(this.work, this.failureCounts, this.seen);
    const observed: RuntimePod = {
      ...this.seen,
      containers: this.seen.containers.map((c) =>
        c.state === 'exited' && this.work.comeBack.has(c.id) && latestContainer(this.seen, c.name) === c ? { ...c, comesBack: true } : c,
      ),
    };
    const published = this.published ?? this.pod.status ?? {};
    const told: AgentPod = { ...this.pod, status: { ...published, phase: this.pod.status?.phase } };
    for (;;) {
      const before = this.lifecycle;
      this.lifecycle = nextLifecycle({
        pod: told,
        inSource: this.inSource,
        ending: this.ending,
        lifecycle: before,
        runtime: observed,
        published: [...(published.containerStatuses ?? []), ...(published.initContainerStatuses ?? [])],
        busy: [...this.work.inFlight.keys()].some((key) => /^(start:|stop:|createSandbox)/.test(key)),
        restartingAll:
          isRestartingAll(this.pod, observed) ||
          published.conditions?.some((c) => c.type === 'AllContainersRestarting' && c.status === 'True') === true,
        now,
      });
      if (before.kind === 'terminated') assert.equal(this.lifecycle, before, 'a pod that has ended lives again');
      if (before.kind === this.lifecycle.kind) break;
      if (this.lifecycle.kind === 'terminating') {
        this.hasBegunToEnd = true;
        for (const one of this.pending)
          if (/^(pull:|start:|createSandbox|volumes|prepare|resizePod)/.test(actionKey(one.action))) one.canceled = true;
        this.work.sandboxFailure = undefined;
        this.work.mountFailure = undefined;
        this.work.prepareFailure = undefined;
      } else assert.ok(!observed.containers.some((c) => c.state === 'running'), 'a pod has ended while it runs');
    }
    const plan = planPod({
      pod: told,
      inSource: this.inSource,
      lifecycle: this.lifecycle,
      runtime: observed,
      work: this.work,
      verdicts: (id) => (this.failedProbes.has(id) ? { liveness: false } : {}),
      networkProblem: undefined,
      now,
    });
    for (const action of plan.actions) this.launch(action);
    this.publish(observed, published);
    return plan.actions;
  }

  launch(action: PodAction): void {
    const key = actionKey(action);
    if (action.kind === 'startContainer') this.judgeStart(action);
    this.pending = this.pending.filter((p) => actionKey(p.action) !== key);
    this.pending.push({ action, canceled: false });
    this.work.inFlight.set(key, action.kind === 'stopContainer' ? this.mono + action.graceSeconds * 1000 : Number.POSITIVE_INFINITY);
    if (action.kind === 'stopContainer' && action.comesBack) this.work.comeBack.add(action.id);
    if ((action.kind === 'stopContainer' || action.kind === 'preStop') && !this.work.stopSince.has(action.id))
      this.work.stopSince.set(action.id, this.mono);
    if (action.kind === 'mountVolumes') this.work.mountingSince ??= this.mono;
    if (action.kind === 'startContainer' && action.previousEnd !== undefined) {
      const spec = containersOf(this.pod).find((c) => c.container.name === action.container);
      const hash = spec === undefined ? '' : backoffKey(spec.container);
      const policy = { initialMs: 10_000, maxMs: 300_000 };
      this.work.crashes.set(
        action.container,
        advanceBackoff(policy, this.work.crashes.get(action.container), hash, action.previousEnd, this.wall),
      );
    }
  }

  finish(one: Step, outcome: Outcome): void {
    const { action } = one;
    this.pending = this.pending.filter((p) => p !== one);
    let failure = outcome !== 'done';
    if (outcome !== 'failed') {
      try {
        this.effect(one);
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        failure = true;
      }
    }
    if (touchesRuntime(action)) this.seen = this.truth;
    this.work.inFlight.delete(actionKey(action));
    if (!failure) noteSuccess(this.work, action, action.kind === 'pullImage' ? { kind: 'image', imageRef: 'r' } : { kind: 'done' });
    else if (!one.canceled) noteFailure(this.work, action, { reason: 'Unknown', message: 'no', retryAt: this.mono + 500 });
    if (action.kind === 'purge' && !failure) this.forgotten = true;
    if (action.kind === 'prepare' && !failure) this.work.podSize = { cpuRequest: 0, cpuLimit: 0, memoryLimit: 0 };
  }

  publish(observed: RuntimePod, previous: PodStatus): void {
    const status = computeStatus({
      pod: this.pod,
      previous,
      runtime: observed,
      runtimeName: 'containerd',
      lifecycle: this.lifecycle,
      volumesMounted: this.work.mounted,
      waiting: this.work.failures,
      starting: new Set(),
      verdicts: () => ({}),
      recursiveReadOnly: () => false,
      hostIps: ['192.0.2.1'],
      now: this.wall,
    });
    const [last = '', phase = ''] = [previous.phase, status.phase];
    if (isTerminalPhase(last)) assert.equal(phase, last, 'a terminal phase changed');
    if (last === 'Running' && phase === 'Pending')
      assert.ok(this.setBack, 'a pod that ran is Pending again, though nothing was taken away from it');
    if (isTerminalPhase(phase)) {
      assert.equal(this.lifecycle.kind, 'terminated', `${phase} is told before the end`);
      assert.ok(!observed.containers.some((c) => c.state === 'running'), `${phase} is told while containers run`);
    }
    for (const { name, state } of status.containerStatuses ?? [])
      if (state?.running !== undefined || state?.terminated !== undefined) this.told.add(name);
    this.phases.push(phase);
    this.published = status;
  }

  happen(event: Happening): void {
    const pick = <T>(from: readonly T[], n: number): T | undefined => from[n % Math.max(1, from.length)];
    const running = this.truth.containers.filter((c) => c.state === 'running');
    switch (event.kind) {
      case 'finish': {
        const one = pick(this.pending, event.which);
        if (one !== undefined) this.finish(one, event.outcome);
        return;
      }
      case 'exit': {
        const one = pick(running, event.which);
        if (one === undefined) return;
        if (event.code === 42) this.setBack = true;
        this.change(one.id, this.ended(one, event.code));
        return;
      }
      case 'unknown': {
        const one = pick(running, event.which);
        this.setBack = true;
        if (one !== undefined) this.change(one.id, { state: 'unknown' });
        return;
      }
      case 'lose': {
        const one = pick(this.truth.containers, event.which);
        this.setBack = true;
        this.keep(
          this.truth.sandboxes,
          this.truth.containers.filter((c) => c !== one),
        );
        return;
      }
      case 'sandboxDies':
        this.setBack = true;
        this.keep(
          this.truth.sandboxes.map((s) => ({ ...s, ready: false })),
          this.truth.containers,
        );
        return;
      case 'probe': {
        const one = pick(running, event.which);
        if (one !== undefined) this.failedProbes.add(one.id);
        return;
      }
      case 'time':
        this.wall += event.ms;
        this.mono += event.ms;
        return;
      case 'relist':
        this.seen = this.truth;
        return;
      case 'api':
        this.pod = { ...this.pod, status: this.published };
        return;
      case 'restart':
        for (const one of this.pending) {
          try {
            if (event.tookEffect) this.effect(one);
          } catch (error) {
            if (error instanceof assert.AssertionError) throw error;
          }
        }
        // What the dead agent had told survives it, as does what it was asked.
        this.pod = { ...this.pod, status: this.published };
        this.published = undefined;
        this.pending = [];
        this.work = freshWork();
        this.failureCounts = new Map();
        this.lifecycle = { kind: 'syncing' };
        this.hasBegunToEnd = false;
        this.seen = this.truth;
        return;
      case 'evict':
        this.ending = { reason: 'Evicted', message: 'm', graceSeconds: event.graceSeconds };
        return;
      case 'delete': {
        const deletionTimestamp = '2027-01-01T00:00:00Z';
        this.pod = { ...this.pod, metadata: { ...this.pod.metadata, deletionTimestamp, deletionGracePeriodSeconds: event.graceSeconds } };
        return;
      }
    }
  }

  /** Nothing fails any more and everything is seen: runs until nothing is left to do but to wait for more than a back-off. */
  settle(): void {
    this.failedProbes.clear();
    for (let round = 0, quiet = 0; round < 1000 && quiet < 20; round++, quiet++) {
      if (this.forgotten) return;
      this.seen = this.truth;
      const actions = this.step();
      const one = this.pending[0];
      if (one !== undefined || actions.length > 0) quiet = 0;
      if (one !== undefined) this.finish(one, 'done');
      else if (actions.length === 0) {
        // Init containers that run come to their end; then time passes, twice as long as any back-off.
        const init = this.truth.containers.find(
          (c) => c.state === 'running' && this.pod.spec.initContainers?.some((i) => i.name === c.name && !isSidecar(i)) === true,
        );
        if (init !== undefined) {
          this.change(init.id, this.ended(init, 0));
          quiet = 0;
        }
        this.happen({ kind: 'time', ms: 20_000 });
      }
      if (quiet === 19) return;
    }
    assert.fail(`does not come to rest: ${JSON.stringify(this.pending.map((p) => p.action))}`);
  }
}

// The same cases each time, so that a change is judged by what it changed; KEELSON_PROPERTY_SEED and KEELSON_PROPERTY_RUNS look further.
const runs = Number(process.env.KEELSON_PROPERTY_RUNS ?? 3000);
const seed = Number(process.env.KEELSON_PROPERTY_SEED ?? 1);

test('property: whatever fails, dies or is forgotten on the way, the pod comes to what its spec says, and to its end', () => {
  fc.assert(
    fc.property(
      shape,
      found,
      fc.array(happening, { maxLength: 60 }),
      fc.option(ending, { nil: undefined }),
      fc.array(happening, { maxLength: 40 }),
      (shaped, before, first, end, second) => {
        const w = new World(shaped, before);
        w.setBack = true;
        w.step();
        for (const event of [...first, ...(end === undefined ? [] : [end]), ...second]) {
          w.happen(event);
          w.step();
        }
        w.settle();
        const sandboxId = w.truth.sandboxes[0]?.id;
        if (w.lifecycle.kind === 'syncing') {
          assert.equal(end, undefined, 'a pod that was ended lives on');
          for (const { container: c, kind } of containersOf(w.pod)) {
            const latest = latestContainer(w.truth, c.name);
            const code = latest === undefined ? lostEnd(w.published?.containerStatuses?.find((s) => s.name === c.name)) : undefined;
            const lost = code !== undefined && !shouldRestart(c, w.pod.spec, code) && !couldRestartAll(w.pod.spec);
            const over = lost || (latest?.state === 'exited' && !shouldStart(c, w.pod.spec, latest));
            if (kind === 'app') assert.ok(latest?.state === 'running' || over, `${c.name} does not run: ${latest?.state}`);
            if (isSidecar(c) && kind === 'init') assert.equal(latest?.state, 'running', `sidecar ${c.name} does not run`);
            if (latest?.state === 'running') assert.equal(latest.sandboxId, sandboxId, `${c.name} runs in an old sandbox`);
          }
          assert.equal(w.phases.at(-1), 'Running');
          w.happen({ kind: 'delete', graceSeconds: 5 });
          w.settle();
        }
        assert.ok(
          isCleanedUp({ lifecycle: w.lifecycle, runtime: w.truth, work: w.work }),
          `not cleaned up: ${JSON.stringify(w.lifecycle)}`,
        );
        assert.ok(isTerminalPhase(w.phases.at(-1)), `it ends as ${w.phases.at(-1)}`);
        w.inSource = false;
        w.settle();
        assert.deepEqual([w.truth.containers, w.truth.sandboxes], [[], []]);
        assert.ok(w.forgotten);
      },
    ),
    { numRuns: runs, seed },
  );
});
