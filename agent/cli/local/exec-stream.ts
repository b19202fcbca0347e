import type { Readable, Writable } from 'node:stream';
import { AgentError, messageOf } from '../../base/errors.ts';
import { channel, type RemoteStreams } from './remote-streams.ts';
import { openSpdyStreams } from './spdy.ts';
import { openWebSocket } from './websocket.ts';

// Version 5 can end stdin alone; runtimes before Kubernetes 1.30's streaming library know version 4 only.
const protocols = ['v5.channel.k8s.io', 'v4.channel.k8s.io'];
// The channel of version 5 that names another one whose end has come.
const closeChannel = 255;

interface ExecStatus {
  readonly status?: string;
  readonly message?: string;
  readonly reason?: string;
  readonly details?: { readonly causes?: readonly { readonly reason?: string; readonly message?: string }[] };
}

/** The exit code that a stream's last word tells; a failure other than an exit code throws AgentError ExecFailed. */
export function exitCodeOf(text: string): number {
  const status = JSON.parse(text) as ExecStatus;
  if (status.status === 'Success') return 0;
  const code = status.details?.causes?.find((cause) => cause.reason === 'ExitCode')?.message;
  if (status.reason === 'NonZeroExitCode' && code !== undefined) return Number(code);
  throw new AgentError('ExecFailed', status.message ?? text);
}

/** This program's own streams. */
export interface Terminal {
  readonly stdin: Readable & { setRawMode?(raw: boolean): unknown };
  readonly stdout: Writable & { readonly columns?: number; readonly rows?: number };
  readonly stderr: Writable;
}

// What a shell shows for a program that SIGPIPE ended, as it ends kubectl.
const brokenPipe = 141;

/**
 * Joins stdin, stdout and stderr with a command in a container; resolves to its exit code when all of its output has been taken. Each side is read no faster than
 * the other takes it. Throws AgentError Unavailable when the stream breaks.
 */
export async function runStream(
  url: string,
  options: { readonly stdin: boolean; readonly tty: boolean },
  terminal: Terminal,
  signal: AbortSignal,
): Promise<number> {
  const { stdin, stdout, stderr } = terminal;
  using socket = await openStreams(url, options, signal);
  const { send } = socket;
  const resize = (): void => {
    if (!stdout.columns) return;
    send(channel.resize, Buffer.from(JSON.stringify({ Width: stdout.columns, Height: stdout.rows })));
  };
  const onInput = (chunk: Buffer): void => {
    if (!send(channel.stdin, chunk)) stdin.pause();
  };
  const onInputEnd = (): void => {
    if (!socket.endInput())
      stderr.write('keelson: the input has ended, which cannot be told to a terminal; Ctrl-C ends the command if it waits for more\n');
  };
  const takeNoInput = (): void => {
    stdin.off('data', onInput);
    stdin.off('end', onInputEnd);
    stdin.pause();
  };
  const onAbort = (): void => socket[Symbol.dispose]();
  // Whoever reads our output may have had enough (`| head`). The listeners stay: such an error is told after its write's end.
  let unread = false;
  const onUnread = (error: NodeJS.ErrnoException): void => {
    unread ||= error.code === 'EPIPE';
    socket[Symbol.dispose]();
  };
  const write = (output: Writable, data: Buffer): Promise<void> =>
    // It has to be taken, not only kept: this program's end would lose it.
    new Promise((resolve, reject) =>
      output.write(data, (error) => {
        if (error == null) return resolve();
        onUnread(error);
        reject(error);
      }),
    );
  const outputs = new Map<number, Writable>([
    [channel.stdout, stdout],
    [channel.stderr, stderr],
  ]);
  for (const output of outputs.values()) output.on('error', onUnread);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  let last = '';
  try {
    if (options.tty) {
      stdin.setRawMode?.(true);
      stdout.on('resize', resize);
      resize();
    }
    if (options.stdin) {
      socket.onDrain(() => {
        if (stdin.listeners('data').includes(onInput)) stdin.resume();
      });
      socket.onBroken(takeNoInput);
      stdin.once('end', onInputEnd);
      stdin.on('data', onInput);
    }
    for await (const { from, data } of socket.messages()) {
      if (from === channel.error) last += data.toString('utf8');
      const output = outputs.get(from);
      if (output !== undefined && data.length > 0) await write(output, data);
    }
  } catch (error) {
    // A runtime that has told the end may break the connection, with something of ours unread.
    if (last === '' && !signal.aborted && !unread)
      throw new AgentError('Unavailable', `the stream to the container broke: ${messageOf(error)}`, { cause: error });
  } finally {
    signal.removeEventListener('abort', onAbort);
    stdout.off('resize', resize);
    takeNoInput();
    if (options.tty) stdin.setRawMode?.(false);
  }
  signal.throwIfAborted();
  if (unread) return brokenPipe;
  if (last === '') throw new AgentError('Unavailable', 'the stream to the container ended without an exit code');
  return exitCodeOf(last);
}

/**
 * Opens the command's streams: over SPDY when its input is a file or a pipe, whose end every runtime understands there (containerd before 2.0 only there), over
 * a WebSocket else. A runtime's address is good for one connection, so the second cannot be tried after the first.
 */
async function openStreams(url: string, { stdin, tty }: { stdin: boolean; tty: boolean }, signal: AbortSignal): Promise<RemoteStreams> {
  if (stdin && !tty) return await openSpdyStreams(url, ['error', 'stdin', 'stdout', 'stderr'], signal);
  const socket = await openWebSocket(url, protocols, signal);
  // Each message begins with its channel's number.
  const send = (to: number, data: Uint8Array): boolean => socket.send(Buffer.concat([Uint8Array.of(to), data]));
  return {
    send,
    endInput() {
      if (socket.protocol !== 'v5.channel.k8s.io') return false;
      send(closeChannel, Uint8Array.of(channel.stdin));
      return true;
    },
    onDrain: socket.onDrain,
    onBroken: socket.onBroken,
    async *messages() {
      for await (const message of socket.messages()) yield { from: message[0] ?? channel.error, data: message.subarray(1) };
    },
    [Symbol.dispose]: () => socket[Symbol.dispose](),
  };
}
