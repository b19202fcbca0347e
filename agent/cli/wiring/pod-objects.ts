import { AgentError } from '../../base/errors.ts';
import type { ObjectHandle, Objects } from '../../drivers/kube/objects.ts';
import type { ConfigMap, Container, Secret } from '../../model/generated/api.ts';
import { type AgentPod, containersOf } from '../../model/pod.ts';
import type { ObjectLookup } from '../../pods/env.ts';

interface Names {
  readonly configMaps: Set<string>;
  readonly secrets: Set<string>;
}

const add = (set: Set<string>, name: string | undefined): void => {
  if (name !== undefined && name !== '') set.add(name);
};

/** Names of the ConfigMaps and Secrets that the environments of these containers refer to. */
function environmentObjects(containers: Iterable<Container>): Names {
  const configMaps = new Set<string>();
  const secrets = new Set<string>();
  for (const container of containers) {
    for (const source of container.envFrom ?? []) {
      add(configMaps, source.configMapRef?.name);
      add(secrets, source.secretRef?.name);
    }
    for (const { valueFrom } of container.env ?? []) {
      add(configMaps, valueFrom?.configMapKeyRef?.name);
      add(secrets, valueFrom?.secretKeyRef?.name);
    }
  }
  return { configMaps, secrets };
}

/** Names of the ConfigMaps and Secrets that a pod's environment and pulls refer to (volumes hold their own). */
function referredObjects(pod: AgentPod): Names {
  const names = environmentObjects(containersOf(pod).map(({ container }) => container));
  for (const { name } of pod.spec.imagePullSecrets ?? []) add(names.secrets, name);
  return names;
}

/** The API objects that pods refer to, held (and so watched) from a pod's admission to its end. */
export interface PodObjects {
  hold(pod: AgentPod): void;
  release(uid: string): void;
  /** Everything the container's environment refers to, read now. Throws AgentError Forbidden and the like. */
  lookup(pod: AgentPod, container: Container, signal: AbortSignal): Promise<ObjectLookup>;
  /** The pod's pull secrets, and the names of those that cannot be had. */
  pullSecrets(pod: AgentPod, signal: AbortSignal): Promise<{ readonly found: Secret[]; readonly failed: string[] }>;
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
    async lookup(pod, container, signal) {
      const refers = environmentObjects([container]);
      const { namespace } = pod.metadata;
      const read = async <T>(objects: Objects<T>, names: Set<string>): Promise<Map<string, T | undefined>> =>
        new Map(await Promise.all([...names].map(async (name) => [name, await objects.get(namespace, name, signal)] as const)));
      const [foundMaps, foundSecrets] = await Promise.all([read(configMaps, refers.configMaps), read(secrets, refers.secrets)]);
      return { configMap: (name) => foundMaps.get(name), secret: (name) => foundSecrets.get(name) };
    },
    async pullSecrets(pod, signal) {
      const names = (pod.spec.imagePullSecrets ?? []).map((s) => s.name ?? '').filter((n) => n !== '');
      // A pull secret that cannot be had is no reason not to try without it: the image may be public (kubelet_pods.go getPullSecretsForPod).
      const secretOrNot = (name: string): Promise<Secret | undefined> =>
        secrets.get(pod.metadata.namespace, name, signal).catch((error: unknown) => {
          if (signal.aborted || !(error instanceof AgentError)) throw error;
          return undefined;
        });
      const found = await Promise.all(names.map(secretOrNot));
      return { found: found.filter((s) => s !== undefined), failed: names.filter((_, i) => found[i] === undefined) };
    },
    holders: (key) => [...(keys.get(key) ?? [])],
  };
}
