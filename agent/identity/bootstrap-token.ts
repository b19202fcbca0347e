import { createHmac, timingSafeEqual } from 'node:crypto';
import { AgentError } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';

/** A bootstrap token: the id is public, the secret is not and appears in no message. */
export interface BootstrapToken {
  readonly id: string;
  readonly secret: string;
}

/** Reads `[a-z0-9]{6}.[a-z0-9]{16}`. Throws AgentError `MalformedToken` that says which part is wrong. */
export function readBootstrapToken(text: string): BootstrapToken {
  const [id, secret, ...rest] = text.split('.');
  const wrong = (what: string): AgentError =>
    new AgentError(
      'MalformedToken',
      `the bootstrap token is malformed: ${what}; it looks like abcdef.0123456789abcdef (6 and 16 characters of a-z, 0-9)`,
    );
  if (id === undefined || secret === undefined || rest.length > 0) throw wrong('it is not two parts with a dot between them');
  if (!/^[a-z0-9]{6}$/.test(id)) throw wrong(`its id (before the dot) has ${id.length} characters, or some other than a-z and 0-9`);
  if (!/^[a-z0-9]{16}$/.test(secret))
    throw wrong(`its secret (after the dot) has ${secret.length} characters, or some other than a-z and 0-9`);
  return { id, secret };
}

/** Checks a detached HS256 JWS (RFC 7515, appendix F) with the token's id as key id and its secret as key. */
export function detachedSignatureIsValid(jws: string, content: string, token: BootstrapToken): boolean {
  const [header, payload, signature, ...rest] = jws.split('.');
  if (header === undefined || payload !== '' || signature === undefined || rest.length > 0) return false;
  let fields: { alg?: unknown; kid?: unknown };
  try {
    fields = JSON.parse(Buffer.from(header, 'base64url').toString('utf8')) ?? {};
  } catch {
    return false;
  }
  // The algorithm must be ours, never the sender's choice.
  if (fields.alg !== 'HS256' || fields.kid !== token.id) return false;
  const expected = createHmac('sha256', token.secret)
    .update(`${header}.${Buffer.from(content, 'utf8').toString('base64url')}`)
    .digest();
  const given = Buffer.from(signature, 'base64url');
  return given.length === expected.length && timingSafeEqual(given, expected);
}

/** What a cluster-info ConfigMap, read over a connection that nobody vouches for, is worth to the holder of a token. */
export type ClusterInfoVerdict =
  | { readonly kind: 'trusted'; readonly kubeconfig: string }
  | { readonly kind: 'noKubeconfig' }
  | { readonly kind: 'unknownToken' }
  | { readonly kind: 'badSignature' };

/** Judges the data of kube-public/cluster-info. */
export function judgeClusterInfo(data: Readonly<Record<string, string>> | undefined, token: BootstrapToken): ClusterInfoVerdict {
  const kubeconfig = data?.kubeconfig;
  if (kubeconfig === undefined || kubeconfig === '') return { kind: 'noKubeconfig' };
  const jws = ownValue(data, `jws-kubeconfig-${token.id}`);
  if (jws === undefined || jws === '') return { kind: 'unknownToken' };
  return detachedSignatureIsValid(jws, kubeconfig, token) ? { kind: 'trusted', kubeconfig } : { kind: 'badSignature' };
}
