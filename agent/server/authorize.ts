import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import type { SubjectAccessReviewSpec, SubjectAccessReviewStatus } from '../model/generated/api.ts';
import type { RequestAttributes, User } from './attributes.ts';
import type { ReviewBudget } from './review-budget.ts';
import { createTtlCache } from './ttl-cache.ts';

/** The part of a SubjectAccessReview's status that decides. */
export type AccessVerdict = Pick<SubjectAccessReviewStatus, 'allowed'>;

/** Whether the user may. Throws an AgentError of code AuthorizationFailed, its message for the client, when that cannot be known now. */
export type Authorize = (user: User, attributes: RequestAttributes, signal: AbortSignal) => Promise<boolean>;

export interface WebhookAuthorizationOptions {
  readonly clock: Clock;
  readonly budget: ReviewBudget;
  readonly nodeName: string;
  readonly reviewAccess: (spec: SubjectAccessReviewSpec, signal: AbortSignal) => Promise<AccessVerdict>;
  /** `authorization.webhook.cacheAuthorizedTTL`. */
  readonly allowedTtlMs: number;
  /** `authorization.webhook.cacheUnauthorizedTTL`. */
  readonly deniedTtlMs: number;
}

/** Mode AlwaysAllow. */
export const alwaysAllow: Authorize = () => Promise.resolve(true);

/** Mode Webhook: a SubjectAccessReview for each subresource until one is allowed. */
export function createWebhookAuthorizer(options: WebhookAuthorizationOptions): Authorize {
  const verdicts = createTtlCache<boolean>({
    clock: options.clock,
    ttlMs: (allowed) => (allowed ? options.allowedTtlMs : options.deniedTtlMs),
    isGood: (allowed) => allowed,
    entries: 4096,
    bytes: 4 * 1024 * 1024,
  });
  return async (user, { verb, subresources }, signal) => {
    for (const subresource of subresources) {
      const spec: SubjectAccessReviewSpec = {
        user: user.name,
        groups: [...user.groups],
        ...(user.uid === undefined ? {} : { uid: user.uid }),
        ...(user.extra === undefined ? {} : { extra: { ...user.extra } }),
        resourceAttributes: { verb, version: 'v1', resource: 'nodes', subresource, name: options.nodeName },
      };
      try {
        const review = async (): Promise<boolean> => (await options.reviewAccess(spec, signal)).allowed;
        if (await verdicts.get(JSON.stringify(spec), () => options.budget.spend(user.name, review))) return true;
      } catch (error) {
        if (hasCode(error, 'Throttled')) throw error;
        const what = `user=${user.name}, verb=${verb}, resource=nodes, subresource=${subresource}`;
        throw new AgentError('AuthorizationFailed', `Authorization error (${what})`, {
          cause: new Error(messageOf(error), { cause: error }),
        });
      }
    }
    return false;
  };
}
