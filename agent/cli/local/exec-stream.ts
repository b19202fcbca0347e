import type { Readable, Writable } from 'node:stream';
import { AgentError, messageOf } from '../../base/errors.ts';
import { openWebSocket } from './websocket.ts';

// Kubernetes' remote command over WebSocket (k8s.io/apimachinery/pkg/util/remotecommand): each message begins with its channel's number.
const channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;
// Version 5 can end stdin alone; runtimes before Kubernetes 1.30's streaming library know version 4 only.
const protocols = ['v5.channel.k8s.io', 'v4.channel.k8s.io'];

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
  using socket = await openWebSocket(url, protocols, signal);
  const send = (to: number, data: Uint8Array): boolean => {
    const message = new Uint8Array(data.length + 1);
    message[0] = to;
    message.set(data, 1);
    return socket.send(message);
  };
  const resize = (): void => {
    if (!stdout.columns) return;
    send(channel.resize, Buffer.from(JSON.stringify({ Width: stdout.columns, Height: stdout.rows })));
  };
  const onInput = (chunk: Buffer): void => {
    if (!send(channel.stdin, chunk)) stdin.pause();
  };
  const onInputEnd = (): void => {
    if (socket.protocol === 'v5.channel.k8s.io') send(channel.close, Uint8Array.of(channel.stdin));
    else
      stderr.write(
        'keelson: the input has ended, which this container runtime (containerd before 2.0) cannot tell the command; Ctrl-C ends it if it waits for more\n',
      );
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
    for await (const message of socket.messages()) {
      const [from] = message;
      const data = message.subarray(1);
      if (from === channel.error) last += data.toString('utf8');
      const output = from === undefined ? undefined : outputs.get(from);
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
