import type { SecureVersion } from 'node:tls';
import { AgentError } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';

// The names of Go's crypto/tls, which the configuration uses, in OpenSSL's terms. TLS 1.3 suites cannot be chosen in Go; here neither.
const cipherNames: Readonly<Record<string, string>> = {
  TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA: 'ECDHE-ECDSA-AES128-SHA',
  TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA: 'ECDHE-ECDSA-AES256-SHA',
  TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256: 'ECDHE-ECDSA-AES128-SHA256',
  TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: 'ECDHE-ECDSA-AES128-GCM-SHA256',
  TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: 'ECDHE-ECDSA-AES256-GCM-SHA384',
  TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305: 'ECDHE-ECDSA-CHACHA20-POLY1305',
  TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: 'ECDHE-ECDSA-CHACHA20-POLY1305',
  TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA: 'ECDHE-RSA-AES128-SHA',
  TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA: 'ECDHE-RSA-AES256-SHA',
  TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256: 'ECDHE-RSA-AES128-SHA256',
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: 'ECDHE-RSA-AES128-GCM-SHA256',
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: 'ECDHE-RSA-AES256-GCM-SHA384',
  TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305: 'ECDHE-RSA-CHACHA20-POLY1305',
  TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: 'ECDHE-RSA-CHACHA20-POLY1305',
  TLS_RSA_WITH_AES_128_CBC_SHA: 'AES128-SHA',
  TLS_RSA_WITH_AES_256_CBC_SHA: 'AES256-SHA',
  TLS_RSA_WITH_AES_128_CBC_SHA256: 'AES128-SHA256',
  TLS_RSA_WITH_AES_128_GCM_SHA256: 'AES128-GCM-SHA256',
  TLS_RSA_WITH_AES_256_GCM_SHA384: 'AES256-GCM-SHA384',
};
const tls13Suites = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'];
// What a kubelet speaks unless told otherwise (Go's crypto/tls, defaultCipherSuites): nothing without forward secrecy, which OpenSSL would still take.
const defaultCiphers = [
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'ECDHE-ECDSA-AES128-SHA',
  'ECDHE-RSA-AES128-SHA',
  'ECDHE-ECDSA-AES256-SHA',
  'ECDHE-RSA-AES256-SHA',
];
// Go's CurveIDs, which are the numbers of IANA's registry of TLS groups.
const curveNames: Readonly<Record<number, string>> = {
  23: 'P-256',
  24: 'P-384',
  25: 'P-521',
  29: 'X25519',
  4587: 'SecP256r1MLKEM768',
  4588: 'X25519MLKEM768',
  4589: 'SecP384r1MLKEM1024',
};
const versions: Readonly<Record<string, SecureVersion>> = {
  VersionTLS10: 'TLSv1',
  VersionTLS11: 'TLSv1.1',
  VersionTLS12: 'TLSv1.2',
  VersionTLS13: 'TLSv1.3',
};

export interface TlsSettings {
  readonly minVersion: SecureVersion;
  /** OpenSSL's list. */
  readonly ciphers: string;
  /** OpenSSL's list of key exchange groups; undefined is its default. */
  readonly curves: string | undefined;
}

/**
 * `tlsMinVersion`, `tlsCipherSuites` and `tlsCurvePreferences` of the configuration in Node's terms. Throws an AgentError of code Invalid naming what is
 * unknown.
 */
export function tlsSettings(
  minVersion: string | undefined,
  cipherSuites: readonly string[] | undefined,
  curvePreferences: readonly number[] = [],
): TlsSettings {
  const version = ownValue(versions, minVersion || 'VersionTLS12');
  if (version === undefined) {
    throw new AgentError('Invalid', `tlsMinVersion: unknown version "${minVersion}", use one of ${Object.keys(versions).join(', ')}`);
  }
  const ciphers: string[] = [];
  for (const suite of cipherSuites ?? []) {
    const name = ownValue(cipherNames, suite);
    if (name !== undefined) ciphers.push(name);
    else if (!tls13Suites.includes(suite)) {
      throw new AgentError('Invalid', `tlsCipherSuites: unknown suite "${suite}", use one of ${Object.keys(cipherNames).join(', ')}`);
    }
  }
  return {
    minVersion: version,
    // OpenSSL takes the TLS 1.3 suites from the same list: without them a 1.3 handshake would have none.
    ciphers: [...tls13Suites, ...(ciphers.length === 0 ? defaultCiphers : ciphers)].join(':'),
    curves: curvePreferences.length === 0 ? undefined : curveList(curvePreferences),
  };
}

function curveList(ids: readonly number[]): string {
  const fail = (problem: string): never => {
    throw new AgentError('Invalid', `tlsCurvePreferences: ${problem}`);
  };
  return ids
    .map((id, i) => {
      if (id <= 0 || id > 65535) return fail(`curve preference ${id} is out of range (must be 1-65535)`);
      if (ids.indexOf(id) !== i) return fail(`duplicate curve preference ${id}`);
      return curveNames[id] ?? fail(`curve preference ${id} is not supported, use some of ${Object.keys(curveNames).join(', ')}`);
    })
    .join(':');
}
