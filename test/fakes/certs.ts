import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface CertPair {
  readonly cert: string;
  readonly key: string;
}

/** A certificate authority for one test, made by openssl; its files are gone when disposed. */
export interface TestCa extends Disposable {
  readonly cert: string;
  /** Issues a certificate for client and server use. `sans` as openssl writes them: `DNS:localhost`, `IP:127.0.0.1`. */
  issue(subject: { commonName: string; organization?: string; sans?: readonly string[]; days?: number }): CertPair;
}

/** Makes a certificate authority with an EC key (some 10 ms). */
export function makeCa(commonName = 'test-ca'): TestCa {
  const dir = mkdtempSync(join(tmpdir(), 'test-ca-'));
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl('req', '-x509', ...newKey, '-keyout', 'ca.key', '-out', 'ca.crt', '-days', '2', '-subj', `/CN=${commonName}`);
  let serial = 0;
  return {
    cert: readFileSync(join(dir, 'ca.crt'), 'utf8'),
    issue({ commonName: cn, organization, sans = [], days = 1 }) {
      const name = `leaf${++serial}`;
      const subject = `${organization === undefined ? '' : `/O=${organization}`}/CN=${cn}`;
      openssl('req', ...newKey, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', subject);
      writeFileSync(
        join(dir, `${name}.ext`),
        `extendedKeyUsage=serverAuth,clientAuth\n${sans.length > 0 ? `subjectAltName=${sans.join(',')}\n` : ''}`,
      );
      openssl(
        ...['x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.crt', '-CAkey', 'ca.key', '-set_serial', String(1000 + serial)],
        ...['-days', String(days), '-out', `${name}.crt`, '-extfile', `${name}.ext`],
      );
      return { cert: readFileSync(join(dir, `${name}.crt`), 'utf8'), key: readFileSync(join(dir, `${name}.key`), 'utf8') };
    },
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
}
