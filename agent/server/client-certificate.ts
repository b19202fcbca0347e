import type { X509Certificate } from 'node:crypto';

/** What of a connection counts for its client certificate. */
export interface ShownCertificate {
  /** The client's own certificate; `issuerCertificate` leads to the others that it sent. */
  readonly leaf: X509Certificate;
  /** OpenSSL's verdict in the handshake; undefined when it was a bad one, and the CAs have changed since. */
  readonly authorized: boolean | undefined;
}

const clientAuth = '1.3.6.1.5.5.7.3.2';
const anyUsage = '2.5.29.37.0';
// More than any chain in use; a client must not make us check signatures without end.
const longestChain = 8;

/**
 * Why the certificate does not prove who the client is now, or undefined when it does: a chain to one of `roots`, every certificate of it within its dates,
 * meant for clients. Upstream judges each request so (apiserver, pkg/authentication/request/x509), because a handshake may be days old.
 * What X509Certificate does not tell (path lengths, name constraints) is a matter of intermediates: with those, OpenSSL must have agreed in the handshake too.
 */
export function problemOfCertificate(
  { leaf, authorized }: ShownCertificate,
  roots: readonly X509Certificate[],
  nowMs: number,
): string | undefined {
  const unknown = 'x509: certificate signed by unknown authority';
  if (authorized === false) return unknown;
  const outdated = problemOfDates(leaf, nowMs);
  if (outdated !== undefined) return outdated;
  if (!mayBeClient(leaf)) return 'x509: certificate specifies an incompatible key usage';
  let current = leaf;
  for (let depth = 0; depth < longestChain; depth++) {
    const holder = current;
    const isRoot = (each: X509Certificate): boolean => each.fingerprint256 === holder.fingerprint256 || isIssuedBy(holder, each);
    if (roots.some((each) => isRoot(each) && problemOfDates(each, nowMs) === undefined)) return undefined;
    if (authorized !== true) break;
    const next = current.issuerCertificate;
    if (next === undefined || next.fingerprint256 === current.fingerprint256) break;
    if (!next.ca || !mayBeClient(next) || !isIssuedBy(current, next)) break;
    const intermediateOutdated = problemOfDates(next, nowMs);
    if (intermediateOutdated !== undefined) return intermediateOutdated;
    current = next;
  }
  return unknown;
}

function problemOfDates(certificate: X509Certificate, nowMs: number): string | undefined {
  const now = new Date(nowMs).toISOString();
  if (nowMs < certificate.validFromDate.getTime())
    return `x509: certificate has expired or is not yet valid: current time ${now} is before ${certificate.validFromDate.toISOString()}`;
  if (nowMs > certificate.validToDate.getTime())
    return `x509: certificate has expired or is not yet valid: current time ${now} is after ${certificate.validToDate.toISOString()}`;
  return undefined;
}

/** Node calls the extended key usages `keyUsage`. A certificate without any may be used for everything. */
function mayBeClient(certificate: X509Certificate): boolean {
  const usages = certificate.keyUsage as readonly string[] | undefined;
  return usages === undefined || usages.length === 0 || usages.includes(clientAuth) || usages.includes(anyUsage);
}

function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
}
