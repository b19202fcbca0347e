import { createHash } from 'node:crypto';
import { AgentError } from '../base/errors.ts';
import type { ConfigMap, Secret, TokenRequestSpec, Volume } from '../model/generated/api.ts';
import type { HeldToken } from '../model/held-token.ts';
import { type AgentPod, containersOf } from '../model/pod.ts';
import type { VolumePlugin } from './layout.ts';
import { fsGroupOf, fsUserOf } from './ownership.ts';
import {
  configMapPayload,
  type DownwardValue,
  downwardPayload,
  type Known,
  type Payload,
  projectedPayload,
  secretPayload,
} from './payload.ts';
import { tokenRequestSpec } from './tokens.ts';

/** One volume on the node. `whole`: it holds a complete, if perhaps old, content from before; `written`: the fingerprint of what this agent wrote. */
export type VolumeState =
  | { readonly kind: 'none' }
  | { readonly kind: 'ready'; readonly written: string | undefined }
  | { readonly kind: 'failed'; readonly message: string; readonly whole: boolean };

/** A token by volume and source. A refresh that failed is tried again at `retryAt`; the old token lives on until it expires. */
export type TokenState =
  | { readonly kind: 'none' }
  | { readonly kind: 'held'; readonly token: HeldToken; readonly retryAt: number | undefined }
  | { readonly kind: 'failed'; readonly message: string; readonly retryAt: number };

/** What is known of a pod's volumes and of what goes into them. */
export interface ObservedVolumes {
  readonly state: (volume: string) => VolumeState;
  readonly configMap: (name: string) => Known<ConfigMap>;
  readonly secret: (name: string) => Known<Secret>;
  readonly token: (volume: string, sourceIndex: number) => TokenState;
}

export type VolumeAction =
  /** Ask for an object that nobody asked for yet. */
  | { readonly kind: 'fetch'; readonly object: 'configmap' | 'secret'; readonly name: string; readonly reason: string }
  | {
      readonly kind: 'requestToken';
      readonly volume: string;
      readonly sourceIndex: number;
      readonly spec: TokenRequestSpec;
      readonly reason: string;
    }
  | {
      readonly kind: 'makeEmptyDir';
      readonly volume: string;
      readonly medium: string;
      readonly sizeLimit: string | undefined;
      readonly reason: string;
    }
  | { readonly kind: 'checkHostPath'; readonly volume: string; readonly path: string; readonly type: string; readonly reason: string }
  | {
      readonly kind: 'write';
      readonly volume: string;
      readonly plugin: VolumePlugin;
      /** On a tmpfs, so that it never reaches a disk. */
      readonly memory: boolean;
      readonly files: Payload;
      readonly fingerprint: string;
      readonly reason: string;
    };

/** Why a volume is not as it should be. `blocking`: the pod cannot start its containers; else it lives on old content. */
interface WaitingVolume {
  readonly volume: string;
  readonly reason: string;
  readonly blocking: boolean;
}

export interface VolumePlan {
  readonly actions: VolumeAction[];
  readonly waiting: WaitingVolume[];
  /** Wall milliseconds of the next look, for a token that is due. */
  readonly wakeAt: number | undefined;
}

/** The volumes of the spec that some container uses; the others are not set up. */
export function usedVolumes(pod: AgentPod): Volume[] {
  const used = new Set<string>();
  for (const { container } of containersOf(pod)) {
    for (const mount of container.volumeMounts ?? []) used.add(mount.name);
    for (const device of container.volumeDevices ?? []) used.add(device.name);
    for (const variable of container.env ?? [])
      if (variable.valueFrom?.fileKeyRef !== undefined) used.add(variable.valueFrom.fileKeyRef.volumeName);
  }
  return (pod.spec.volumes ?? []).filter((volume) => used.has(volume.name));
}

/** The ConfigMaps and Secrets that the pod's used volumes take content from. */
export function referencedObjects(pod: AgentPod): { configMaps: Set<string>; secrets: Set<string> } {
  const configMaps = new Set<string>();
  const secrets = new Set<string>();
  for (const volume of usedVolumes(pod)) {
    if (volume.configMap !== undefined) configMaps.add(volume.configMap.name ?? '');
    if (volume.secret !== undefined) secrets.add(volume.secret.secretName ?? '');
    for (const source of volume.projected?.sources ?? []) {
      if (source.configMap !== undefined) configMaps.add(source.configMap.name ?? '');
      if (source.secret !== undefined) secrets.add(source.secret.name ?? '');
    }
  }
  return { configMaps, secrets };
}

/** The plugin directory of a volume that has one of its own below the pod's; undefined for hostPath and images. Throws NotSupported for other types. */
export function pluginOf(volume: Volume): VolumePlugin | undefined {
  if (volume.configMap !== undefined) return 'kubernetes.io~configmap';
  if (volume.secret !== undefined) return 'kubernetes.io~secret';
  if (volume.projected !== undefined) return 'kubernetes.io~projected';
  if (volume.downwardAPI !== undefined) return 'kubernetes.io~downward-api';
  if (volume.hostPath !== undefined || volume.image !== undefined) return undefined;
  if (volume.emptyDir !== undefined) return 'kubernetes.io~empty-dir';
  const type = Object.keys(volume).find((key) => key !== 'name' && volume[key as keyof Volume] !== undefined);
  // A volume without a source is an emptyDir (API defaulting).
  if (type === undefined) return 'kubernetes.io~empty-dir';
  throw new AgentError(
    'NotSupported',
    `spec.volumes{${volume.name}}.${type}: volumes of this type are not supported by this node; take another type, or keep the pod to nodes that have it`,
  );
}

/** What to do next for the pod's volumes. `now` is wall milliseconds. */
export function planVolumes(pod: AgentPod, observed: ObservedVolumes, downward: DownwardValue, now: number): VolumePlan {
  const actions: VolumeAction[] = [];
  const waiting: WaitingVolume[] = [];
  let wakeAt: number | undefined;
  const wake = (at: number): void => {
    wakeAt = Math.min(wakeAt ?? at, at);
  };
  const asked = new Set<string>();
  const fetch = (object: 'configmap' | 'secret', name: string, known: Known<unknown>): void => {
    if (known.kind !== 'unknown' || asked.has(`${object}/${name}`)) return;
    asked.add(`${object}/${name}`);
    actions.push({ kind: 'fetch', object, name, reason: 'needed by a volume' });
  };

  for (const volume of usedVolumes(pod)) {
    const state = observed.state(volume.name);
    if (volume.image !== undefined) continue;
    if (state.kind === 'failed') {
      waiting.push({ volume: volume.name, reason: state.message, blocking: !state.whole });
      continue;
    }
    if (volume.hostPath !== undefined) {
      const { path, type = '' } = volume.hostPath;
      if (state.kind === 'none') actions.push({ kind: 'checkHostPath', volume: volume.name, path, type, reason: 'not checked yet' });
      continue;
    }
    let plugin: VolumePlugin | undefined;
    try {
      plugin = pluginOf(volume);
    } catch (error) {
      waiting.push({ volume: volume.name, reason: (error as AgentError).message, blocking: true });
      continue;
    }
    if (plugin === undefined) continue;
    if (plugin === 'kubernetes.io~empty-dir') {
      const { medium = '', sizeLimit } = volume.emptyDir ?? {};
      if (state.kind === 'none') actions.push({ kind: 'makeEmptyDir', volume: volume.name, medium, sizeLimit, reason: 'not there yet' });
      continue;
    }
    for (const [index, source] of (volume.projected?.sources ?? []).entries()) {
      if (source.serviceAccountToken === undefined) continue;
      const token = observed.token(volume.name, index);
      const spec = tokenRequestSpec(pod, source.serviceAccountToken);
      const request = (reason: string): void =>
        void actions.push({ kind: 'requestToken', volume: volume.name, sourceIndex: index, spec, reason });
      const due = token.kind === 'none' ? now : token.kind === 'failed' ? token.retryAt : (token.retryAt ?? token.token.refreshAt);
      if (due > now) wake(due);
      else
        request(
          token.kind === 'none' ? 'the pod has none yet' : token.kind === 'held' ? 'it is due to be renewed' : 'the last request failed',
        );
    }
    try {
      const files = payloadOf(pod, volume, observed, downward, now);
      const fingerprint = fingerprintOf(files);
      if (state.kind === 'ready' && state.written === fingerprint) continue;
      const memory = plugin === 'kubernetes.io~secret' || plugin === 'kubernetes.io~projected' || plugin === 'kubernetes.io~downward-api';
      const reason =
        state.kind === 'none'
          ? 'not there yet'
          : state.written === undefined
            ? 'written before this agent started'
            : 'its content has changed';
      actions.push({ kind: 'write', volume: volume.name, plugin, memory, files, fingerprint, reason });
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      waiting.push({ volume: volume.name, reason: error.message, blocking: state.kind === 'none' });
    }
  }
  const { configMaps, secrets } = referencedObjects(pod);
  for (const name of configMaps) fetch('configmap', name, observed.configMap(name));
  for (const name of secrets) fetch('secret', name, observed.secret(name));
  return { actions, waiting, wakeAt };
}

function payloadOf(pod: AgentPod, volume: Volume, observed: ObservedVolumes, downward: DownwardValue, now: number): Payload {
  if (volume.configMap !== undefined) {
    const { name = '', items, defaultMode, optional } = volume.configMap;
    return configMapPayload(observed.configMap(name), name, items, defaultMode, optional === true);
  }
  if (volume.secret !== undefined) {
    const { secretName = '', items, defaultMode, optional } = volume.secret;
    return secretPayload(observed.secret(secretName), secretName, items, defaultMode, optional === true);
  }
  if (volume.downwardAPI !== undefined) return downwardPayload(pod, volume.downwardAPI.items, volume.downwardAPI.defaultMode, downward);
  return projectedPayload(
    pod,
    volume.name,
    volume.projected ?? {},
    {
      configMap: observed.configMap,
      secret: observed.secret,
      token: (name, index) => usableToken(observed.token(name, index), now),
      downward,
    },
    { fsUser: fsUserOf(pod), fsGroup: fsGroupOf(pod) },
  );
}

function usableToken(state: TokenState, now: number): Known<string> {
  switch (state.kind) {
    case 'none':
      return { kind: 'unknown' };
    case 'failed':
      return { kind: 'failed', message: state.message };
    case 'held':
      // One that has just been issued is good, whatever this node's clock says of it: the server's counts.
      return state.retryAt === undefined || state.token.expiresAt > now
        ? { kind: 'found', value: state.token.token }
        : { kind: 'failed', message: 'token expired and refresh failed' };
  }
}

/** Tells contents apart: paths, bytes, modes and owners. */
function fingerprintOf(files: Payload): string {
  const hash = createHash('sha256');
  for (const path of [...files.keys()].sort()) {
    const file = files.get(path);
    hash.update(`${path.length}:${path}:${file?.mode}:${file?.uid ?? ''}:${file?.data.length}:`);
    if (file !== undefined) hash.update(file.data);
  }
  return hash.digest('base64');
}
