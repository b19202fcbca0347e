import { randomUUID } from 'node:crypto';
import { backoffDelayMs, jittered } from '../../base/backoff.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ObjectMeta, ObjectReference } from '../../model/generated/api.ts';
import { ApiError, type KubeClient, pathOf } from './client.ts';
import { type Correlated, createEventCorrelator, type NewEvent } from './event-correlation.ts';
import { createRateLimit } from './rate-limit.ts';

/** What an event is about: a reference, or an object with metadata (taken for a v1 Pod unless it says its kind). */
type EventTarget = ObjectReference | { kind?: string | undefined; apiVersion?: string | undefined; metadata?: ObjectMeta | undefined };

/** Records Events: never waits, never throws. */
export interface EventRecorder extends AsyncDisposable {
  /** `fieldPath` such as `spec.containers{web}` for an event about one container. */
  event(
    target: EventTarget,
    type: 'Normal' | 'Warning',
    reason: string,
    message: string,
    fieldPath?: string,
    annotations?: Readonly<Record<string, string>>,
  ): void;
  /** Resolves when everything recorded until now was sent, refused or dropped. */
  flush(signal: AbortSignal): Promise<void>;
}

export interface EventRecorderOptions {
  readonly client: KubeClient;
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeName: string;
  /** Source component and reporting controller; default `kubelet`. */
  readonly component?: string | undefined;
  /** KubeletConfiguration.eventRecordQPS; default 50; 0 or less: no limit. */
  readonly qps?: number | undefined;
  /** KubeletConfiguration.eventBurst; default 100. */
  readonly burst?: number | undefined;
}

// client-go holds 1000 events and drops the newest beyond (tools/record/event.go).
const maxQueued = 1000;
const retryPolicy = { initialMs: 500, maxMs: 10_000 };
// What has just happened is told this much later: most of it happens while pods start, whose sandboxes and statuses want the CPU and the API server more.
const headStartMs = 100;

/** Starts a recorder. Events go out in order and a moment later, and wait while the server is away; disposing drops those that wait. */
export function createEventRecorder(options: EventRecorderOptions): EventRecorder {
  const { client, clock, log, nodeName } = options;
  const component = options.component ?? 'kubelet';
  const limit = createRateLimit(clock, options.qps ?? 50, options.burst ?? 100);
  const correlator = createEventCorrelator();
  const stop = new AbortController();
  const queue: NewEvent[] = [];
  const flushers = new Set<() => void>();
  let sending: Promise<void> | undefined;
  let serial = 0;
  let dropped = 0;

  /** `<object>.<hex of nanoseconds>`, or a UUID where that would be no name (a node called `A`). The clock gives ms; the rest keeps names apart. */
  function newName(objectName: string): string {
    serial = (serial + 1) % 1_000_000;
    const nanos = BigInt(Math.floor(clock.wall())) * 1_000_000n + BigInt(serial);
    const name = `${objectName}.${nanos.toString(16)}`;
    return name.length <= 253 && /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/.test(name) ? name : randomUUID();
  }

  async function sendAll(): Promise<void> {
    await clock.sleep(headStartMs, stop.signal);
    while (!stop.signal.aborted) {
      const event = queue[0];
      if (event === undefined) return;
      const correlated = correlator.correlate(event, clock.wall(), newName(event.involvedObject.name ?? ''));
      if (correlated.kind !== 'skip') await deliver(correlated);
      queue.shift();
    }
  }

  async function deliver(correlated: Exclude<Correlated, { kind: 'skip' }>): Promise<void> {
    await limit.take(stop.signal);
    for (let failures = 1; !stop.signal.aborted; failures++) {
      try {
        const stored = await send(correlated);
        correlator.recorded(correlated.key, stored);
        return;
      } catch (error) {
        if (stop.signal.aborted) return;
        if (refusedForGood(error)) {
          const { reason, message, involvedObject } = correlated.event;
          const fields = {
            reason,
            eventMessage: message,
            object: `${involvedObject.namespace ?? ''}/${involvedObject.name}`,
            err: messageOf(error),
          };
          // An event in a namespace that is going away is nobody's trouble.
          if (isOrdinaryRefusal(error)) log.debug(fields, 'event refused');
          else log.warn(fields, 'event refused');
          return;
        }
        log.debug({ err: messageOf(error), failures, queued: queue.length }, 'event not sent yet');
        await pause(jittered(backoffDelayMs(retryPolicy, failures), 0.3, Math.random()));
      }
    }
  }

  async function send(correlated: Exclude<Correlated, { kind: 'skip' }>): Promise<NewEvent> {
    const { event } = correlated;
    const { namespace, name } = event.metadata;
    if (correlated.kind === 'patch') {
      try {
        return await client.patch<NewEvent>(
          pathOf('v1', 'events', namespace, name),
          correlated.patch,
          'application/strategic-merge-patch+json',
          stop.signal,
          { urgent: true },
        );
      } catch (error) {
        // Events live an hour; this one's predecessor is gone.
        if (!hasCode(error, 'NotFound')) throw error;
      }
    }
    return client.create<NewEvent>(pathOf('v1', 'events', namespace), event, stop.signal, { urgent: true });
  }

  async function pause(ms: number): Promise<void> {
    const waking = new AbortController();
    const wake = (): void => waking.abort();
    stop.signal.addEventListener('abort', wake, { once: true });
    using _reachable = client.onReachable(wake);
    try {
      await clock.sleep(ms, waking.signal);
    } catch {
      // Woken early: the server answers again, or the recorder closes.
    } finally {
      stop.signal.removeEventListener('abort', wake);
    }
  }

  function start(): void {
    if (sending !== undefined || stop.signal.aborted) return;
    sending = sendAll()
      .catch((error: unknown) => {
        if (stop.signal.aborted) return;
        log.error({ err: messageOf(error) }, 'event dropped');
        queue.shift();
      })
      .finally(() => {
        sending = undefined;
        if (queue.length > 0) start();
        else for (const done of [...flushers]) done();
      });
  }

  return {
    event(target, type, reason, message, fieldPath, annotations) {
      if (stop.signal.aborted) return;
      if (queue.length >= maxQueued) {
        dropped++;
        if (dropped === 1 || dropped % 1000 === 0) log.warn({ dropped, reason }, 'too many events wait to be sent; event dropped');
        return;
      }
      const involvedObject = referenceTo(target, fieldPath);
      const now = `${new Date(clock.wall()).toISOString().slice(0, 19)}Z`;
      queue.push({
        apiVersion: 'v1',
        kind: 'Event',
        metadata: {
          name: newName(involvedObject.name ?? ''),
          namespace: involvedObject.namespace || 'default',
          ...(annotations === undefined ? {} : { annotations: { ...annotations } }),
        },
        involvedObject,
        reason,
        message,
        type,
        count: 1,
        firstTimestamp: now,
        lastTimestamp: now,
        source: { component, host: nodeName },
        reportingComponent: component,
        reportingInstance: nodeName,
      });
      start();
    },
    async flush(signal) {
      signal.throwIfAborted();
      if (sending === undefined && queue.length === 0) return;
      await new Promise<void>((resolve, reject) => {
        const finish = (settle: () => void): void => {
          flushers.delete(onDone);
          signal.removeEventListener('abort', onAbort);
          settle();
        };
        const onDone = (): void => finish(resolve);
        const onAbort = (): void => finish(() => reject(signal.reason));
        flushers.add(onDone);
        signal.addEventListener('abort', onAbort, { once: true });
      });
    },
    async [Symbol.asyncDispose]() {
      stop.abort(new AgentError('Canceled', 'event recorder closed'));
      queue.length = 0;
      await sending;
      for (const done of [...flushers]) done();
    },
  };
}

function referenceTo(target: EventTarget, fieldPath: string | undefined): ObjectReference {
  const metadata = (target as { metadata?: ObjectMeta | undefined }).metadata;
  if (metadata === undefined) {
    const reference = target as ObjectReference;
    return fieldPath === undefined ? reference : { ...reference, fieldPath };
  }
  return {
    kind: target.kind ?? 'Pod',
    apiVersion: target.apiVersion ?? 'v1',
    namespace: metadata.namespace,
    name: metadata.name,
    uid: metadata.uid,
    resourceVersion: metadata.resourceVersion,
    fieldPath,
  };
}

// A server that is away, overloaded or broken may take the event later; anything else it will refuse again.
function refusedForGood(error: unknown): boolean {
  if (error instanceof ApiError) return error.httpStatus < 500 && error.httpStatus !== 429 && error.httpStatus !== 401;
  return !hasCode(error, 'Unavailable', 'DeadlineExceeded', 'Unauthorized');
}

function isOrdinaryRefusal(error: unknown): boolean {
  if (hasCode(error, 'AlreadyExists')) return true;
  return error instanceof ApiError && (error.status?.details?.causes ?? []).some((cause) => cause.reason === 'NamespaceTerminating');
}
