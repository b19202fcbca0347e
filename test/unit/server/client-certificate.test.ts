import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { problemOfCertificate } from '../../../agent/server/client-certificate.ts';
import { makeCa } from '../../fakes/certs.ts';
import { file, openssl, read, start } from './server-fixture.ts';

/** A clock on which the check of the CA file comes when the test says so, and whose wall can be moved. */
function steered() {
  let look: (() => void) | undefined;
  let ahead = 0;
  const clock: Clock = {
    ...systemClock,
    wall: () => systemClock.wall() + ahead,
    after(ms, fn) {
      if (ms !== 10_000) return systemClock.after(ms, fn);
      look = fn;
      return { [Symbol.dispose]: () => undefined };
    },
  };
  return {
    clock,
    moveWall: (ms: number) => {
      ahead = ms;
    },
    /** Lets the server look at the file, and waits until it has. */
    async look() {
      const now = look;
      now?.();
      while (look === now) await systemClock.sleep(1, AbortSignal.timeout(5000));
    },
  };
}

interface Connection {
  readonly socket: TLSSocket;
  readonly closed: Promise<void>;
  /** The status of the next answer; undefined when the connection ends before it. */
  ask(bytes?: string): Promise<number | undefined>;
}

const whole = 'GET /pods HTTP/1.1\r\nHost: n\r\n\r\n';

async function open(port: number, pair: { cert: string; key: string }): Promise<Connection> {
  const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ...pair });
  const closed = new Promise<void>((resolve) => void socket.on('error', () => undefined).once('close', () => resolve()));
  await once(socket, 'secureConnect');
  let text = '';
  let wake = (): void => undefined;
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
    wake();
  });
  return {
    socket,
    closed,
    async ask(bytes = whole) {
      text = '';
      socket.write(bytes);
      // The body of an answer is shorter than its announced length only while more is to come.
      const isWhole = (): boolean => {
        const length = /content-length: (\d+)/i.exec(text)?.[1];
        const head = text.indexOf('\r\n\r\n');
        return head >= 0 && length !== undefined && text.length >= head + 4 + Number(length);
      };
      while (!isWhole() && !socket.closed) await Promise.race([closed, new Promise<void>((resolve) => (wake = resolve))]);
      return isWhole() ? Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]) : undefined;
    },
  };
}

test('the CA file is replaced: idle connections end, and who is in the middle of a request is judged by the new one', {
  timeout: 30_000,
}, async () => {
  using old = makeCa('old');
  using next = makeCa('next');
  const caFile = file('replaced-ca.crt');
  writeFileSync(caFile, old.cert);
  const time = steered();
  await using s = await start({ settings: { clientCaFile: caFile }, options: { clock: time.clock } });
  const { port } = s.server;
  const ofOld = old.issue({ commonName: 'admin' });
  const ofNext = next.issue({ commonName: 'admin' });
  const idle = await open(port, ofOld);
  const busy = await open(port, ofOld);
  const early = await open(port, ofNext);
  assert.deepEqual([await idle.ask(), await busy.ask(), await early.ask()], [200, 200, 401]);
  for (const each of [busy, early]) each.socket.write(whole.slice(0, 10));
  // The server has the first bytes, so these connections are not idle.
  await systemClock.sleep(500, AbortSignal.timeout(5000));
  writeFileSync(caFile, next.cert);
  await time.look();
  await idle.closed;
  assert.equal(await busy.ask(whole.slice(10)), 401, 'the old CA counts no more');
  assert.equal(await early.ask(whole.slice(10)), 200, 'the new one counts at once');
  await Promise.all([busy.closed, early.closed]);
  assert.equal(await (await open(port, ofOld)).ask(), 401);
  const fresh = await open(port, ofNext);
  assert.equal(await fresh.ask(), 200);
  // A file in the middle of being written: the one before stays.
  writeFileSync(caFile, next.cert.slice(0, 200));
  await time.look();
  assert.equal(await fresh.ask(), 200);
  // Both, as while authorities are rotated.
  writeFileSync(caFile, old.cert + next.cert);
  await time.look();
  await fresh.closed;
  for (const pair of [ofOld, ofNext]) assert.equal(await (await open(port, pair)).ask(), 200);
});

test('a certificate that runs out, or is not valid yet by our clock, counts for no request more on the connection it came with', async () => {
  const time = steered();
  await using s = await start({ options: { clock: time.clock } });
  const connection = await open(s.server.port, { cert: read('admin.crt'), key: read('admin.key') });
  assert.equal(await connection.ask(), 200);
  time.moveWall(2 * 86_400_000);
  assert.equal(await connection.ask(), 401, 'after notAfter');
  time.moveWall(-86_400_000);
  assert.equal(await connection.ask(), 401, 'before notBefore');
  time.moveWall(0);
  assert.equal(await connection.ask(), 200);
});

/** A chain of the fixture's root → intermediate → leaf, as files; gives what the leaf's holder sends. */
function chainOf(name: string, extensions: string): { cert: string; key: string } {
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const sign = (who: string, by: string, ext: string): void => {
    openssl('req', ...ec, '-subj', `/CN=${who}`, '-keyout', `${who}.key`, '-out', `${who}.csr`);
    writeFileSync(file(`${who}.ext`), ext);
    openssl(
      'x509',
      '-req',
      '-in',
      `${who}.csr`,
      '-CA',
      `${by}.crt`,
      '-CAkey',
      `${by}.key`,
      '-days',
      '1',
      '-extfile',
      `${who}.ext`,
      '-out',
      `${who}.crt`,
    );
  };
  sign(`${name}-inter`, 'ca', extensions);
  sign(`${name}-leaf`, `${name}-inter`, 'extendedKeyUsage=clientAuth');
  return { cert: read(`${name}-leaf.crt`) + read(`${name}-inter.crt`), key: read(`${name}-leaf.key`) };
}

test('chains: an intermediate that the client sends counts when it is an authority, and for clients', { timeout: 30_000 }, async () => {
  await using s = await start();
  const table: [string, string, number][] = [
    ['good', 'basicConstraints=critical,CA:true', 200],
    ['noca', 'basicConstraints=critical,CA:false', 401],
    ['serving-only', 'basicConstraints=critical,CA:true\nextendedKeyUsage=serverAuth', 401],
  ];
  for (const [name, extensions, status] of table)
    assert.equal(await (await open(s.server.port, chainOf(name, extensions))).ask(), status, name);
});

test('verdicts on a certificate', () => {
  using ca = makeCa('root');
  using other = makeCa('other');
  const roots = [new X509Certificate(ca.cert)];
  const leaf = new X509Certificate(ca.issue({ commonName: 'admin' }).cert);
  const now = Date.now() + 60_000;
  const day = 86_400_000;
  assert.equal(problemOfCertificate({ leaf, authorized: true }, roots, now), undefined);
  assert.equal(problemOfCertificate({ leaf, authorized: undefined }, roots, now), undefined);
  const unknown = 'x509: certificate signed by unknown authority';
  assert.equal(problemOfCertificate({ leaf, authorized: false }, roots, now), unknown, 'OpenSSL refused it by the same authorities');
  assert.equal(problemOfCertificate({ leaf, authorized: true }, [], now), unknown);
  assert.equal(problemOfCertificate({ leaf, authorized: true }, [new X509Certificate(other.cert)], now), unknown);
  assert.match(
    problemOfCertificate({ leaf, authorized: true }, roots, now + 1.5 * day) ?? '',
    /^x509: certificate has expired or is not yet valid: current time .* is after /,
  );
  assert.match(problemOfCertificate({ leaf, authorized: true }, roots, now - day) ?? '', /is before /);
  const forServers = new X509Certificate(read('wrong-usage.crt'));
  const theirs = [new X509Certificate(readFileSync(file('ca.crt'), 'utf8'))];
  assert.match(problemOfCertificate({ leaf: forServers, authorized: true }, theirs, now) ?? '', /incompatible key usage/);
  // An authority of the same name with another key.
  using namesake = makeCa('root');
  assert.equal(problemOfCertificate({ leaf, authorized: true }, [new X509Certificate(namesake.cert)], now), unknown);
  assert.equal(problemOfCertificate({ leaf, authorized: true }, [new X509Certificate(namesake.cert), ...roots], now), undefined);
});
