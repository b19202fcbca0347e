import { isSidecar } from '../model/pod.ts';
import type { PodLifecycle } from './lifecycle.ts';
import type { RuntimeContainer, RuntimePod } from './observed.ts';
import type { Draft, PlanInput } from './plan-draft.ts';
import { heldSandboxes, mayStillRun, specOf, stopContainer, stopSandbox } from './plan-stop.ts';

/** App, init and ephemeral containers all at once; sidecars after the app and init containers, the last started first. */
export function planTermination(
  input: PlanInput,
  runtime: RuntimePod,
  lifecycle: PodLifecycle & { kind: 'terminating' },
  draft: Draft,
): void {
  const { pod } = input;
  const running = runtime.containers.filter(mayStillRun);
  const sidecars = (pod.spec.initContainers ?? []).filter(isSidecar).map((c) => c.name);
  const stop = (c: RuntimeContainer): void =>
    stopContainer(
      input,
      draft,
      specOf(pod, c.name),
      c,
      lifecycle.graceSeconds,
      lifecycle.cause.kind,
      `Stopping container ${c.name}`,
      lifecycle.since,
    );
  const graceEnd = lifecycle.since + lifecycle.graceSeconds * 1000;
  const others = running.filter((c) => !sidecars.includes(c.name));
  for (const c of others) stop(c);
  // Sidecars serve the containers of the pod; a debugging shell that ignores the stop signal must not use up their grace.
  const ephemeral = new Set((pod.spec.ephemeralContainers ?? []).map((c) => c.name));
  let holdBack = others.some((c) => !ephemeral.has(c.name));
  for (const name of sidecars.toReversed()) {
    const sidecar = running.find((c) => c.name === name);
    if (sidecar === undefined) continue;
    if (holdBack && input.now.mono < graceEnd) {
      const spec = specOf(pod, name);
      // A sidecar's preStop hook runs at once; only its stop signal waits for its turn.
      if (spec?.lifecycle?.preStop !== undefined && lifecycle.graceSeconds > 0 && !input.work.preStopped.has(sidecar.id)) {
        const message = `Stopping container ${name}`;
        draft.act({ kind: 'preStop', id: sidecar.id, container: name, graceSeconds: lifecycle.graceSeconds, message });
      }
      draft.wait(name, 'waits for the containers started after it to end');
      draft.wake(graceEnd);
    } else stop(sidecar);
    holdBack = true;
  }
}

/** What is left when nothing of the pod runs any more: its sandbox, its volumes and its cgroup, and all the rest once no source has it. */
export function planCleanup(input: PlanInput, runtime: RuntimePod, draft: Draft): void {
  const { work } = input;
  const ready = runtime.sandboxes.filter((s) => s.ready);
  for (const s of heldSandboxes(input, runtime)) stopSandbox(input, draft, s.id, 'the pod has ended');
  if (!work.unmounted && draft.mayTry('volumes', work.mountFailure)) draft.act({ kind: 'unmountVolumes' });
  if (ready.length > 0 || !work.unmounted) {
    draft.wait(
      'pod',
      ready.length > 0 ? 'the pod sandbox is being stopped' : (work.mountFailure?.message ?? 'volumes are being unmounted'),
    );
    return;
  }
  if (!work.cgroupRemoved) {
    if (draft.mayTry('cgroup', work.prepareFailure)) draft.act({ kind: 'removeCgroup' });
    return;
  }
  if (!input.inSource && draft.mayTry('purge', work.prepareFailure)) draft.act({ kind: 'purge' });
}

/** True when nothing of the pod is left but its record: the API object may go. */
export function isCleanedUp(input: Pick<PlanInput, 'lifecycle' | 'runtime' | 'work'>): boolean {
  const { lifecycle, runtime, work } = input;
  return lifecycle.kind === 'terminated' && work.unmounted && work.cgroupRemoved && runtime?.sandboxes.every((s) => !s.ready) === true;
}
