import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { AgentError } from '../base/errors.ts';
import { bitString, canonicalIp, decodeAll, encode, fromPem, integer, ipBytes, oid, sequence, setOf, tag, toPem, utf8 } from './der.ts';

export const clientSigner = 'kubernetes.io/kube-apiserver-client-kubelet';
export const servingSigner = 'kubernetes.io/kubelet-serving';

/** What a certificate is asked to say. */
export interface CertificateTemplate {
  readonly commonName: string;
  readonly organizations: readonly string[];
  readonly dnsNames: readonly string[];
  readonly ipAddresses: readonly string[];
}

/** The identity of a node, without names or addresses: what its client certificate says. */
export function nodeTemplate(nodeName: string): CertificateTemplate {
  return { commonName: `system:node:${nodeName}`, organizations: ['system:nodes'], dnsNames: [], ipAddresses: [] };
}

/** A new ECDSA P-256 key as kubelet writes it: PEM, `EC PRIVATE KEY`. */
export function newPrivateKey(): string {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'sec1', format: 'pem' }) as string;
}

/** The key of a PEM text, or `undefined` when it holds none that can be read. */
export function readPrivateKey(pem: string): KeyObject | undefined {
  try {
    return createPrivateKey(pem);
  } catch {
    return undefined;
  }
}

/**
 * The usages to ask for: `key encipherment` only makes sense for RSA keys, and signers refuse sets that they do not know
 * (client-go util/certificate, DefaultKubeletClientGetUsages and its serving twin).
 */
export function usagesFor(purpose: 'client' | 'serving', privateKeyPem: string): string[] {
  const auth = purpose === 'client' ? 'client auth' : 'server auth';
  // digestedName() of kubelet's bootstrap hashes the usages in order, with `key encipherment` last.
  return createPrivateKey(privateKeyPem).asymmetricKeyType === 'rsa'
    ? ['digital signature', auth, 'key encipherment']
    : ['digital signature', auth];
}

/** SubjectPublicKeyInfo of a key, DER. */
export function publicKeyInfo(key: KeyObject): Buffer {
  return createPublicKey(key).export({ type: 'spki', format: 'der' });
}

/** The subject as Go's crypto/x509 orders it: O, then CN. */
export function subjectName(template: Pick<CertificateTemplate, 'commonName' | 'organizations'>): Buffer {
  const attribute = (type: string, value: string): Buffer => sequence(oid(type), utf8(value));
  const parts: Buffer[] = [];
  if (template.organizations.length > 0) parts.push(setOf(...template.organizations.map((o) => attribute('2.5.4.10', o))));
  if (template.commonName !== '') parts.push(setOf(attribute('2.5.4.3', template.commonName)));
  return sequence(...parts);
}

/** The subjectAltName extension, or `undefined` when there is nothing to name. */
export function altNamesExtension(names: Pick<CertificateTemplate, 'dnsNames' | 'ipAddresses'>): Buffer | undefined {
  if (names.dnsNames.length === 0 && names.ipAddresses.length === 0) return undefined;
  // GeneralName: [2] dNSName, [7] iPAddress, both primitive (RFC 5280, 4.2.1.6).
  const general = [
    ...names.dnsNames.map((name) => encode(0x82, Buffer.from(name, 'ascii'))),
    ...names.ipAddresses.map((ip) => encode(0x87, ipBytes(ip))),
  ];
  return sequence(oid('2.5.29.17'), encode(tag.octetString, sequence(...general)));
}

/** The AlgorithmIdentifier that goes with `signWith`. */
export function signatureAlgorithm(key: KeyObject): Buffer {
  return key.asymmetricKeyType === 'rsa' ? sequence(oid('1.2.840.113549.1.1.11'), encode(tag.null)) : sequence(oid('1.2.840.10045.4.3.2'));
}

/** Signs with SHA-256: ECDSA (DER form) or RSA PKCS#1 v1.5, whichever the key is. */
export function signWith(key: KeyObject, bytes: Uint8Array): Buffer {
  return sign('sha256', bytes, key);
}

/** A PKCS#10 request (RFC 2986) as PEM, signed with the key. Throws when the key is not readable. */
export function buildCertificateRequest(template: CertificateTemplate, privateKeyPem: string): string {
  const key = createPrivateKey(privateKeyPem);
  const san = altNamesExtension(template);
  // extensionRequest (RFC 2985, 5.4.2) is the only attribute.
  const attributes = san === undefined ? [] : [sequence(oid('1.2.840.113549.1.9.14'), setOf(sequence(san)))];
  const info = sequence(integer(Buffer.from([0])), subjectName(template), publicKeyInfo(key), encode(tag.context0, ...attributes));
  return toPem('CERTIFICATE REQUEST', sequence(info, signatureAlgorithm(key), bitString(signWith(key, info))));
}

/**
 * True when two requests name the same subject and the same public key: a CSR object found under our name may be waited for.
 * Signatures differ from call to call, so the texts cannot be compared. Throws AgentError `InvalidDer` when one is not a request.
 */
export function sameSubjectAndKey(onePem: string, otherPem: string): boolean {
  const one = subjectAndKey(onePem);
  const other = subjectAndKey(otherPem);
  return one.subject.equals(other.subject) && one.key.equals(other.key);
}

function subjectAndKey(pem: string): { subject: Buffer; key: Buffer } {
  const [bytes] = fromPem('CERTIFICATE REQUEST', pem);
  const [request] = bytes === undefined ? [] : decodeAll(bytes);
  const [info] = request === undefined ? [] : decodeAll(request.content);
  const [, subject, key] = info === undefined ? [] : decodeAll(info.content);
  if (subject === undefined || key === undefined) throw new AgentError('InvalidDer', 'not a PKCS#10 certificate request');
  return { subject: subject.raw, key: key.raw };
}

/**
 * The name kubelet gives its bootstrap CSR: a digest of key, subject and usages, so that a restarted bootstrap finds the request it
 * made before (pkg/kubelet/certificate/bootstrap, digestedName).
 */
export function bootstrapRequestName(privateKeyPem: string, template: CertificateTemplate, usages: readonly string[]): string {
  const hash = createHash('sha512-256');
  const write = (data: Uint8Array): void => void hash.update(`${Buffer.from(data).toString('base64url')}|`);
  write(publicKeyInfo(createPrivateKey(privateKeyPem)));
  for (const text of [template.commonName, ...template.organizations, ...usages]) write(Buffer.from(text, 'utf8'));
  return `node-csr-${hash.digest('base64url')}`;
}

/**
 * The names that a serving certificate must cover, from the node's addresses, sorted. A hostname that is an address counts as one;
 * InternalDNS and ExternalDNS are names whatever they look like (pkg/kubelet/certificate, addressesToHostnamesAndIPs).
 */
export function servingNames(addresses: readonly { type: string; address: string }[]): { dnsNames: string[]; ipAddresses: string[] } {
  const dns = new Set<string>();
  const ips = new Set<string>();
  for (const { type, address } of addresses) {
    if (address === '') continue;
    const ip = canonicalIp(address);
    switch (type) {
      case 'Hostname':
        if (ip === undefined) dns.add(address);
        else ips.add(ip);
        break;
      case 'InternalIP':
      case 'ExternalIP':
        if (ip !== undefined) ips.add(ip);
        break;
      case 'InternalDNS':
      case 'ExternalDNS':
        dns.add(address);
        break;
      default:
        break;
    }
  }
  return { dnsNames: [...dns].sort(), ipAddresses: [...ips].sort() };
}

/**
 * The template of a serving certificate by CSR, or `undefined` while the node has no IP address yet: the approver wants at least one
 * (`allowDnsOnly` is the feature gate AllowDNSOnlyNodeCSR).
 */
export function servingTemplate(
  nodeName: string,
  addresses: readonly { type: string; address: string }[],
  allowDnsOnly = false,
): CertificateTemplate | undefined {
  const names = servingNames(addresses);
  if (names.ipAddresses.length === 0 && !(allowDnsOnly && names.dnsNames.length > 0)) return undefined;
  return { ...nodeTemplate(nodeName), ...names };
}
