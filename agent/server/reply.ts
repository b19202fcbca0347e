import type { ServerResponse } from 'node:http';
import type { Pod } from '../model/generated/api.ts';

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
