import { type Dispatcher, request } from 'undici';
import { type Clock, pause } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Table } from '../base/table.ts';
import { decodeFileText } from '../model/file-text.ts';
import { type AgentPod, podKey } from '../model/pod.ts';
import { keepFirstSeen, type StaticSource } from './file-source.ts';
import { type ManifestContext, parseManifest } from './static-pod.ts';
import type { PodSpecRow } from './worker.ts';

export interface HttpSourceOptions {
  readonly url: string;
  /** Sent along, each name with all its values. */
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** The way through a proxy. */
  readonly dispatcher?: Dispatcher | undefined;
  readonly nodeName: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Told of a pod that does not run because another of the list has its name. */
  readonly duplicate?: ((pod: AgentPod) => void) | undefined;
  /** By UID. */
  readonly table: Table<PodSpecRow>;
  /** httpCheckFrequency, ms. */
  readonly checkIntervalMs: number;
  readonly unknownFields: ManifestContext['unknownFields'];
  readonly allowApiReferences: boolean;
}

// pkg/kubelet/config/http.go
const requestTimeoutMs = 10_000;
const maxManifestBytes = 10 * 1024 * 1024;

/** Keeps the table at what a URL says, asked for periodically. What cannot be read or used changes nothing: the last good answer stays, as with the kubelet. */
export function startHttpSource(options: HttpSourceOptions): StaticSource {
  const { clock, log, table, url } = options;
  const controller = new AbortController();
  const stop = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  else options.signal.addEventListener('abort', stop, { once: true });
  const { signal } = controller;
  let last: string | undefined;
  let problem: string | undefined;
  let words: readonly string[] = [];

  async function look(): Promise<void> {
    const text = await fetchText();
    if (text === last) return;
    const { nodeName, unknownFields, allowApiReferences } = options;
    const { pods, warnings, passedOver } = parseManifest(text, {
      origin: url,
      source: 'http',
      nodeName,
      now: clock.wall(),
      unknownFields,
      allowApiReferences,
    });
    last = text;
    for (const warning of warnings) log.warn({ url }, warning);
    for (const word of passedOver) log.info({ url }, word);
    words = passedOver;
    const rows = new Map<string, PodSpecRow>();
    const names = new Set<string>();
    for (const pod of pods) {
      if (names.has(podKey(pod))) {
        log.warn({ url, pod: podKey(pod) }, 'pod ignored: another one of the list has the same name');
        options.duplicate?.(pod);
        continue;
      }
      names.add(podKey(pod));
      rows.set(pod.metadata.uid, keepFirstSeen(table.get(pod.metadata.uid), pod));
    }
    if (signal.aborted) return;
    table.replace(rows);
    table.markSynced();
  }

  async function fetchText(): Promise<string> {
    using deadline = clock.deadline(signal, requestTimeoutMs);
    const headers = Object.fromEntries(Object.entries(options.headers).map(([name, values]) => [name, [...values]]));
    const { statusCode, body } = await request(url, {
      headers,
      signal: deadline.signal,
      ...(options.dispatcher === undefined ? {} : { dispatcher: options.dispatcher }),
    });
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > maxManifestBytes) throw new AgentError('InvalidManifest', `${url}: larger than ${maxManifestBytes} bytes`);
      chunks.push(chunk);
    }
    if (statusCode !== 200) throw new AgentError('Unavailable', `${url}: HTTP status ${statusCode}`);
    if (size === 0) throw new AgentError('InvalidManifest', `zero-length data received from ${url}`);
    return decodeFileText(Buffer.concat(chunks));
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      try {
        await look();
        problem = undefined;
      } catch (error) {
        if (signal.aborted) return;
        const message = messageOf(error);
        if (message !== problem) log.error({ url, err: message }, 'manifest cannot be used');
        problem = message;
      }
      await pause(clock, options.checkIntervalMs, signal);
    }
  }

  const running = run();
  const close = async (): Promise<void> => {
    controller.abort(new AgentError('Closed', 'the URL is no longer asked'));
    options.signal.removeEventListener('abort', stop);
    await running;
  };
  return {
    async drain() {
      await close();
      table.replace([]);
    },
    problems: () => new Map(problem === undefined ? [] : [[url, problem]]),
    passedOver: () => new Map(words.length === 0 ? [] : [[url, words.join('; ')]]),
    [Symbol.asyncDispose]: close,
  };
}
