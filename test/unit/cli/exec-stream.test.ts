import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { PassThrough, Readable, Writable } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { runStream, type Terminal } from '../../../agent/cli/local/exec-stream.ts';

const never = new AbortController().signal;
const success = '{"metadata":{},"status":"Success"}';

/** A server's frame: unmasked. */
function frame(opcode: number, body: Buffer, final = true): Buffer {
  const head = [(final ? 0x80 : 0) | opcode];
  if (body.length < 126) head.push(body.length);
  else if (body.length < 65_536) head.push(126, body.length >> 8, body.length & 0xff);
  else head.push(127, 0, 0, 0, 0, ...[24, 16, 8, 0].map((shift) => (body.length >>> shift) & 0xff));
  return Buffer.concat([Buffer.from(head), body]);
}
const message = (channel: number, body: Buffer | string): Buffer => frame(2, Buffer.concat([Buffer.of(channel), Buffer.from(body)]));

/** What a client has sent, unmasked: [opcode, body]. */
function unmasked(bytes: Buffer): { frames: [number, Buffer][]; rest: Buffer } {
  const frames: [number, Buffer][] = [];
  for (;;) {
    const size = (bytes[1] ?? 0) & 0x7f;
    const headLength = (size === 127 ? 10 : size === 126 ? 4 : 2) + 4;
    if (bytes.length < headLength) return { frames, rest: bytes };
    const length = size === 127 ? Number(bytes.readBigUInt64BE(2)) : size === 126 ? bytes.readUInt16BE(2) : size;
    if (bytes.length < headLength + length) return { frames, rest: bytes };
    const mask = bytes.subarray(headLength - 4, headLength);
    const body = Buffer.from(bytes.subarray(headLength, headLength + length).map((byte, i) => byte ^ (mask[i & 3] ?? 0)));
    frames.push([(bytes[0] ?? 0) & 0x0f, body]);
    bytes = bytes.subarray(headLength + length);
  }
}

/** A runtime's streaming server: `serve` gets the upgraded connection. */
async function runtime(t: TestContext, serve: (socket: Socket, request: IncomingMessage) => void, protocol = 'v5.channel.k8s.io') {
  const sockets = new Set<Socket>();
  const server = createServer((_request, response) => response.writeHead(500).end('no')).on(
    'upgrade',
    (request: IncomingMessage, socket: Socket) => {
      sockets.add(socket.on('error', () => undefined));
      if (request.url === '/refused') {
        socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n');
        return;
      }
      const accept = createHash('sha1')
        .update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
        .digest('base64');
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${accept}\r\nSec-WebSocket-Protocol: ${protocol}\r\n\r\n`,
      );
      serve(socket, request);
    },
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function terminal(stdin: Readable, stdout: Writable = new PassThrough().resume()): Terminal & { said: () => string } {
  let said = '';
  const stderr = new Writable({
    write: (chunk, _encoding, done) => {
      said += chunk;
      done();
    },
  });
  return { stdin, stdout, stderr, said: () => said };
}

/** Waits until `value` has been the same for a while. */
async function settled(value: () => number): Promise<number> {
  for (let before = -1, same = 0; ; ) {
    const now = value();
    same = now === before ? same + 1 : 0;
    if (same >= 20 && now > 0) return now;
    before = now;
    await systemClock.sleep(10, never);
  }
}

const pieceBytes = 64 * 1024;
const pieces = 512;
// Two sockets' buffers of the kernel, of some megabytes each, hold a part of it; what must not happen is that memory holds all.
const total = pieceBytes * pieces;

test('a huge input is read no faster than the container takes it, and arrives whole', async (t) => {
  let taken = 0;
  let arrived = 0;
  let wrong = 0;
  let rest = Buffer.alloc(0);
  let there: Socket | undefined;
  const url = await runtime(t, (socket) => {
    there = socket.pause();
    socket.on('data', (chunk: Buffer) => {
      const read = unmasked(Buffer.concat([rest, chunk]));
      rest = Buffer.from(read.rest);
      for (const [, body] of read.frames) {
        if (body[0] === 0) {
          if (body[1] !== (Math.floor(arrived / pieceBytes) & 0xff)) wrong++;
          arrived += body.length - 1;
        }
        if (body[0] === 255) socket.end(Buffer.concat([message(3, success), frame(8, Buffer.from([3, 232]))]));
      }
    });
    socket.pause();
  });
  const stdin = new Readable({
    highWaterMark: pieceBytes,
    read() {
      this.push(taken === pieces ? null : Buffer.alloc(pieceBytes, taken & 0xff));
      if (taken < pieces) taken++;
    },
  });
  const run = runStream(url, { stdin: true, tty: true }, terminal(stdin), never);
  const stalled = await settled(() => taken);
  assert.ok(stalled < pieces / 2, `${stalled} of ${pieces} pieces were read although nobody takes them`);
  there?.resume();
  assert.equal(await run, 0);
  assert.deepEqual([arrived, wrong], [total, 0]);
});

test('a huge output is read no faster than it is taken, and none of it is lost at the end', async (t) => {
  let sent = 0;
  const url = await runtime(t, (socket) => {
    const more = (): void => {
      while (sent < pieces) {
        sent++;
        if (!socket.write(message(1, Buffer.alloc(pieceBytes)))) return void socket.once('drain', more);
      }
      socket.end(Buffer.concat([message(3, success), frame(8, Buffer.alloc(0))]));
    };
    more();
  });
  let taken = 0;
  let blocked: (() => void) | undefined;
  let open = false;
  const stdout = new Writable({
    write: (chunk, _encoding, done) => {
      taken += chunk.length;
      if (open) done();
      else blocked = done;
    },
  });
  const run = runStream(url, { stdin: false, tty: false }, terminal(Readable.from([]), stdout), never);
  const stalled = await settled(() => sent);
  assert.ok(stalled < pieces / 2, `${stalled} of ${pieces} pieces were taken from the container although nobody reads them`);
  open = true;
  blocked?.();
  assert.equal(await run, 0);
  assert.equal(taken, total);
});

test('the exit code of a command that leaves its input unread, from a runtime that breaks the connection', async (t) => {
  const url = await runtime(t, (socket) => {
    socket.pause();
    // Unread input makes the close a reset.
    setTimeout(
      () => socket.write(Buffer.concat([message(1, 'out'), message(3, success), frame(8, Buffer.alloc(0))]), () => socket.destroy()),
      5,
    );
  });
  const endless = new Readable({
    read() {
      this.push(Buffer.alloc(1000));
    },
  });
  let out = '';
  const stdout = new Writable({
    write: (chunk, _encoding, done) => {
      out += chunk;
      done();
    },
  });
  assert.equal(await runStream(url, { stdin: true, tty: true }, terminal(endless, stdout), never), 0);
  assert.equal(out, 'out');
  assert.equal(endless.isPaused(), true);
});

const failure = JSON.stringify({
  status: 'Failure',
  reason: 'NonZeroExitCode',
  details: { causes: [{ reason: 'ExitCode', message: '3' }] },
});
const ends: [string, bytes: Buffer[], expected: number | RegExp][] = [
  ['an exit code', [message(3, failure)], 3],
  ['a status in fragments', [frame(2, Buffer.from(`\x03${success.slice(0, 5)}`), false), frame(0, Buffer.from(success.slice(5)))], 0],
  ['a ping between, and a message of no bytes', [frame(9, Buffer.from('hi')), frame(2, Buffer.alloc(0)), message(3, success)], 0],
  ['an end without a word', [], /ended without an exit code/],
  ['no WebSocket', [Buffer.from([0x82, 0x80, 0, 0, 0, 0])], /broke: Invalid WebSocket frame: MASK/],
];
for (const [name, bytes, expected] of ends)
  test(`a stream's end: ${name}`, async (t) => {
    const url = await runtime(t, (socket) => void socket.end(Buffer.concat(bytes)));
    const run = runStream(url, { stdin: false, tty: false }, terminal(Readable.from([])), never);
    if (typeof expected === 'number') assert.equal(await run, expected);
    else await assert.rejects(run, { code: 'Unavailable', message: expected });
  });

test('a runtime that refuses, or is not there, is told', async (t) => {
  const url = await runtime(t, () => undefined);
  const run = (to: string): Promise<number> => runStream(to, { stdin: false, tty: false }, terminal(Readable.from([])), never);
  await assert.rejects(run(`${url}/refused`), { code: 'Unavailable', message: /did not open: HTTP 404 Not Found/ });
  await assert.rejects(run('http://127.0.0.1:1/'), { code: 'Unavailable', message: /did not open: .*ECONNREFUSED/ });
});

test('an abort ends it with its reason, before and after the stream stands', async (t) => {
  for (const early of [true, false]) {
    const controller = new AbortController();
    const opened = Promise.withResolvers<void>();
    const url = await runtime(t, () => opened.resolve());
    if (early) controller.abort(new Error('enough'));
    const run = runStream(url, { stdin: true, tty: true }, terminal(new PassThrough()), controller.signal);
    if (!early) void opened.promise.then(() => controller.abort(new Error('enough')));
    await assert.rejects(run, /^Error: enough$/);
  }
});

test('whoever reads the output has had enough: as if SIGPIPE had ended it', async (t) => {
  const url = await runtime(t, (socket) => void socket.write(message(1, 'y\n')));
  const stdout = new Writable({ write: (_chunk, _encoding, done) => done(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' })) });
  assert.equal(await runStream(url, { stdin: false, tty: false }, terminal(Readable.from([]), stdout), never), 141);
});

test('the end of the input is told, where the protocol can', async (t) => {
  for (const [protocol, expected] of [
    ['v5.channel.k8s.io', [[2, 'ff00']]],
    ['v4.channel.k8s.io', []],
  ] as const) {
    const seen: [number, string][] = [];
    const url = await runtime(
      t,
      (socket) => {
        socket.on('data', (chunk: Buffer) => {
          for (const [code, body] of unmasked(chunk).frames) if (code === 2) seen.push([code, body.toString('hex')]);
        });
        setTimeout(() => socket.end(message(3, success)), 50);
      },
      protocol,
    );
    const streams = terminal(Readable.from([]));
    assert.equal(await runStream(url, { stdin: true, tty: true }, streams, never), 0);
    assert.deepEqual(seen, expected);
    assert.equal(streams.said().includes('the input has ended'), protocol === 'v4.channel.k8s.io');
  }
});
