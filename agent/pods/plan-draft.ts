import type { AgentPod } from '../model/pod.ts';
import type { Allocation } from './allocation.ts';
import type { PodLifecycle } from './lifecycle.ts';
import type { RuntimePod } from './observed.ts';
import { actionKey, type PodAction } from './pod-action.ts';
import type { PodWork, StepFailure } from './work.ts';

/** What a step waits for, in words for a person. `subject` names a container where one waits. */
export interface Waiting {
  readonly subject: string;
  readonly message: string;
}

export interface Plan {
  readonly actions: readonly PodAction[];
  readonly waiting: readonly Waiting[];
  /** When (mono, ms) to plan again although nothing was observed. */
  readonly wakeAt: number | undefined;
}

/** Verdicts on one container instance; undefined where no probe has spoken. */
export interface Verdicts {
  readonly startup?: boolean | undefined;
  readonly liveness?: boolean | undefined;
}

export interface PlanInput {
  /** With the resources that it was given, which may not yet be those that its spec asks for. */
  readonly pod: AgentPod;
  /** What the cgroups of its containers were last told; undefined when nothing of it has run. */
  readonly actuated?: Allocation | undefined;
  readonly inSource: boolean;
  readonly lifecycle: PodLifecycle;
  /** Undefined until the runtime has been looked at: then nothing is started or stopped. */
  readonly runtime: RuntimePod | undefined;
  readonly work: PodWork;
  readonly verdicts: (containerId: string) => Verdicts;
  /** Why pods with a network of their own cannot start, if so. */
  readonly networkProblem: string | undefined;
  readonly now: { readonly wall: number; readonly mono: number };
}

/** A plan in the making. */
export class Draft {
  readonly #actions: PodAction[] = [];
  readonly #waiting: Waiting[] = [];
  #wakeAt = Number.POSITIVE_INFINITY;
  readonly #input: PlanInput;

  constructor(input: PlanInput) {
    this.#input = input;
  }

  /** Adds the action unless it is under way already. */
  act(action: PodAction): void {
    if (!this.#input.work.inFlight.has(actionKey(action))) this.#actions.push(action);
  }

  /** Adds the action although one with its key is under way: it takes that one's place. */
  supersede(action: PodAction): void {
    this.#actions.push(action);
  }

  wait(subject: string, message: string): void {
    this.#waiting.push({ subject, message });
  }

  wake(monoMs: number): void {
    this.#wakeAt = Math.min(this.#wakeAt, monoMs);
  }

  wakeWall(wallMs: number): void {
    if (Number.isFinite(wallMs)) this.wake(this.#input.now.mono + Math.max(0, wallMs - this.#input.now.wall));
  }

  /** True when the failed step may be tried (again) now; else notes what it waits for. */
  mayTry(subject: string, failure: StepFailure | undefined): boolean {
    if (failure === undefined || failure.retryAt <= this.#input.now.mono) return true;
    this.wait(subject, failure.message);
    this.wake(failure.retryAt);
    return false;
  }

  plan(): Plan {
    return { actions: this.#actions, waiting: this.#waiting, wakeAt: Number.isFinite(this.#wakeAt) ? this.#wakeAt : undefined };
  }
}
