/** Odd connections to an HTTP port, dealt by a seed: what strangers, scanners and broken clients send. */

export interface OddConnection {
  /** Told when it does harm. */
  readonly name: string;
  /** Sent one after the other, each in a turn of its own. */
  readonly pieces: readonly Buffer[];
  /** How the client goes: it ends its side, breaks the connection, or waits for the server's end. */
  readonly end: 'fin' | 'break' | 'wait';
  /** The request is whole and well-formed, so it has an answer before the connection ends. */
  readonly whole: boolean;
}

/** A generator of numbers in [0, 1) (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const methods = [
  'GET',
  'GET',
  'GET',
  'POST',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'HEAD',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  'PROPFIND',
  'get',
  'FOO BAR',
  '',
];
const paths = [
  '/exec/d/p/c',
  '/exec/default/web/c?command=sh&input=1&output=1',
  '/attach/default/web/c?output=1',
  '/portForward/default/web',
  '/portForward/default/web?port=80',
  '/run/default/web/c?cmd=x',
  '/containerLogs/default/web/c?follow=true',
  '/pods',
  '/healthz',
  '/metrics',
  '/logs/',
  '/why/a/%zz',
  '/status',
  '/',
  '//etc/passwd',
  '*',
  'node:443',
  'http://[/pods',
  'http://elsewhere/exec/d/p/c',
  '/%zz/%c0%af',
  '/exec/%00/%ff/..',
  `/exec/d/p/${'x'.repeat(70_000)}`,
  '/\u00e4\u00ff',
];
const headerSets: readonly (readonly string[])[] = [
  [],
  ['Connection: close'],
  ['Connection: Upgrade', 'Upgrade: x'],
  ['Connection: Upgrade', 'Upgrade: SPDY/3.1', 'X-Stream-Protocol-Version: v4.channel.k8s.io'],
  ['Connection: Upgrade, keep-alive', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='],
  ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.Z29vZA'],
  ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA'],
  ['Upgrade: x'],
  ['Connection: Upgrade'],
  ['Expect: 100-continue'],
  ['Expect: nonsense'],
  ['Authorization: Bearer bad'],
  ['Authorization: Bearer good', 'Connection: Upgrade', 'Upgrade: x'],
  ['Authorization: Bearer good'],
  ['Authorization: Bearer', 'Authorization: Basic Og=='],
  ['Host: other'],
  ['X-A: 1\r\n folded'],
  ['X-\u0000: 1'],
  [`X-Long: ${'y'.repeat(100_000)}`],
  ['Accept-Encoding: gzip', 'Range: bytes=0-1'],
];
const bodies: readonly { readonly headers: readonly string[]; readonly bytes: string; readonly whole: boolean }[] = [
  { headers: [], bytes: '', whole: true },
  { headers: ['Content-Length: 0'], bytes: '', whole: true },
  { headers: ['Content-Length: 1'], bytes: '', whole: false },
  { headers: ['Content-Length: 1'], bytes: 'x', whole: true },
  { headers: ['Content-Length: 1'], bytes: 'xGET /pods HTTP/1.1\r\nHost: n\r\n\r\n', whole: false },
  { headers: ['Content-Length: -1'], bytes: '', whole: false },
  { headers: ['Content-Length: 99999999999999999999'], bytes: 'x', whole: false },
  { headers: ['Content-Length: 3', 'Content-Length: 4'], bytes: 'abc', whole: false },
  { headers: ['Transfer-Encoding: chunked'], bytes: '', whole: false },
  { headers: ['Transfer-Encoding: chunked'], bytes: '1\r\nx\r\n0\r\n\r\n', whole: true },
  { headers: ['Transfer-Encoding: chunked'], bytes: '5\r\nx', whole: false },
  { headers: ['Transfer-Encoding: chunked'], bytes: 'zz\r\n', whole: false },
  { headers: ['Transfer-Encoding: chunked'], bytes: `1;${'e'.repeat(20_000)}\r\nx\r\n0\r\n\r\n`, whole: false },
  { headers: ['Transfer-Encoding: chunked', 'Content-Length: 4'], bytes: '0\r\n\r\nGET /pods HTTP/1.1\r\n\r\n', whole: false },
  { headers: ['Transfer-Encoding: x, chunked'], bytes: '0\r\n\r\n', whole: false },
];
const wellFormed = /^(?:GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS|TRACE|PROPFIND) \/[!-~]* HTTP\/1\.1$/;

/** One odd connection. About a third of them are whole requests in an odd dress. */
export function oddConnection(random: () => number): OddConnection {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  const end = pick(['fin', 'break', 'wait', 'wait'] as const);
  const shape = random();
  if (shape < 0.06) {
    const bytes = Buffer.from(Array.from({ length: 1 + Math.floor(random() * 600) }, () => Math.floor(random() * 256)));
    return { name: `noise ${bytes.subarray(0, 8).toString('hex')}`, pieces: [bytes], end: 'fin', whole: false };
  }
  if (shape < 0.08) return { name: 'HTTP/2 preface', pieces: [Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')], end, whole: false };
  if (shape < 0.1) return { name: 'nothing', pieces: [], end: end === 'wait' ? 'break' : end, whole: false };
  const one = () => request(pick(methods), pick(paths), pick(headerSets), pick(bodies));
  if (shape < 0.22) {
    const many = Array.from({ length: 2 + Math.floor(random() * 12) }, one);
    return {
      name: `pipeline of ${many.map((r) => r.name).join(' | ')}`,
      pieces: [Buffer.concat(many.map((r) => r.bytes))],
      end,
      whole: false,
    };
  }
  const { name, bytes, whole } = one();
  const cut = random() < 0.15 ? Math.floor(random() * bytes.length) : bytes.length;
  const sent = bytes.subarray(0, cut);
  const middle = Math.floor(random() * sent.length);
  const pieces = random() < 0.4 ? [sent.subarray(0, middle), sent.subarray(middle)] : [sent];
  return { name: cut === bytes.length ? name : `${name}, cut at ${cut}`, pieces, end, whole: whole && cut === bytes.length };
}

function request(
  method: string,
  path: string,
  headers: readonly string[],
  body: (typeof bodies)[number],
): { name: string; bytes: Buffer; whole: boolean } {
  const line = `${method} ${path} HTTP/1.1`;
  const text = `${[line, ...(headers.some((h) => h.startsWith('Host')) ? [] : ['Host: n']), ...headers, ...body.headers].join('\r\n')}\r\n\r\n${body.bytes}`;
  const odd = headers.some((h) => h.includes('folded') || h.includes('\u0000'));
  return {
    name: `${line.slice(0, 60)} [${[...headers, ...body.headers].join('; ').slice(0, 120)}] ${JSON.stringify(body.bytes.slice(0, 20))}`,
    bytes: Buffer.from(text, 'latin1'),
    whole: body.whole && !odd && wellFormed.test(line),
  };
}
