// A running proxy on a fake backend, and the tables that feed it.
import assert from 'node:assert/strict';
import { silentLog } from '../../agent/base/log.ts';
import { Table } from '../../agent/base/table.ts';
import type { EndpointSlice, Service } from '../../agent/model/generated/api.ts';
import type { ProxyEvent } from '../../proxy/events.ts';
import { type ServiceRow, serviceRow } from '../../proxy/model/service-row.ts';
import { type SliceRow, sliceRow } from '../../proxy/model/slice-row.ts';
import { startProxy } from '../../proxy/worker.ts';
import { manualClock } from '../unit/identity/manual-clock.ts';
import { type FakeBackend, fakeBackend } from './proxy-backend.ts';

export const wall = Date.UTC(2026, 0, 2);
export const node = { name: 'node', zone: 'z1', addresses: { ip: '172.30.0.2' } };
const settings = {
  detectLocal: { kind: 'none' },
  masqueradeAll: false,
  masqueradeBit: 14,
  nodePorts: { kind: 'all', localhost: false },
  serviceCidrs: [],
} as const;

/** A running proxy with one fake backend, and the tables that feed it. */
export function house(backend: FakeBackend = fakeBackend()) {
  const clock = manualClock(wall);
  const stop = new AbortController();
  const services = new Table<ServiceRow>('services');
  const slices = new Table<SliceRow>('slices');
  const events: ProxyEvent[] = [];
  const latencies: number[] = [];
  const outcomes: string[] = [];
  const proxy = startProxy({
    clock,
    log: silentLog,
    signal: stop.signal,
    services,
    slices,
    node,
    backends: [backend],
    settings: { ip: settings, ip6: settings },
    syncPeriodMs: 30_000,
    fullAuditMs: 3_600_000,
    observer: {
      event: (event) => void events.push(event),
      changed: () => undefined,
      transaction: (_family, { outcome, changes }) => void outcomes.push(`${outcome} ${changes}`),
      committed: () => undefined,
      programmingLatency: (_family, ms) => void latencies.push(ms),
    },
  });
  return {
    ...{ proxy, backend, clock, services, slices, events, latencies, outcomes },
    service: (service: Service) => {
      const row = serviceRow(service) ?? assert.fail('not proxied');
      services.set(row.key, row);
    },
    slice: (slice: EndpointSlice) => {
      const row = sliceRow(slice) ?? assert.fail('not proxied');
      slices.set(row.key, row);
    },
    synced: async () => {
      services.markSynced();
      slices.markSynced();
      await clock.advance(0);
    },
    /** What a Service sends to, by the last numbers of addresses; undefined: the kernel has nothing. */
    endpoints: (key: string) =>
      backend.kernel
        .get(key)
        ?.cluster?.endpoints.map((each) => each.address.ip.split('.')[3])
        .join(),
    events,
  };
}
