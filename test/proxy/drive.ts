// A proxy on a backend, fed by hand: for the contract tests.
import assert from 'node:assert/strict';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { Table } from '../../agent/base/table.ts';
import type { EndpointSlice, Service } from '../../agent/model/generated/api.ts';
import type { Backend, BackendSettings } from '../../proxy/backends/backend.ts';
import type { ProxyEvent } from '../../proxy/events.ts';
import { type Family, parseCidr } from '../../proxy/model/address.ts';
import { detectLocalIn, nodePortAddressesIn } from '../../proxy/model/node.ts';
import { type ServiceRow, serviceRow } from '../../proxy/model/service-row.ts';
import { type SliceRow, sliceRow } from '../../proxy/model/slice-row.ts';
import { type Proxy as ServiceProxy, startProxy } from '../../proxy/worker.ts';
import type { Contract } from './contract.ts';
import { addresses, addresses6 } from './network.ts';

/** The node's own addresses. */
export const ownAddresses = ['127.0.0.1', '::1', addresses.node, '10.244.1.1', addresses6.node];

const node = { name: 'node', zone: '', addresses: { ip: addresses.node, ip6: addresses6.node } };
const cidr = (text: string) => parseCidr(text) ?? assert.fail(text);

export function settingsOf(
  contract: Pick<Contract, 'nodePortAddresses' | 'localhostNodePorts' | 'masqueradeAll' | 'serviceCidrs'>,
  family: Family,
): BackendSettings {
  const setting = { words: contract.nodePortAddresses ?? [], localhost: contract.localhostNodePorts ?? false };
  return {
    detectLocal: detectLocalIn(family, { kind: 'cidrs', cidrs: [cidr('10.244.1.0/24'), cidr('fd44:1::/64')] }),
    masqueradeAll: contract.masqueradeAll ?? false,
    masqueradeBit: 14,
    nodePorts: nodePortAddressesIn(family, setting, node, ownAddresses),
    serviceCidrs: (contract.serviceCidrs ?? []).map(cidr),
  };
}

export interface Driven extends AsyncDisposable {
  readonly proxy: ServiceProxy;
  readonly events: ProxyEvent[];
  set(...objects: (Service | EndpointSlice)[]): void;
  deleteService(key: string): void;
  /** Resolves once all that was set is in the kernel. */
  settled(): Promise<void>;
}

export async function drive(backend: Backend, contract: Omit<Contract, 'probes'>): Promise<Driven> {
  const services = new Table<ServiceRow>('services');
  const slices = new Table<SliceRow>('slices');
  const events: ProxyEvent[] = [];
  const stop = new AbortController();
  const settings = settingsOf(contract, backend.family);
  const proxy = startProxy({
    clock: systemClock,
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
      transaction: () => undefined,
      committed: () => undefined,
      programmingLatency: () => undefined,
    },
  });
  const set = (...objects: readonly (Service | EndpointSlice)[]): void => {
    for (const object of objects) {
      if ('addressType' in object) {
        const row = sliceRow(object) ?? assert.fail('a slice that is not proxied');
        slices.set(row.key, row);
      } else {
        const row = serviceRow(object) ?? assert.fail('a Service that is not proxied');
        services.set(row.key, row);
      }
    }
  };
  const settled = async (): Promise<void> => {
    const until = performance.now() + 20_000;
    for (;;) {
      const health = proxy.health(backend.family);
      if (health?.synced && health.waitingSince === undefined) return;
      if (performance.now() > until) assert.fail(`not programmed: ${JSON.stringify(events)}`);
      await systemClock.sleep(1, stop.signal);
    }
  };
  set(...contract.objects);
  services.markSynced();
  slices.markSynced();
  await settled();
  return {
    proxy,
    events,
    set,
    settled,
    deleteService: (key) => services.delete(key),
    [Symbol.asyncDispose]: async () => await proxy[Symbol.asyncDispose](),
  };
}
