import type { Device as ToldDevice } from '../../cri-protos/generated/device-plugin.ts';
import { setOwn } from '../base/own.ts';
import { isExtendedResource } from '../model/resources.ts';

/** A device as its plugin tells of it. */
export interface Device {
  readonly id: string;
  readonly healthy: boolean;
  /** The NUMA nodes that it is near to; none when the plugin does not say. */
  readonly numaNodes: readonly number[];
}

/** What is known of a resource that a plugin offers, or has offered. */
export interface Offer {
  /** By ID; undefined until the plugin has told. */
  readonly devices: ReadonlyMap<string, Device> | undefined;
  /** When the plugin went away (mono, ms); undefined while it is there. */
  readonly stoppedAt: number | undefined;
}

/** How long the devices of a plugin that has gone still count as the node's, unhealthy: a plugin that is updated is back by then (devicemanager endpointStopGracePeriod). */
export const stopGraceMs = 300_000;

/** The version of the contract, the only one there is. */
const deviceApiVersion = 'v1beta1';

/** Why a registration cannot be taken; undefined when it can. The words are kubelet's. */
export function registrationProblem(resource: string, versions: readonly string[]): string | undefined {
  if (!versions.includes(deviceApiVersion))
    return `requested API version ${JSON.stringify(versions.join(', '))} is not supported by kubelet. Supported version is ["${deviceApiVersion}"]`;
  const [domain = '', name = '', ...more] = resource.split('/');
  const isDomain = domain.length <= 253 && domain.split('.').every((label) => /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(label));
  const isName = name.length <= 63 && /^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/.test(name);
  if (isExtendedResource(resource) && isDomain && isName && more.length === 0) return undefined;
  return `the ResourceName "${resource}" is invalid: it has to be an extended resource, a domain that is not Kubernetes' own and a name: vendor.example/gpu`;
}

/** The devices of a plugin's answer, in its order. */
export function devicesOf(told: readonly ToldDevice[]): Map<string, Device> {
  return new Map(
    told.map(({ ID = '', health, topology }) => [
      ID,
      { id: ID, healthy: health === 'Healthy', numaNodes: (topology?.nodes ?? []).map((node) => node.ID ?? 0) },
    ]),
  );
}

/** The devices whose health is not what it was, those that are new among them: they may have been away while a container had them. */
export function changedHealth(before: Offer['devices'], after: ReadonlyMap<string, Device>): string[] {
  return [...after.values()].filter(({ id, healthy }) => before?.get(id)?.healthy !== healthy).map(({ id }) => id);
}

/** The offer of a plugin that has gone: its devices are there, and nobody vouches for them. */
export function stoppedOffer(offer: Offer, now: number): Offer {
  const devices = new Map([...(offer.devices ?? [])].map(([id, device]) => [id, { ...device, healthy: false }]));
  return { devices, stoppedAt: now };
}

/** True when the plugin has been away for so long that what it offered counts as gone. */
export function isExpired({ stoppedAt }: Offer, now: number): boolean {
  return stoppedAt !== undefined && now - stoppedAt >= stopGraceMs;
}

/** Amounts by resource, as the API writes them. */
export interface DeviceAmounts {
  readonly capacity: Readonly<Record<string, string>>;
  readonly allocatable: Readonly<Record<string, string>>;
}

/** What the Node shows of the plugins' resources. One whose plugin is gone for good stays with nothing, since others may have put it on the Node too. */
export function amountsOf(offers: ReadonlyMap<string, Offer>, now: number): DeviceAmounts {
  const capacity: Record<string, string> = {};
  const allocatable: Record<string, string> = {};
  for (const [resource, offer] of offers) {
    if (offer.devices === undefined) continue;
    const devices = isExpired(offer, now) ? [] : [...offer.devices.values()];
    setOwn(capacity, resource, String(devices.length));
    setOwn(allocatable, resource, String(devices.filter(({ healthy }) => healthy).length));
  }
  return { capacity, allocatable };
}
