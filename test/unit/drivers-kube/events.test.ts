import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { createEventCorrelator, type NewEvent } from '../../../agent/drivers/kube/event-correlation.ts';
import { createEventRecorder, type EventRecorder } from '../../../agent/drivers/kube/events.ts';
import type { Event } from '../../../agent/model/generated/api.ts';
import { type FakeKubeApi, startFakeKubeApi } from '../../fakes/kube-api.ts';
import { clientOf, keepingLog, signal, until } from './fixtures.ts';

const events = '/api/v1/namespaces/ns/events';
const pod = { metadata: { name: 'web', namespace: 'ns', uid: 'u1', resourceVersion: '7' } };

describe('correlation', () => {
  const newEvent = (message: string, more: Partial<NewEvent> = {}): NewEvent => ({
    metadata: { name: `web.${message}`, namespace: 'ns' },
    involvedObject: { kind: 'Pod', name: 'web', namespace: 'ns', uid: 'u1' },
    type: 'Warning',
    reason: 'BackOff',
    message,
    count: 1,
    firstTimestamp: 't0',
    lastTimestamp: 't1',
    ...more,
  });

  test('the same again is counted on the first', () => {
    const correlator = createEventCorrelator();
    assert.equal(correlator.correlate(newEvent('m'), 0, '').kind, 'create');
    const again = correlator.correlate(newEvent('m', { metadata: { name: 'web.2' }, firstTimestamp: 't2', lastTimestamp: 't3' }), 1, '');
    assert.equal(again.kind, 'patch');
    if (again.kind !== 'patch') return;
    assert.deepEqual(again.patch, { count: 2, lastTimestamp: 't3', message: 'm' });
    assert.equal(again.event.metadata.name, 'web.m');
    assert.equal(again.event.firstTimestamp, 't0');
  });

  test('another reason, type or container is another event', () => {
    const correlator = createEventCorrelator();
    correlator.correlate(newEvent('m'), 0, '');
    assert.equal(correlator.correlate(newEvent('m', { reason: 'Failed' }), 0, '').kind, 'create');
    assert.equal(correlator.correlate(newEvent('m', { type: 'Normal' }), 0, '').kind, 'create');
    const inContainer = newEvent('m', {
      involvedObject: { kind: 'Pod', name: 'web', namespace: 'ns', uid: 'u1', fieldPath: 'spec.containers{a}' },
    });
    assert.equal(correlator.correlate(inContainer, 0, '').kind, 'create');
  });

  test('from the tenth different message on they are combined into one', () => {
    const correlator = createEventCorrelator();
    for (let i = 1; i <= 9; i++) assert.equal(correlator.correlate(newEvent(`m${i}`), i, 'web.all').kind, 'create');
    const tenth = correlator.correlate(newEvent('m10'), 10, 'web.all');
    assert.equal(tenth.kind, 'create');
    assert.equal(tenth.kind === 'create' && tenth.event.metadata.name, 'web.all');
    assert.equal(tenth.kind === 'create' && tenth.event.message, '(combined from similar events): m10');
    const eleventh = correlator.correlate(newEvent('m11'), 11, 'web.more');
    assert.deepEqual(eleventh.kind === 'patch' && eleventh.patch, {
      count: 2,
      lastTimestamp: 't1',
      message: '(combined from similar events): m11',
    });
    assert.equal(eleventh.kind === 'patch' && eleventh.event.metadata.name, 'web.all');
    const later = correlator.correlate(newEvent('m12'), 11 + 600_001, '');
    assert.equal(later.kind === 'create' && later.event.message, 'm12', 'after ten quiet minutes the counting starts anew');
  });

  test('25 at once about one object, then one each five minutes', () => {
    const correlator = createEventCorrelator();
    const kinds = Array.from({ length: 30 }, () => correlator.correlate(newEvent('m'), 0, '').kind);
    assert.equal(kinds.filter((kind) => kind === 'skip').length, 5);
    assert.equal(correlator.correlate(newEvent('m'), 299_999, '').kind, 'skip');
    const next = correlator.correlate(newEvent('m'), 300_000, '');
    assert.equal(next.kind === 'patch' && next.patch.count, 32, 'what was skipped is counted');
    const other = newEvent('m', { involvedObject: { kind: 'Pod', name: 'other', namespace: 'ns', uid: 'u2' } });
    assert.equal(correlator.correlate(other, 0, '').kind, 'create');
  });
});

describe('recorder', () => {
  interface World extends AsyncDisposable {
    readonly api: FakeKubeApi;
    readonly recorder: EventRecorder;
    readonly log: string[];
    stored(): Event[];
  }

  async function start(): Promise<World> {
    const api = await startFakeKubeApi();
    const client = clientOf(api);
    const log: string[] = [];
    const recorder = createEventRecorder({ client, clock: systemClock, log: keepingLog(log), nodeName: 'n1' });
    return {
      api,
      recorder,
      log,
      stored: () =>
        api.seen
          .filter((r) => r.method === 'POST')
          .map((r) => api.read(events, 'ns', (r.body as Event).metadata.name as string) as unknown as Event),
      async [Symbol.asyncDispose]() {
        await recorder[Symbol.asyncDispose]();
        await client[Symbol.asyncDispose]();
        await api[Symbol.asyncDispose]();
      },
    };
  }

  test('an Event as a kubelet writes it', async () => {
    await using w = await start();
    w.recorder.event(pod, 'Normal', 'Started', 'Container started', 'spec.containers{web}');
    w.recorder.event({ kind: 'Node', name: 'n1', uid: 'n1' }, 'Normal', 'NodeReady', 'Node n1 status is now: NodeReady');
    await w.recorder.flush(signal);
    const [sent, ofNode] = w.api.seen.map((r) => r.body as Event);
    assert.match(sent?.metadata.name ?? '', /^web\.[0-9a-f]{16}$/);
    assert.match(sent?.firstTimestamp ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    assert.deepEqual(
      { ...sent, metadata: { namespace: sent?.metadata.namespace }, firstTimestamp: 0, lastTimestamp: 0 },
      {
        apiVersion: 'v1',
        kind: 'Event',
        metadata: { namespace: 'ns' },
        involvedObject: {
          kind: 'Pod',
          apiVersion: 'v1',
          namespace: 'ns',
          name: 'web',
          uid: 'u1',
          resourceVersion: '7',
          fieldPath: 'spec.containers{web}',
        },
        reason: 'Started',
        message: 'Container started',
        type: 'Normal',
        count: 1,
        firstTimestamp: 0,
        lastTimestamp: 0,
        source: { component: 'kubelet', host: 'n1' },
        reportingComponent: 'kubelet',
        reportingInstance: 'n1',
      },
    );
    assert.equal(ofNode?.metadata.namespace, 'default', 'objects without namespace have their events in default');
  });

  test('repeats are patched; a predecessor that expired is made anew', async () => {
    await using w = await start();
    for (let i = 0; i < 3; i++) w.recorder.event(pod, 'Warning', 'BackOff', 'again');
    await w.recorder.flush(signal);
    assert.deepEqual(
      w.stored().map((e) => e.count),
      [3],
    );
    w.api.remove(events, 'ns', w.stored()[0]?.metadata.name as string);
    w.recorder.event(pod, 'Warning', 'BackOff', 'again');
    await w.recorder.flush(signal);
    assert.equal(w.stored().at(-1)?.count, 4);
  });

  test('many events in one millisecond have names of their own', async () => {
    await using w = await start();
    for (let i = 0; i < 8; i++) w.recorder.event(pod, 'Normal', `R${i}`, 'm');
    await w.recorder.flush(signal);
    assert.equal(new Set(w.stored().map((e) => e.metadata.name)).size, 8);
  });

  test('the server away: events wait and come in order', async () => {
    await using w = await start();
    await w.api.stop();
    for (let i = 0; i < 5; i++) w.recorder.event(pod, 'Normal', `R${i}`, 'm');
    await w.api.resume();
    await w.recorder.flush(signal);
    assert.deepEqual(
      w.stored().map((e) => e.reason),
      ['R0', 'R1', 'R2', 'R3', 'R4'],
    );
  });

  test('refused for good: dropped, the next one goes on', async () => {
    await using w = await start();
    const terminating = { reason: 'Forbidden', details: { causes: [{ reason: 'NamespaceTerminating' }] } };
    const answers = [terminating, { reason: 'Invalid' }];
    w.api.answer = () => {
      const status = answers.shift();
      return status === undefined ? undefined : { status: 403, body: { kind: 'Status', message: 'no', ...status } };
    };
    for (let i = 0; i < 3; i++) w.recorder.event(pod, 'Normal', `R${i}`, 'm');
    await w.recorder.flush(signal);
    assert.deepEqual(w.log, ['debug event refused', 'warn event refused']);
    assert.equal(w.stored().at(-1)?.reason, 'R2');
  });

  test('beyond 1000 waiting events the newest are dropped, and disposing waits for nothing', async () => {
    await using api = await startFakeKubeApi();
    await using client = clientOf(api);
    api.answer = () => new Promise(() => undefined);
    const log: string[] = [];
    const recorder = createEventRecorder({ client, clock: systemClock, log: keepingLog(log), nodeName: 'n1' });
    for (let i = 0; i < 1002; i++) recorder.event(pod, 'Normal', `R${i}`, 'm');
    assert.deepEqual(log, ['warn too many events wait to be sent; event dropped']);
    await until('the first is being sent', () => api.seen.length === 1);
    const flushed = recorder.flush(signal);
    await recorder[Symbol.asyncDispose]();
    await flushed;
    recorder.event(pod, 'Normal', 'Late', 'm');
    assert.equal(api.seen.length, 1);
  });

  test('an object whose name makes no event name', async () => {
    await using w = await start();
    w.recorder.event({ kind: 'Node', name: 'Bad_Name' }, 'Normal', 'R', 'm');
    await w.recorder.flush(signal);
    const sent = w.api.seen[0]?.body as Event | undefined;
    assert.match(sent?.metadata.name ?? '', /^[0-9a-f]{8}-/);
  });
});
