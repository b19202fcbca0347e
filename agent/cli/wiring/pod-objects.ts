import type { ObjectHandle, Objects } from '../../drivers/kube/objects.ts';
import type { ConfigMap, Secret } from '../../model/generated/api.ts';
import { type AgentPod, containersOf } from '../../model/pod.ts';
import type { ObjectLookup } from '../../pods/env.ts';

/** Names of the ConfigMaps and Secrets that a pod's environment and pulls refer to (volumes hold their own). */
function referredObjects(pod: AgentPod): { configMaps: Set<string>; secrets: Set<string> } {
  const configMaps = new Set<string>();
  const secrets = new Set<string>();
  const add = (set: Set<string>, name: string | undefined): void => {
    if (name !== undefined && name !== '') set.add(name);
  };
  for (const { container } of containersOf(pod)) {
    for (const source of container.envFrom ?? []) {
      add(configMaps, source.configMapRef?.name);
      add(secrets, source.secretRef?.name);
    }
    for (const { valueFrom } of container.env ?? []) {
      add(configMaps, valueFrom?.configMapKeyRef?.name);
      add(secrets, valueFrom?.secretKeyRef?.name);
    }
  }
  for (const { name } of pod.spec.imagePullSecrets ?? []) add(secrets, name);
  return { configMaps, secrets };
}

/** The API objects that pods refer to, held (and so watched) from a pod's admission to its end. */
export interface PodObjects {
  hold(pod: AgentPod): void;
  release(uid: string): void;
  /** Everything the pod's environment refers to, read now. Throws AgentError Forbidden and the like. */
  lookup(pod: AgentPod, signal: AbortSignal): Promise<ObjectLookup>;
  pullSecrets(pod: AgentPod, signal: AbortSignal): Promise<Secret[]>;
  /** UIDs of the pods that hold `namespace/name`. */
  holders(key: string): string[];
}

/** Keeps, for each pod, claims on the objects that it refers to. */
export function createPodObjects(configMaps: Objects<ConfigMap>, secrets: Objects<Secret>): PodObjects {
  const held = new Map<string, { handles: ObjectHandle[]; names: string }>();
  const keys = new Map<string, Set<string>>();

  function drop(uid: string): void {
    for (const handle of held.get(uid)?.handles ?? []) {
      const key = `${handle.namespace}/${handle.name}`;
      const uids = keys.get(key);
      uids?.delete(uid);
      if (uids?.size === 0) keys.delete(key);
      handle[Symbol.dispose]();
    }
    held.delete(uid);
  }

  return {
    hold(pod) {
      const refers = referredObjects(pod);
      const names = JSON.stringify([[...refers.configMaps], [...refers.secrets]]);
      const { uid, namespace } = pod.metadata;
      // Ephemeral containers may add references to a pod that is there already.
      if (held.get(uid)?.names === names) return;
      const handles = [
        ...[...refers.configMaps].map((name) => configMaps.acquire(namespace, name)),
        ...[...refers.secrets].map((name) => secrets.acquire(namespace, name)),
      ];
      drop(uid);
      held.set(uid, { handles, names });
      for (const handle of handles) {
        const key = `${handle.namespace}/${handle.name}`;
        let uids = keys.get(key);
        if (uids === undefined) {
          uids = new Set();
          keys.set(key, uids);
        }
        uids.add(uid);
      }
    },
    release: drop,
    async lookup(pod, signal) {
      const refers = referredObjects(pod);
      const { namespace } = pod.metadata;
      const read = async <T>(objects: Objects<T>, names: Set<string>): Promise<Map<string, T | undefined>> =>
        new Map(await Promise.all([...names].map(async (name) => [name, await objects.get(namespace, name, signal)] as const)));
      const [foundMaps, foundSecrets] = await Promise.all([read(configMaps, refers.configMaps), read(secrets, refers.secrets)]);
      return { configMap: (name) => foundMaps.get(name), secret: (name) => foundSecrets.get(name) };
    },
    async pullSecrets(pod, signal) {
      const names = (pod.spec.imagePullSecrets ?? []).map((s) => s.name ?? '').filter((n) => n !== '');
      const found = await Promise.all(names.map((name) => secrets.get(pod.metadata.namespace, name, signal)));
      // A missing pull secret is no reason not to try without it: the image may be public (pkg/kubelet/kubelet_pods.go getPullSecretsForPod).
      return found.filter((s) => s !== undefined);
    },
    holders: (key) => [...(keys.get(key) ?? [])],
  };
}
