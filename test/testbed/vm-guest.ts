// Speaks to the QEMU guest agent in a virtual machine: JSON lines over the unix socket of a virtio-serial port (qemu.git docs/interop/qemu-ga.rst).
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from './wait.ts';

export interface GuestResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface Guest extends Disposable {
  /** Runs a shell script in the guest to its end. Rejects when it takes longer than `timeoutMs`; the script then runs on. */
  sh(script: string, options?: { readonly input?: string; readonly timeoutMs?: number }): Promise<GuestResult>;
}

// Each question costs the emulated CPU some milliseconds.
const firstPollMs = 50;
const lastPollMs = 1000;

/** Connects, and resolves when the guest's agent answers, which tells that the guest has booted. `alive` false gives up. */
export const connectGuest = async (path: string, bootMs: number, alive: () => boolean): Promise<Guest> => {
  const socket = await waitFor('the socket of the guest agent', 20_000, () => open(path));
  let waiting: { resolve: (value: unknown) => void; reject: (error: Error) => void } | undefined;
  let text = '';
  let closed: Error | undefined;
  const end = (error: Error): void => {
    closed ??= error;
    waiting?.reject(closed);
  };
  // Latin 1: the answer to a delimited sync begins with the byte 0xFF, and all else is ASCII.
  socket.setEncoding('latin1');
  let syncing = true;
  socket.on('data', (chunk: string) => {
    text += chunk;
    if (syncing) {
      const at = text.lastIndexOf('\xff');
      if (at < 0 || !text.includes('\n', at)) return;
      text = text.slice(at + 1);
    }
    for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n')) {
      const line = text.slice(0, at);
      text = text.slice(at + 1);
      const { return: value, error } = JSON.parse(line) as { return?: unknown; error?: { desc: string } };
      const { resolve, reject } = waiting ?? {};
      if (error === undefined) resolve?.(value);
      else reject?.(new Error(error.desc));
    }
  });
  socket.on('error', (error) => end(error));
  socket.on('close', () => end(new Error('the virtual machine has ended')));

  // The agent answers one request after another.
  let last: Promise<unknown> = Promise.resolve();
  const ask = <T>(execute: string, args: object, timeoutMs = 120_000): Promise<T> => {
    const next = last
      .catch(() => undefined)
      .then(async () => {
        if (closed !== undefined) throw closed;
        const { promise, resolve, reject } = Promise.withResolvers<unknown>();
        waiting = { resolve, reject };
        const timer = setTimeout(() => reject(new Error(`the guest agent did not answer ${execute} in ${timeoutMs / 1000} s`)), timeoutMs);
        socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
        try {
          return (await promise) as T;
        } finally {
          clearTimeout(timer);
          waiting = undefined;
        }
      });
    last = next;
    return next;
  };

  // What was written before the agent listened is lost or answered late: the answer with the ID of the last request is the one that counts.
  let id = 0;
  await waitFor(
    'the virtual machine to boot',
    bootMs,
    async () => {
      if (!alive()) throw new Error('the virtual machine has ended');
      id += 1;
      // 0xFF makes the agent drop whatever it has read of an unfinished request.
      socket.write(Buffer.of(0xff));
      const answer = await ask<number>('guest-sync-delimited', { id }, 2000);
      return answer === id ? true : undefined;
    },
    500,
  );
  syncing = false;

  return {
    async sh(script, { input, timeoutMs = 120_000 } = {}) {
      const giveUpAt = performance.now() + timeoutMs;
      const { pid } = await ask<{ pid: number }>('guest-exec', {
        path: '/bin/sh',
        arg: ['-c', script],
        env: ['PATH=/opt/parts/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', 'LC_ALL=C.UTF-8'],
        'capture-output': true,
        ...(input === undefined ? {} : { 'input-data': Buffer.from(input).toString('base64') }),
      });
      for (let pollMs = firstPollMs; ; pollMs = Math.min(lastPollMs, pollMs * 2)) {
        const status = await ask<ExecStatus>('guest-exec-status', { pid });
        if (status.exited)
          return {
            code: status.exitcode ?? 128 + (status.signal ?? 0),
            out: decode(status['out-data']),
            err: decode(status['err-data']),
          };
        if (performance.now() > giveUpAt) throw new Error(`in the guest, this took longer than ${timeoutMs / 1000} s: ${script}`);
        await sleep(pollMs);
      }
    },
    [Symbol.dispose]: () => void socket.destroy(),
  };
};

interface ExecStatus {
  readonly exited: boolean;
  readonly exitcode?: number;
  readonly signal?: number;
  readonly 'out-data'?: string;
  readonly 'err-data'?: string;
}

const decode = (text: string | undefined): string => Buffer.from(text ?? '', 'base64').toString();

const open = (path: string): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => resolve(socket));
    socket.once('error', reject);
  });
