import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import type { Clock } from '../base/clock.ts';
import type { User } from './attributes.ts';
import type { ClientCa } from './client-ca.ts';
import type { ReviewBudget } from './review-budget.ts';
import { createTtlCache } from './ttl-cache.ts';

/** The answer to a TokenReview: its `status`. */
export interface TokenVerdict {
  readonly authenticated?: boolean | undefined;
  readonly user?:
    | {
        readonly username?: string | undefined;
        readonly uid?: string | undefined;
        readonly groups?: string[] | undefined;
        readonly extra?: Record<string, string[]> | undefined;
      }
    | undefined;
  readonly error?: string | undefined;
}

export interface AuthenticationOptions {
  readonly clock: Clock;
  readonly clientCa: Pick<ClientCa, 'judge'>;
  readonly budget: ReviewBudget;
  /** `authentication.anonymous.enabled`. */
  readonly anonymous: boolean;
  /** Asks the API server who a token is; absent unless `authentication.webhook.enabled`. */
  readonly reviewToken?: ((token: string, signal: AbortSignal) => Promise<TokenVerdict>) | undefined;
  /** `authentication.webhook.cacheTTL`. */
  readonly tokenTtlMs: number;
}

/** The user of a request, or undefined: unauthorized. Throws when it cannot be known now; with code Throttled when too much was asked already. */
export type Authenticate = (request: IncomingMessage, signal: AbortSignal) => Promise<User | undefined>;

// Of each of the cache's two rooms. A user of an identity provider may be in thousands of groups.
const cacheBytes = 4 * 1024 * 1024;
const authenticatedGroup = 'system:authenticated';
const anonymousUser: User = { name: 'system:anonymous', groups: ['system:unauthenticated'] };
const tokenProtocolPrefix = 'base64url.bearer.authorization.k8s.io.';

/**
 * Client certificate, then bearer token, then (when allowed) anonymous. A certificate or token that is bad is refused, never taken for anonymous;
 * but a good token beside a bad certificate is enough, as in upstream's union of authenticators.
 */
export function createAuthenticator(options: AuthenticationOptions): Authenticate {
  const reviews = createTtlCache<TokenVerdict>({
    clock: options.clock,
    // Upstream gives both kinds the same time (apiserver, authenticatorfactory/delegating.go); an error is remembered for nobody.
    ttlMs: () => options.tokenTtlMs,
    isGood: (verdict) => verdict.authenticated === true,
    entries: 2048,
    bytes: cacheBytes,
  });
  return async (request, signal) => {
    const certificate = certificateUser(request, options.clientCa);
    if (certificate !== undefined && certificate !== 'bad') return certificate;
    const token = options.reviewToken === undefined ? undefined : tokenOf(request);
    if (token !== undefined && options.reviewToken !== undefined) {
      const { reviewToken } = options;
      const client = request.socket.remoteAddress ?? '';
      const verdict = await reviews.get(token, () => options.budget.spend(client, () => reviewToken(token, signal)));
      const name = verdict.user?.username;
      if (verdict.authenticated !== true || !name) return undefined;
      return {
        name,
        uid: verdict.user?.uid || undefined,
        groups: withAuthenticated(verdict.user?.groups ?? []),
        extra: verdict.user?.extra,
      };
    }
    if (certificate === 'bad') return undefined;
    return options.anonymous ? anonymousUser : undefined;
  };
}

function certificateUser(request: IncomingMessage, clientCa: Pick<ClientCa, 'judge'>): User | 'bad' | undefined {
  const { socket } = request;
  if (!(socket instanceof TLSSocket)) return undefined;
  const judged = clientCa.judge(socket);
  if (judged === 'none') return undefined;
  if ('problem' in judged) return 'bad';
  const certificate = socket.getPeerCertificate();
  const subject = certificate.subject as unknown as Record<string, string | string[] | undefined>;
  const names = subject.CN;
  const name = Array.isArray(names) ? names.at(-1) : names;
  if (!name) return 'bad';
  const organizations = subject.O ?? [];
  const groups = Array.isArray(organizations) ? organizations : [organizations];
  return {
    name,
    groups: withAuthenticated(groups),
    // As apiserver's pkg/authentication/request/x509 records which certificate it was.
    extra: { 'authentication.kubernetes.io/credential-id': [`X509SHA256=${createHash('sha256').update(judged.leaf.raw).digest('hex')}`] },
  };
}

function withAuthenticated(groups: readonly string[]): string[] {
  return groups.includes(authenticatedGroup) ? [...groups] : [...groups, authenticatedGroup];
}

/** The bearer token of the Authorization header, or of a WebSocket's subprotocols: browsers can set no header. */
function tokenOf(request: IncomingMessage): string | undefined {
  const [scheme, token] = (request.headers.authorization ?? '').trim().split(' ');
  if (scheme?.toLowerCase() === 'bearer' && token) return token;
  const encoded = protocolsOf(request.headers['sec-websocket-protocol']).find((p) => p.startsWith(tokenProtocolPrefix));
  return encoded === undefined
    ? undefined
    : Buffer.from(encoded.slice(tokenProtocolPrefix.length), 'base64url').toString('utf8') || undefined;
}

function protocolsOf(header: string | undefined): string[] {
  return (header ?? '').split(',').map((p) => p.trim());
}

/** The subprotocols without a token among them: what may be passed on. Undefined when nothing is left. */
export function withoutTokenProtocol(header: string): string | undefined {
  return (
    protocolsOf(header)
      .filter((p) => p !== '' && !p.startsWith(tokenProtocolPrefix))
      .join(', ') || undefined
  );
}
