import type { ServerResponse } from 'node:http';
import type { Pod } from '../model/generated/api.ts';

/**
 * How many bytes of request line and headers are taken: as many as Go's servers take (net/http, DefaultMaxHeaderBytes). The command of an exec is in the query,
 * and Node's own 16 KiB are less than a script that somebody passes to `sh -c`.
 */
export const maxHeaderSize = 1024 * 1024;

export function sendPodList(response: ServerResponse, pods: Iterable<Pod>): void {
  sendJson(response, { kind: 'PodList', apiVersion: 'v1', metadata: {}, items: [...pods] });
}

export function sendJson(response: ServerResponse, value: object): void {
  const body = JSON.stringify(value);
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

export function sendText(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    'content-length': Buffer.byteLength(text),
    'x-content-type-options': 'nosniff',
  });
  response.end(text);
}

/** An error's text as the response, or at the end of one that is under way. */
export function sendError(response: ServerResponse, status: number, text: string): void {
  if (response.headersSent) response.end(text);
  else sendText(response, status, text);
}

/** Resolves when the client has taken what was written. */
export function drained(response: ServerResponse, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (): void => {
      response.off('drain', onDrain);
      signal.removeEventListener('abort', onAbort);
    };
    const onDrain = (): void => {
      done();
      resolve();
    };
    const onAbort = (): void => {
      done();
      reject(signal.reason);
    };
    response.once('drain', onDrain);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}
