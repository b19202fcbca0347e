import type { SubjectAccessReview, SubjectAccessReviewSpec, TokenReview } from '../../model/generated/api.ts';
import { type KubeClient, pathOf } from './client.ts';

/** Who a token is, and who may do what: asked for the clients of the node's server. */
export interface Reviews {
  reviewToken(token: string, signal: AbortSignal): Promise<NonNullable<TokenReview['status']>>;
  reviewAccess(spec: SubjectAccessReviewSpec, signal: AbortSignal): Promise<NonNullable<SubjectAccessReview['status']>>;
}

/** Nobody is known and nobody may: on a node without an API server. */
export const noReviews: Reviews = {
  reviewToken: async () => ({ authenticated: false }),
  reviewAccess: async () => ({ allowed: false }),
};

// What strangers cause takes nothing of the node's own rate limit: the server counts it by a budget of its own (agent/server/review-budget.ts).
const call = { urgent: true };

export function createReviews(client: KubeClient): Reviews {
  return {
    async reviewToken(token, signal) {
      const path = pathOf('authentication.k8s.io/v1', 'tokenreviews');
      const review = await client.create<TokenReview>(path, { spec: { token } }, signal, call);
      return review.status ?? { authenticated: false };
    },
    async reviewAccess(spec, signal) {
      const path = pathOf('authorization.k8s.io/v1', 'subjectaccessreviews');
      const review = await client.create<SubjectAccessReview>(path, { spec }, signal, call);
      return review.status ?? { allowed: false };
    },
  };
}
