import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { TokenRequest } from '../model/generated/api.ts';
import { type HeldToken, heldToken } from '../model/held-token.ts';
import { untilAborted } from './until-aborted.ts';

export interface AccountTokensOptions {
  readonly requestToken: (namespace: string, name: string, request: TokenRequest, signal: AbortSignal) => Promise<TokenRequest>;
  readonly clock: Clock;
  readonly log: Log;
  /** In [0, 1). */
  readonly random: () => number;
}

export interface AccountTokens {
  /** A good token for what is asked. Rejects as `requestToken`, and with the signal's reason. */
  get(namespace: string, name: string, request: TokenRequest, signal: AbortSignal): Promise<string>;
  /** Forgets those that are bound to a pod that is gone. */
  forgetPod(podUid: string): void;
}

interface Kept extends HeldToken {
  readonly podUid: string | undefined;
}

const requestDeadlineMs = 30_000;

/**
 * Service account tokens for credential providers, kept until they are due for renewal: a provider whose answers are cached by token would run at every pull
 * otherwise. One that cannot be renewed serves until it expires (pkg/kubelet/token/token_manager.go).
 */
export function createAccountTokens(options: AccountTokensOptions): AccountTokens {
  const { clock, log } = options;
  const held = new Map<string, Kept>();
  const running = new Map<string, Promise<string>>();

  async function renew(key: string, namespace: string, name: string, request: TokenRequest): Promise<string> {
    using deadline = clock.deadline(new AbortController().signal, requestDeadlineMs);
    try {
      const answer = await options.requestToken(namespace, name, request, deadline.signal);
      const token = heldToken(answer, clock.wall(), options.random());
      if (token === undefined)
        throw new AgentError('InvalidResponse', `the API server has issued no token for service account ${namespace}/${name}`);
      held.set(key, { ...token, podUid: request.spec?.boundObjectRef?.uid });
      return token.token;
    } catch (error) {
      const old = held.get(key);
      if (old === undefined || clock.wall() > old.expiresAt) throw error;
      log.warn(
        { namespace, serviceAccount: name, err: messageOf(error) },
        'service account token could not be renewed, the old one is still good',
      );
      return old.token;
    }
  }

  return {
    async get(namespace, name, request, signal) {
      const now = clock.wall();
      for (const [key, token] of held) if (now > token.expiresAt) held.delete(key);
      // The whole request counts: the pod, the audience, and the account's UID, by which another account of the same name differs.
      const key = JSON.stringify([namespace, name, request]);
      const token = held.get(key);
      if (token !== undefined && now <= token.refreshAt) return token.token;
      // One request for all that ask at the same time, with an end of its own: the first to ask may give up before the others.
      const flying = running.get(key) ?? renew(key, namespace, name, request).finally(() => running.delete(key));
      running.set(key, flying);
      return await untilAborted(flying, signal);
    },
    forgetPod(podUid) {
      for (const [key, token] of held) if (token.podUid === podUid) held.delete(key);
    },
  };
}
