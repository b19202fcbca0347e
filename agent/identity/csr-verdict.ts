import type { CertificateSigningRequest } from '../model/generated/api.ts';

/** What has become of a CertificateSigningRequest. `message` is for people and says what they can do. */
export type CsrVerdict =
  | { readonly kind: 'issued'; readonly certPem: string }
  /** Waiting for an approval, or (`approved`) for the signer. */
  | { readonly kind: 'pending'; readonly approved: boolean; readonly message: string }
  | { readonly kind: 'denied'; readonly message: string }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'gone'; readonly message: string };

/** Reads a CSR object as found now (`undefined`: not found). `uid` is the UID of the one we made or adopted. */
export function csrVerdict(name: string, uid: string, csr: CertificateSigningRequest | undefined): CsrVerdict {
  if (csr === undefined) return { kind: 'gone', message: `certificate signing request ${name} was deleted` };
  if (csr.metadata?.uid !== uid)
    return { kind: 'gone', message: `certificate signing request ${name} was deleted and made anew by someone else` };
  const conditions = csr.status?.conditions ?? [];
  const said = (type: string): string | undefined => {
    const condition = conditions.find((c) => c.type === type);
    return condition === undefined
      ? undefined
      : [condition.reason, condition.message].filter((s) => s !== undefined && s !== '').join(': ');
  };
  const denied = said('Denied');
  if (denied !== undefined) {
    return {
      kind: 'denied',
      message: `certificate signing request ${name} was denied (${denied || 'no reason given'}); to ask again: kubectl delete csr ${name}`,
    };
  }
  const failed = said('Failed');
  if (failed !== undefined) {
    return {
      kind: 'failed',
      message: `the signer ${csr.spec.signerName} refused certificate signing request ${name} (${failed || 'no reason given'}); to ask again: kubectl delete csr ${name}`,
    };
  }
  const approved = conditions.some((c) => c.type === 'Approved');
  const certificate = csr.status?.certificate;
  if (approved && certificate !== undefined && certificate !== '') {
    return { kind: 'issued', certPem: Buffer.from(certificate, 'base64').toString('utf8') };
  }
  return {
    kind: 'pending',
    approved,
    message: approved
      ? `certificate signing request ${name} is approved, but the signer ${csr.spec.signerName} has not issued the certificate yet: is the csrsigning controller of kube-controller-manager running, with --cluster-signing-cert-file set?`
      : `certificate signing request ${name} awaits approval: kubectl certificate approve ${name}`,
  };
}
