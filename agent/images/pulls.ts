import type { AuthConfig, ImageSpec, PodSandboxConfig } from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import { AgentError } from '../base/errors.ts';
import type { CriClient } from '../drivers/cri/client.ts';
import type { Credential } from './credentials.ts';
import { untilAborted } from './until-aborted.ts';

export interface PullLimits {
  /** How many pulls run at once. */
  readonly parallel: number;
  /** Pulls begun a second, averaged; 0 is no limit. */
  readonly qps: number;
  readonly burst: number;
}

export interface PullRequest {
  readonly spec: ImageSpec;
  /** Tried in this order; none: one try without. */
  readonly credentials: readonly Credential[];
  readonly sandboxConfig: PodSandboxConfig | undefined;
}

export interface PullOutcome {
  readonly imageRef: string;
  readonly sizeBytes: number;
  /** The pull alone, without waiting for its turn. */
  readonly tookMs: number;
  /** Which of the credentials did it. */
  readonly credential: number | undefined;
}

/** All that was tried failed. */
export class PullFailed extends AgentError {
  readonly errors: readonly unknown[];

  constructor(errors: readonly unknown[]) {
    super('PullFailed', 'the image could not be pulled', { cause: errors[0] });
    this.errors = errors;
  }
}

/** Pulls an image when its turn comes. Rejects with PullFailed, or with the signal's reason. */
export type Pull = (request: PullRequest, signal: AbortSignal) => Promise<PullOutcome>;

interface Flight {
  readonly outcome: Promise<PullOutcome>;
  readonly controller: AbortController;
  waiters: number;
}

/**
 * INVARIANTS: never more than `limits().parallel` pulls run; the same pull asked for twice at once is made once; a pull is cancelled when nobody waits for
 * it any more, and then only.
 */
export function createPull(options: {
  runtime: Pick<CriClient, 'pullImage' | 'imageStatus'>;
  clock: Clock;
  limits: () => PullLimits;
}): Pull {
  const { runtime, clock } = options;
  const flights = new Map<string, Flight>();
  const queue: (() => void)[] = [];
  let running = 0;
  let tokens: { left: number; at: number } | undefined;

  return async (request, signal) => {
    signal.throwIfAborted();
    const key = JSON.stringify([request.spec, request.credentials.map((credential) => credential.hash)]);
    let flight = flights.get(key);
    if (flight === undefined) {
      const controller = new AbortController();
      const started: Flight = { controller, waiters: 0, outcome: fly(request, controller.signal) };
      const land = (): void => {
        if (flights.get(key) === started) flights.delete(key);
      };
      started.outcome.then(land, land);
      flights.set(key, started);
      flight = started;
    }
    const mine = flight;
    mine.waiters += 1;
    try {
      return await untilAborted(mine.outcome, signal);
    } finally {
      mine.waiters -= 1;
      if (mine.waiters === 0) {
        // A pull that nobody waits for must not be joined any more: it is ending.
        if (flights.get(key) === mine) flights.delete(key);
        mine.controller.abort(signal.reason);
      }
    }
  };

  async function fly(request: PullRequest, signal: AbortSignal): Promise<PullOutcome> {
    await turn(signal);
    try {
      return await pull(request, signal);
    } finally {
      release();
    }
  }

  /** Resolves when a place is ours: `running` then counts us. */
  async function turn(signal: AbortSignal): Promise<void> {
    if (queue.length === 0 && running < options.limits().parallel) {
      running += 1;
      return;
    }
    let give: () => void = () => undefined;
    const given = new Promise<void>((resolve) => {
      give = resolve;
    });
    queue.push(give);
    try {
      await untilAborted(given, signal);
    } catch (error) {
      const place = queue.indexOf(give);
      // Given and given up at once: the place goes to the next.
      if (place === -1) release();
      else queue.splice(place, 1);
      throw error;
    }
  }

  function release(): void {
    running -= 1;
    while (queue.length > 0 && running < options.limits().parallel) {
      running += 1;
      queue.shift()?.();
    }
  }

  async function pull({ spec, credentials, sandboxConfig }: PullRequest, signal: AbortSignal): Promise<PullOutcome> {
    if (!takeToken()) throw new PullFailed([new AgentError('ResourceExhausted', 'pull QPS exceeded')]);
    const startedAt = clock.mono();
    const errors: unknown[] = [];
    const tries = credentials.length === 0 ? [undefined] : credentials;
    for (const [index, credential] of tries.entries()) {
      try {
        const { image_ref } = await runtime.pullImage({ image: spec, auth: authOf(credential), sandbox_config: sandboxConfig }, signal);
        if (image_ref === undefined || image_ref === '')
          throw new AgentError('Internal', `imageRef of image ${JSON.stringify(spec.image)} is not set`);
        const sizeBytes = await sizeOf(spec, signal);
        return {
          imageRef: image_ref,
          sizeBytes,
          tookMs: clock.mono() - startedAt,
          credential: credential === undefined ? undefined : index,
        };
      } catch (error) {
        if (signal.aborted) throw error;
        errors.push(error);
      }
    }
    throw new PullFailed(errors);
  }

  /** For the event only: a pull is no failure because its size is unknown. */
  async function sizeOf(spec: ImageSpec, signal: AbortSignal): Promise<number> {
    try {
      return (await runtime.imageStatus({ image: spec }, signal)).image?.size ?? 0;
    } catch {
      return 0;
    }
  }

  function takeToken(): boolean {
    const { qps, burst } = options.limits();
    if (qps <= 0) return true;
    const now = clock.mono();
    const left = Math.min(burst, tokens === undefined ? burst : tokens.left + ((now - tokens.at) / 1000) * qps);
    tokens = { left: left >= 1 ? left - 1 : left, at: now };
    return left >= 1;
  }
}

function authOf(credential: Credential | undefined): AuthConfig | undefined {
  return credential === undefined ? undefined : { username: credential.user.username, password: credential.user.password };
}
