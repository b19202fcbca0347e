import type { ContainerAllocateResponse } from '../../../cri-protos/generated/device-plugin.ts';
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { ownValue } from '../../base/own.ts';
import { fnv1a32 } from '../../model/go-hash.ts';
import { type FollowedFile, followFile, readLeft } from '../files/followed-file.ts';
import { decodeAllocateResponse, encodeAllocateResponse } from '../plugins/device-plugin.ts';

// Kubelet's own checkpoint of the devices that containers were given (`kubelet_internal_checkpoint` in the folder of device plugins), in its own format
// (pkg/kubelet/cm/devicemanager/checkpoint), so that either agent can take the node over from the other.

/** Devices of a resource that a container was given: IDs by NUMA node (`-1`: none), and what the plugin answered. */
export interface DeviceGrant {
  readonly container: string;
  readonly resource: string;
  readonly devices: Readonly<Record<string, readonly string[]>>;
  readonly response: ContainerAllocateResponse;
}

export interface DeviceState {
  /** By pod UID. */
  readonly grants: ReadonlyMap<string, readonly DeviceGrant[]>;
  /** By resource that a plugin offers: the IDs of its healthy devices. */
  readonly resources: Readonly<Record<string, readonly string[]>>;
}

interface Entry {
  PodUID: string;
  ContainerName: string;
  ResourceName: string;
  DeviceIDs: Record<string, string[]> | null;
  AllocResp: string | null;
}

interface Data {
  PodDeviceEntries: Entry[] | null;
  RegisteredDevices: Record<string, string[]> | null;
}

export function encodeDeviceState({ grants, resources }: DeviceState): string {
  const entries = [...grants].flatMap(([uid, own]) =>
    own.map(
      ({ container, resource, devices, response }): Entry => ({
        PodUID: uid,
        ContainerName: container,
        ResourceName: resource,
        DeviceIDs: Object.fromEntries(Object.entries(devices).map(([node, ids]) => [node, [...ids]])),
        AllocResp: encodeAllocateResponse(response).toString('base64'),
      }),
    ),
  );
  const data: Data = {
    // A list of nothing is nil to who wrote this format first.
    PodDeviceEntries: entries.length === 0 ? null : entries,
    RegisteredDevices: Object.fromEntries(Object.entries(resources).map(([resource, ids]) => [resource, [...ids]])),
  };
  return JSON.stringify({ Data: data, Checksum: checksum(data) });
}

/** Throws an Error when it is not such a file or its checksum is wrong. */
export function decodeDeviceState(text: string): DeviceState {
  const { Data: data, Checksum: told } = JSON.parse(text) as { Data?: Data; Checksum?: unknown };
  if (data === undefined) throw new Error('it has no data');
  if (checksum(data) !== told) throw new Error('its checksum is wrong');
  const grants = new Map<string, DeviceGrant[]>();
  for (const { PodUID, ContainerName, ResourceName, DeviceIDs, AllocResp } of data.PodDeviceEntries ?? []) {
    const response = decodeAllocateResponse(Buffer.from(AllocResp ?? '', 'base64'));
    grants.set(PodUID, [
      ...(grants.get(PodUID) ?? []),
      { container: ContainerName, resource: ResourceName, devices: DeviceIDs ?? {}, response },
    ]);
  }
  return { grants, resources: data.RegisteredDevices ?? {} };
}

/** FNV-1a of what spew's `%#v` prints of Go's struct: types at its fields and none within lists and maps, maps in the order of their keys. */
function checksum({ PodDeviceEntries, RegisteredDevices }: Data): number {
  const list = (items: readonly string[] | null): string => (items === null ? '<nil>' : `[${items.join(' ')}]`);
  const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
  const map = (entries: Record<string, string[]> | null, order: (a: string, b: string) => number): string =>
    entries === null
      ? '<nil>'
      : `map[${Object.keys(entries)
          .sort(order)
          .map((key) => `${key}:${list(ownValue(entries, key) ?? null)}`)
          .join(' ')}]`;
  const entry = (e: Entry): string =>
    [
      `{PodUID:(string)${e.PodUID} ContainerName:(string)${e.ContainerName} ResourceName:(string)${e.ResourceName}`,
      `DeviceIDs:(checkpoint.DevicesPerNUMA)${map(e.DeviceIDs, (a, b) => Number(a) - Number(b))}`,
      `AllocResp:([]uint8)${e.AllocResp === null ? '<nil>' : `[${Buffer.from(e.AllocResp, 'base64').join(' ')}]`}}`,
    ].join(' ');
  const entries = PodDeviceEntries === null ? '<nil>' : `[${PodDeviceEntries.map(entry).join(' ')}]`;
  return fnv1a32(
    `(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)${entries} RegisteredDevices:(map[string][]string)${map(RegisteredDevices, byName)}}`,
  );
}

/** The file, read once and then written after each `touch`. One that cannot be read is put aside as `.broken` and logged. */
export async function openDeviceCheckpoint(
  path: string,
  current: () => DeviceState,
  clock: Clock,
  log: Log,
): Promise<
  FollowedFile & { readonly found: { readonly grants: DeviceState['grants']; readonly resources: readonly string[] } | undefined }
> {
  const found = await readLeft(path, decodeDeviceState, { grants: new Map(), resources: {} }, log);
  const file = followFile({ path, text: () => encodeDeviceState(current()), folderMode: 0o750, clock, log });
  return { ...file, found: found && { grants: found.grants, resources: Object.keys(found.resources) } };
}
