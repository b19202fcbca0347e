import { AgentError, messageOf } from '../../base/errors.ts';

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

/** Joins our own stdin, stdout and stderr with a command in a container; resolves to its exit code. */
export async function runStream(
  url: string,
  options: { readonly stdin: boolean; readonly tty: boolean },
  signal: AbortSignal,
): Promise<number> {
  const socket = new WebSocket(url.replace(/^http/, 'ws'), protocols);
  socket.binaryType = 'arraybuffer';
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  let last = '';
  const send = (to: number, data: Uint8Array): void => {
    if (socket.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(data.length + 1);
    message[0] = to;
    message.set(data, 1);
    socket.send(message);
  };
  const resize = (): void => {
    if (!process.stdout.columns) return;
    const size = JSON.stringify({ Width: process.stdout.columns, Height: process.stdout.rows });
    send(channel.resize, Buffer.from(size));
  };
  const onInput = (chunk: Buffer): void => send(channel.stdin, chunk);
  const onInputEnd = (): void => {
    if (socket.protocol === 'v5.channel.k8s.io') send(channel.close, Uint8Array.of(channel.stdin));
    else
      process.stderr.write(
        'keelson: the input has ended, which this container runtime (containerd before 2.0) cannot tell the command; Ctrl-C ends it if it waits for more\n',
      );
  };
  const onAbort = (): void => {
    reject(signal.reason);
    socket.close();
  };
  socket.addEventListener('open', () => {
    if (options.tty) {
      process.stdin.setRawMode(true);
      process.stdout.on('resize', resize);
      resize();
    }
    if (!options.stdin) return;
    process.stdin.on('data', onInput);
    process.stdin.once('end', onInputEnd);
  });
  socket.addEventListener('message', (event: { data: unknown }) => {
    const data = Buffer.from(event.data as ArrayBuffer);
    const body = data.subarray(1);
    if (data[0] === channel.stdout) process.stdout.write(body);
    else if (data[0] === channel.stderr) process.stderr.write(body);
    else if (data[0] === channel.error) last += body.toString('utf8');
  });
  socket.addEventListener('error', (event: { error?: unknown; message?: string }) =>
    reject(new AgentError('Unavailable', `the stream to the container broke: ${event.message || messageOf(event.error)}`)),
  );
  socket.addEventListener('close', () => {
    try {
      if (last === '') throw new AgentError('Unavailable', 'the stream to the container ended without an exit code');
      resolve(exitCodeOf(last));
    } catch (error) {
      reject(error);
    }
  });
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await promise;
  } finally {
    signal.removeEventListener('abort', onAbort);
    process.stdout.off('resize', resize);
    process.stdin.off('data', onInput);
    process.stdin.off('end', onInputEnd);
    process.stdin.pause();
    if (options.tty) process.stdin.setRawMode(false);
  }
}
