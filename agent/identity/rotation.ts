import type { CertificateTemplate } from './csr.ts';
import type { CertificateFacts } from './x509.ts';

/**
 * When to replace a certificate: a point between 70 and 90 % of its lifetime, so that nodes made together do not all ask together
 * (client-go util/certificate, jitteryDuration). `random` is in [0, 1); wall clock, milliseconds.
 */
export function rotationTime(certificate: Pick<CertificateFacts, 'notBefore' | 'notAfter'>, random: number): number {
  return certificate.notBefore + (certificate.notAfter - certificate.notBefore) * (0.7 + 0.2 * random);
}

/** What a certificate lacks of what is wanted, in words; `undefined` when nothing. More than is wanted is no lack. */
export function lacking(certificate: CertificateFacts, wanted: CertificateTemplate): string | undefined {
  if (certificate.commonName !== wanted.commonName) {
    return `it names ${JSON.stringify(certificate.commonName)}, not ${JSON.stringify(wanted.commonName)}`;
  }
  const missing = [
    ...wanted.dnsNames.filter((name) => !certificate.dnsNames.includes(name)),
    ...wanted.ipAddresses.filter((ip) => !certificate.ipAddresses.includes(ip)),
    ...wanted.organizations.filter((org) => !certificate.organizations.includes(org)),
  ];
  return missing.length === 0 ? undefined : `it lacks ${missing.join(', ')}`;
}

/** What is known about one certificate and its renewal. */
export interface CertificateState {
  readonly current: CertificateFacts | undefined;
  /** When `current` is to be replaced, on the wall clock; fixed once per certificate. */
  readonly rotateAt: number | undefined;
  /** What a certificate must say now; `undefined` while that is not known (no node address yet). */
  readonly wanted: CertificateTemplate | undefined;
  /** What was asked for in the request that is under way. */
  readonly pending: CertificateTemplate | undefined;
}

export type CertificatePlan =
  /** Nothing to do before `wakeAt` (wall clock). */
  | { readonly kind: 'keep'; readonly wakeAt: number }
  /** A certificate is needed, but nobody knows yet for which names. */
  | { readonly kind: 'waitForNames' }
  | { readonly kind: 'request'; readonly template: CertificateTemplate; readonly reason: string }
  /** Look at the request under way. */
  | { readonly kind: 'poll' }
  /** Forget the request under way: it asks for what is no longer wanted. */
  | { readonly kind: 'abandon'; readonly reason: string };

/** The next step for one certificate. */
export function planCertificate(state: CertificateState, now: number): CertificatePlan {
  const { current, wanted, pending } = state;
  if (pending !== undefined) {
    return wanted === undefined || sameTemplate(pending, wanted)
      ? { kind: 'poll' }
      : { kind: 'abandon', reason: 'the names that the certificate must cover have changed' };
  }
  const reason = reasonToRequest(state, now);
  if (reason === undefined) return { kind: 'keep', wakeAt: state.rotateAt ?? current?.notAfter ?? now };
  return wanted === undefined ? { kind: 'waitForNames' } : { kind: 'request', template: wanted, reason };
}

function reasonToRequest({ current, rotateAt, wanted }: CertificateState, now: number): string | undefined {
  if (current === undefined) return 'there is no certificate';
  if (now > current.notAfter) return `the certificate expired at ${new Date(current.notAfter).toISOString()}`;
  const lacks = wanted === undefined ? undefined : lacking(current, wanted);
  if (lacks !== undefined) return `the certificate no longer fits: ${lacks}`;
  if (rotateAt !== undefined && now >= rotateAt) return `the certificate is due: it expires at ${new Date(current.notAfter).toISOString()}`;
  return undefined;
}

function sameTemplate(a: CertificateTemplate, b: CertificateTemplate): boolean {
  const same = (x: readonly string[], y: readonly string[]): boolean => x.length === y.length && x.every((value, i) => value === y[i]);
  return (
    a.commonName === b.commonName &&
    same(a.organizations, b.organizations) &&
    same(a.dnsNames, b.dnsNames) &&
    same(a.ipAddresses, b.ipAddresses)
  );
}

/** How long to wait before looking at a request again: approval by a controller takes some 100 ms, by a person minutes. */
export function pollDelayMs(waitedMs: number): number {
  return Math.min(5_000, Math.max(100, waitedMs / 4));
}
