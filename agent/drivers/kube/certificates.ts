import { hasCode } from '../../base/errors.ts';
import type { CertificateSigningRequest } from '../../model/generated/api.ts';
import { type KubeClient, pathOf } from './client.ts';

/** The two calls that getting a certificate takes. Errors are the client's (ApiError by reason, `Unavailable`, `DeadlineExceeded`). */
export interface CsrApi {
  create(request: CertificateSigningRequest, signal: AbortSignal): Promise<CertificateSigningRequest>;
  /** `undefined` when there is none of this name. */
  get(name: string, signal: AbortSignal): Promise<CertificateSigningRequest | undefined>;
}

const group = 'certificates.k8s.io/v1';

/** CertificateSigningRequests over an API client. Calls pass the client-side rate limit: without a certificate nothing else works. */
export function createCsrApi(client: Pick<KubeClient, 'create' | 'get'>): CsrApi {
  return {
    create: (request, signal) =>
      client.create<CertificateSigningRequest>(pathOf(group, 'certificatesigningrequests'), request, signal, { urgent: true }),
    async get(name, signal) {
      try {
        return await client.get<CertificateSigningRequest>(pathOf(group, 'certificatesigningrequests', undefined, name), signal, {
          urgent: true,
        });
      } catch (error) {
        if (hasCode(error, 'NotFound')) return undefined;
        throw error;
      }
    },
  };
}
