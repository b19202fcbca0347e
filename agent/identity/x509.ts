import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { AgentError } from '../base/errors.ts';
import type { CertificateTemplate } from './csr.ts';
import { canonicalIp } from './der.ts';

/** A certificate chain (leaf first) and its key, both PEM. */
export interface CertificatePair {
  readonly certPem: string;
  readonly keyPem: string;
}

/** What is decided on: the facts of one certificate. Times are milliseconds since the epoch; addresses are canonical. */
export interface CertificateFacts extends CertificateTemplate {
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hex, as openssl prints it. */
  readonly serial: string;
}

const certificateBlock = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;

/** The certificates of a PEM text. Throws AgentError `InvalidCertificate` when one cannot be parsed; an empty list when there is none. */
export function readCertificates(pem: string): X509Certificate[] {
  return (pem.match(certificateBlock) ?? []).map((block) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw new AgentError('InvalidCertificate', 'a certificate in the PEM text cannot be parsed', { cause: error });
    }
  });
}

/** The certificate blocks of a PEM text, one after another, and nothing else (keys and comments are left out). */
export function onlyCertificates(pem: string): string {
  return (pem.match(certificateBlock) ?? []).map((block) => `${block}\n`).join('');
}

/** The first private key block of a PEM text, or `undefined`. */
export function onlyPrivateKey(pem: string): string | undefined {
  const block = pem.match(/-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----[\s\S]*?-----END \1-----/);
  return block === null ? undefined : `${block[0]}\n`;
}

/** The facts of the leaf. Throws AgentError `InvalidCertificate` when the text holds no certificate. */
export function leafFacts(certPem: string): CertificateFacts {
  const [leaf] = readCertificates(certPem);
  if (leaf === undefined) throw new AgentError('InvalidCertificate', 'the PEM text holds no certificate');
  const names = (leaf.subjectAltName ?? '').split(', ').map((entry) => entry.replace(/^"|"$/g, ''));
  const subject = leaf.subject.split('\n');
  const valuesOf = (prefix: string): string[] => subject.filter((line) => line.startsWith(prefix)).map((line) => line.slice(prefix.length));
  return {
    commonName: valuesOf('CN=').at(-1) ?? '',
    organizations: valuesOf('O='),
    dnsNames: names.filter((n) => n.startsWith('DNS:')).map((n) => n.slice(4)),
    // OpenSSL writes IPv6 as FD00:0:0:0:0:0:0:1.
    ipAddresses: names.filter((n) => n.startsWith('IP Address:')).flatMap((n) => canonicalIp(n.slice(11)) ?? []),
    notBefore: leaf.validFromDate.getTime(),
    notAfter: leaf.validToDate.getTime(),
    serial: leaf.serialNumber,
  };
}

/**
 * A pair from the texts of its files (which may be the same file), checked: the leaf must belong to the key.
 * Throws AgentError `InvalidCertificate` naming what is wrong; `where` says whose text it is.
 */
export function checkedPair(certText: string, keyText: string, where: string): CertificatePair {
  const certPem = onlyCertificates(certText);
  const keyPem = onlyPrivateKey(keyText);
  const [leaf] = readCertificates(certPem);
  if (leaf === undefined) throw new AgentError('InvalidCertificate', `${where}: no certificate found`);
  if (keyPem === undefined) throw new AgentError('InvalidCertificate', `${where}: no private key found`);
  let matches: boolean;
  try {
    matches = leaf.checkPrivateKey(createPrivateKey(keyPem));
  } catch (error) {
    throw new AgentError('InvalidCertificate', `${where}: the private key cannot be read`, { cause: error });
  }
  if (!matches) throw new AgentError('InvalidCertificate', `${where}: the private key does not belong to the certificate`);
  return { certPem, keyPem };
}

/** `sha256:<hex>` over the SubjectPublicKeyInfo: the pin that `--discovery-token-ca-cert-hash` takes (RFC 7469). */
export function publicKeyPin(certificate: X509Certificate): string {
  const info = certificate.publicKey.export({ type: 'spki', format: 'der' });
  return `sha256:${createHash('sha256').update(info).digest('hex')}`;
}

/** Canonical pins from what the user gave. Throws AgentError `InvalidPin` naming the bad one. */
export function readPins(pins: readonly string[]): string[] {
  return pins.map((pin) => {
    const [format, hex, ...rest] = pin.split(':');
    if (hex === undefined || rest.length > 0 || format?.toLowerCase() !== 'sha256') {
      throw new AgentError('InvalidPin', `CA certificate hash ${JSON.stringify(pin)} is not of the form sha256:<64 hex digits>`);
    }
    if (!/^[0-9a-fA-F]{64}$/.test(hex)) {
      throw new AgentError(
        'InvalidPin',
        `CA certificate hash ${JSON.stringify(pin)} has ${hex.length} characters after "sha256:" where 64 hex digits belong`,
      );
    }
    return `sha256:${hex.toLowerCase()}`;
  });
}
