// A unix socket on which a daemon of this machine answers root's commands.
import { chmod, mkdir, rm } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { dirname } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { urlOf } from './handle.ts';
import { createListener, type Handler, listen } from './listener.ts';
import { sendError } from './reply.ts';

export interface LocalSocketOptions {
  /** Path of the socket; its folder is made when missing. */
  readonly socket: string;
  readonly clock: Clock;
  readonly log: Log;
  /** The signal aborts when the client has gone or the server ends. NotFound becomes 404, BadRequest 400, Conflict 409, all else 500. */
  readonly answer: (request: IncomingMessage, response: ServerResponse, signal: AbortSignal) => Promise<void>;
}

/** Serves on a socket that only root can open. One that somebody answers on is left to them, and undefined returned. */
export async function serveLocalSocket(options: LocalSocketOptions): Promise<AsyncDisposable | undefined> {
  const { socket, log } = options;
  await mkdir(dirname(socket), { recursive: true, mode: 0o755 });
  if (await answers(socket)) {
    log.warn({ socket }, 'another agent answers on the local socket: this one has none');
    return undefined;
  }
  await rm(socket, { force: true });
  const closing = new AbortController();
  const handle: Handler = (request, response) => {
    const gone = new AbortController();
    const abort = (): void => gone.abort(new AgentError('Canceled', 'the client has gone'));
    response.once('close', abort);
    closing.signal.addEventListener('abort', abort, { once: true });
    void options
      .answer(request, response, gone.signal)
      .catch((error: unknown) => {
        if (!gone.signal.aborted) sendError(response, statusOfError(error), messageOf(error));
      })
      .finally(() => closing.signal.removeEventListener('abort', abort));
  };
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(socket, { force: true }));
  await listen(stack, createListener({ clock: options.clock, log, handle }), { path: socket });
  await chmod(socket, 0o600);
  const kept = stack.move();
  return {
    async [Symbol.asyncDispose]() {
      closing.abort();
      await kept.disposeAsync();
    },
  };
}

/** The parts of the path, their percent escapes read. Throws AgentError BadRequest for a broken escape. */
export function pathParts(request: IncomingMessage): { url: URL; parts: string[] } {
  const url = urlOf(request);
  return { url, parts: url.pathname.slice(1).split('/').map(decoded) };
}

function statusOfError(error: unknown): number {
  if (hasCode(error, 'NotFound')) return 404;
  if (hasCode(error, 'Conflict')) return 409;
  return hasCode(error, 'BadRequest') ? 400 : 500;
}

/** True when somebody serves on the socket. */
function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const request = httpRequest({ socketPath: socket, path: '/status', timeout: 2000 }, (response) => {
      response.resume();
      resolve(true);
    });
    request.on('timeout', () => request.destroy());
    request.on('error', () => resolve(false));
    request.end();
  });
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch (error) {
    throw new AgentError('BadRequest', `the path has a broken percent escape: ${part.slice(0, 100)}`, { cause: error });
  }
}
