// `keelson exec -i` with a file or a pipe as its input: the streams go over SPDY/3.1, where its end can be told to every runtime.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { PassThrough, Readable, Writable } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { constants, inflateSync } from 'node:zlib';
import { systemClock } from '../../../agent/base/clock.ts';
import { runStream, type Terminal } from '../../../agent/cli/local/exec-stream.ts';
import {
  controlFrame,
  createFrameReader,
  dataHead,
  type Frame,
  headerDictionary,
  openingFrames,
} from '../../../agent/cli/local/spdy-frames.ts';

const never = new AbortController().signal;
const success = '{"metadata":{},"status":"Success"}';
const failure = JSON.stringify({
  status: 'Failure',
  reason: 'NonZeroExitCode',
  details: { causes: [{ reason: 'ExitCode', message: '3' }] },
});
const input = { stdin: true, tty: false };
// The streams' numbers, in the order in which kubectl opens them.
const id = { error: 1, stdin: 3, stdout: 5, stderr: 7 } as const;

const data = (stream: number, bytes: Buffer | string, fin = false): Buffer =>
  Buffer.concat([dataHead(stream, Buffer.byteLength(bytes), fin), Buffer.from(bytes)]);
/** A stream is reset: how the servers of Go end each at the command's end. */
const reset = (stream: number): Buffer => controlFrame(3, Buffer.of(0, 0, 0, stream, 0, 0, 0, 5));
const resets = Buffer.concat(Object.values(id).map(reset));

interface Runtime {
  readonly url: string;
  readonly opened: { id: number; type: string }[];
}

/** A runtime's streaming server that speaks SPDY: `serve` gets the connection, and each frame that comes behind the opening of the streams. */
async function runtime(
  t: TestContext,
  serve: (socket: Socket) => ((frame: Frame) => void) | undefined,
  protocol = 'v4.channel.k8s.io',
): Promise<Runtime> {
  const sockets = new Set<Socket>();
  const opened: { id: number; type: string }[] = [];
  const server = createServer((_request, response) => response.writeHead(404).end()).on(
    'upgrade',
    (request: IncomingMessage, socket: Socket) => {
      sockets.add(socket.on('error', () => undefined));
      if (request.url === '/refused') return void socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n');
      assert.deepEqual(
        [request.method, request.headers.upgrade, request.headers['x-stream-protocol-version']],
        ['POST', 'SPDY/3.1', 'v4.channel.k8s.io'],
      );
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: ${protocol}\r\n\r\n`,
      );
      const blocks: Buffer[] = [];
      let take: ((frame: Frame) => void) | undefined;
      const read = createFrameReader();
      socket.on('data', (chunk: Buffer) => {
        for (const frame of read(chunk)) {
          if (frame.kind === 'control' && frame.type === 1) {
            blocks.push(frame.payload.subarray(10));
            opened.push({ id: frame.payload.readUInt32BE(0), type: '' });
            if (opened.length < 4) continue;
            const options = { dictionary: headerDictionary, finishFlush: constants.Z_SYNC_FLUSH };
            const headers = inflateSync(Buffer.concat(blocks), options).toString('latin1');
            const types = [...headers.matchAll(/streamtype\0\0\0.([a-z]+)/gs)];
            for (const [i, [, type = '']] of types.entries()) opened[i]!.type = type;
            take = serve(socket);
          } else take?.(frame);
        }
      });
    },
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, opened };
}

function terminal(stdin: Readable): Terminal & { out(): string; err(): string } {
  const said = { out: '', err: '' };
  const to = (name: 'out' | 'err') =>
    new Writable({
      write(chunk, _encoding, done) {
        said[name] += chunk;
        done();
      },
    });
  return { stdin, stdout: to('out'), stderr: to('err'), out: () => said.out, err: () => said.err };
}

test('the end of the input reaches the command, and what it says then comes back', async (t) => {
  const { url, opened } = await runtime(t, (socket) => {
    let text = '';
    return (frame) => {
      if (frame.kind !== 'data' || frame.stream !== id.stdin) return;
      text += frame.data.toString();
      if (frame.fin) socket.write(Buffer.concat([data(id.stdout, text), data(id.stderr, 'oops'), data(id.error, failure), resets]));
    };
  });
  const streams = terminal(Readable.from([Buffer.from('hi '), Buffer.from('there')]));
  assert.equal(await runStream(url, input, streams, never), 3);
  assert.deepEqual([streams.out(), streams.err()], ['hi there', 'oops']);
  assert.deepEqual(opened, [
    { id: 1, type: 'error' },
    { id: 3, type: 'stdin' },
    { id: 5, type: 'stdout' },
    { id: 7, type: 'stderr' },
  ]);
});

test('an answer in pieces of one byte, with pings and what else servers send', async (t) => {
  let pinged = '';
  const { url } = await runtime(t, (socket) => {
    const answer = Buffer.concat([
      controlFrame(4, Buffer.alloc(4)),
      ...Object.values(id).map((stream) => controlFrame(2, Buffer.of(0, 0, 0, stream, 0x78, 0xf9))),
      controlFrame(6, Buffer.of(0, 0, 0, 2)),
      controlFrame(9, Buffer.alloc(8)),
      data(id.stdout, ''),
      data(id.stdout, 'out'),
      data(99, 'of no stream of ours'),
      data(id.error, success),
      controlFrame(7, Buffer.alloc(8)),
      resets,
    ]);
    void (async () => {
      for (const byte of answer) {
        socket.write(Buffer.of(byte));
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    return (frame) => {
      if (frame.kind === 'control' && frame.type === 6) pinged = frame.payload.toString('hex');
    };
  });
  const streams = terminal(new PassThrough());
  assert.equal(await runStream(url, input, streams, never), 0);
  assert.equal(streams.out(), 'out');
  assert.equal(pinged, '00000002');
});

test('a huge input is read no faster than the container takes it, and arrives whole', async (t) => {
  const pieceBytes = 64 * 1024;
  const pieces = 512;
  let taken = 0;
  let arrived = 0;
  let there: Socket | undefined;
  const { url } = await runtime(t, (socket) => {
    there = socket.pause();
    return (frame) => {
      if (frame.kind !== 'data' || frame.stream !== id.stdin) return;
      arrived += frame.data.length;
      if (frame.fin) socket.write(Buffer.concat([data(id.error, success), resets]));
    };
  });
  const stdin = new Readable({
    highWaterMark: pieceBytes,
    read() {
      this.push(taken === pieces ? null : Buffer.alloc(pieceBytes));
      if (taken < pieces) taken++;
    },
  });
  const run = runStream(url, input, terminal(stdin), never);
  for (let before = -1, same = 0; same < 20 || taken === 0; before = taken) {
    same = taken === before ? same + 1 : 0;
    await systemClock.sleep(10, never);
  }
  assert.ok(taken < pieces / 2, `${taken} of ${pieces} pieces were read although nobody takes them`);
  there?.resume();
  assert.equal(await run, 0);
  assert.equal(arrived, pieceBytes * pieces);
});

test('the exit code of a command that leaves its input unread, from a runtime that breaks the connection', async (t) => {
  const { url } = await runtime(t, (socket) => {
    socket.pause();
    setTimeout(() => socket.write(Buffer.concat([data(id.stdout, 'out'), data(id.error, success)]), () => socket.destroy()), 5);
    return undefined;
  });
  const endless = new Readable({
    read() {
      this.push(Buffer.alloc(1000));
    },
  });
  const streams = terminal(endless);
  assert.equal(await runStream(url, input, streams, never), 0);
  assert.equal(streams.out(), 'out');
});

test('what is not as it should be is told', async (t) => {
  const { url } = await runtime(t, (socket) => void socket.end(Buffer.from('\x80\x02 no SPDY/3.1 at all')));
  const run = (to: string) => runStream(to, input, terminal(new PassThrough()), never);
  await assert.rejects(run(url), { code: 'Unavailable', message: /broke: what came is no SPDY\/3.1/ });
  await assert.rejects(run(`${url}/refused`), { code: 'Unavailable', message: /did not open: HTTP 404 Not Found/ });
  await assert.rejects(run('http://127.0.0.1:1/'), { code: 'Unavailable', message: /did not open: .*ECONNREFUSED/ });
  const silent = await runtime(t, (socket) => void socket.end());
  await assert.rejects(run(silent.url), { code: 'Unavailable', message: /ended without an exit code/ });
  const old = await runtime(t, () => undefined, 'channel.k8s.io');
  await assert.rejects(run(old.url), { code: 'Unavailable', message: /speaks channel.k8s.io, not v4.channel.k8s.io/ });
  const long = await runtime(t, (socket) => void socket.write(Buffer.of(0x80, 3, 0, 8, 0, 0xff, 0xff, 0xff)));
  await assert.rejects(run(long.url), { code: 'Unavailable', message: /a control frame of 16777215 bytes/ });
});

test('an abort ends it with its reason, before and after the streams stand', async (t) => {
  for (const early of [true, false]) {
    const controller = new AbortController();
    const { url } = await runtime(t, () => {
      controller.abort(new Error('enough'));
      return undefined;
    });
    if (early) controller.abort(new Error('enough'));
    await assert.rejects(runStream(url, input, terminal(new PassThrough()), controller.signal), /^Error: enough$/);
  }
});

test('the headers of a later stream are compressed as those that follow the earlier', async () => {
  const frames = await openingFrames([
    { id: 1, headers: { streamtype: 'error' } },
    { id: 3, headers: { streamtype: 'stdin' } },
  ]);
  const [first, second] = createFrameReader()(frames);
  assert.ok(first?.kind === 'control' && second?.kind === 'control');
  const blocks = Buffer.concat([first.payload.subarray(10), second.payload.subarray(10)]);
  const text = inflateSync(blocks, { dictionary: headerDictionary, finishFlush: constants.Z_SYNC_FLUSH });
  const block = (type: string): string => `\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05${type}`;
  assert.equal(text.toString('latin1'), block('error') + block('stdin'));
});
