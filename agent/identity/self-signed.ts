import { createHash, createPrivateKey, type KeyObject, randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import { altNamesExtension, newPrivateKey, publicKeyInfo, signatureAlgorithm, signWith, subjectName } from './csr.ts';
import { bitString, canonicalIp, decodeAll, encode, integer, oid, sequence, tag, time, toPem } from './der.ts';
import type { CertificatePair } from './x509.ts';

const hourMs = 3_600_000;
const yearMs = 365 * 24 * hourMs;

/**
 * A serving certificate for a host (a name or an address) and its other addresses, signed by a throw-away authority whose certificate
 * follows in the chain; valid from an hour ago, for a year: what kubelet makes when nobody gives it one (client-go util/cert,
 * GenerateSelfSignedCertKey), with P-256 keys.
 */
export function selfSignedPair(host: string, otherAddresses: readonly string[], now: number): CertificatePair {
  const validity = { notBefore: now - hourMs, notAfter: now - hourMs + yearMs };
  const seconds = Math.floor(now / 1000);
  const authorityKey = createPrivateKey(newPrivateKey());
  const keyPem = newPrivateKey();
  const authorityName = subjectName({ commonName: `${host}-ca@${seconds}`, organizations: [] });
  const ips = new Set([host, ...otherAddresses].flatMap((address) => canonicalIp(address) ?? []));
  const names = { dnsNames: isIP(host) === 0 ? [host] : [], ipAddresses: [...ips] };
  const san = altNamesExtension(names);

  const authority = certificate({
    subject: authorityName,
    issuer: authorityName,
    key: authorityKey,
    signingKey: authorityKey,
    ...validity,
    extensions: [
      // digitalSignature, keyEncipherment, keyCertSign
      extension('2.5.29.15', bitString(Buffer.from([0xa4]), 2), true),
      extension('2.5.29.19', sequence(encode(tag.boolean, Buffer.from([0xff]))), true),
      extension('2.5.29.14', encode(tag.octetString, keyId(authorityKey))),
    ],
  });
  const leaf = certificate({
    subject: subjectName({ commonName: `${host}@${seconds}`, organizations: [] }),
    issuer: authorityName,
    key: createPrivateKey(keyPem),
    signingKey: authorityKey,
    ...validity,
    extensions: [
      // digitalSignature
      extension('2.5.29.15', bitString(Buffer.from([0x80]), 7), true),
      extension('2.5.29.37', sequence(oid('1.3.6.1.5.5.7.3.1'))),
      extension('2.5.29.19', sequence(), true),
      extension('2.5.29.35', sequence(encode(0x80, keyId(authorityKey)))),
      ...(san === undefined ? [] : [san]),
    ],
  });
  return { certPem: toPem('CERTIFICATE', leaf) + toPem('CERTIFICATE', authority), keyPem };
}

function extension(id: string, value: Buffer, critical = false): Buffer {
  return sequence(oid(id), ...(critical ? [encode(tag.boolean, Buffer.from([0xff]))] : []), encode(tag.octetString, value));
}

// SHA-1 of the key's bits, the usual way to name a key (RFC 5280, 4.2.1.2); nothing rests on its strength.
function keyId(key: KeyObject): Buffer {
  const [info] = decodeAll(publicKeyInfo(key));
  const bits = info === undefined ? undefined : decodeAll(info.content)[1];
  return createHash('sha1')
    .update(bits?.content.subarray(1) ?? Buffer.alloc(0))
    .digest();
}

interface CertificateSpec {
  readonly subject: Buffer;
  readonly issuer: Buffer;
  readonly key: KeyObject;
  readonly signingKey: KeyObject;
  readonly notBefore: number;
  readonly notAfter: number;
  readonly extensions: readonly Buffer[];
}

function certificate(spec: CertificateSpec): Buffer {
  const body = sequence(
    encode(tag.context0, integer(Buffer.from([2]))),
    // Never zero: RFC 5280 wants a positive serial.
    integer(Buffer.concat([Buffer.from([1]), randomBytes(15)])),
    signatureAlgorithm(spec.signingKey),
    spec.issuer,
    sequence(time(spec.notBefore), time(spec.notAfter)),
    spec.subject,
    publicKeyInfo(spec.key),
    encode(tag.context3, sequence(...spec.extensions)),
  );
  return sequence(body, signatureAlgorithm(spec.signingKey), bitString(signWith(spec.signingKey, body)));
}
