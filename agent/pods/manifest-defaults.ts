import { ownValue, setOwn } from '../base/own.ts';
import type { Container, Pod, PodSpec, Probe, ResourceRequirements, Volume } from '../model/generated/api.ts';
import { defaultPullPolicy } from '../model/image-name.ts';
import { podLimits, podRequests, type ResourceList } from '../model/resources.ts';

/** The pod with what the API server would have filled in (k8s.io/kubernetes pkg/apis/core/v1/defaults.go). */
export function withDefaults(pod: Pod): Pod {
  const { spec } = pod;
  if (spec === undefined) return pod;
  const hostNetwork = spec.hostNetwork === true;
  const filled: PodSpec = {
    ...spec,
    restartPolicy: spec.restartPolicy || 'Always',
    dnsPolicy: spec.dnsPolicy || 'ClusterFirst',
    terminationGracePeriodSeconds: spec.terminationGracePeriodSeconds ?? 30,
    schedulerName: spec.schedulerName || 'default-scheduler',
    enableServiceLinks: spec.enableServiceLinks ?? true,
    securityContext: spec.securityContext ?? {},
    containers: spec.containers.map((c) => containerDefaults(c, hostNetwork)),
  };
  if (spec.initContainers !== undefined) filled.initContainers = spec.initContainers.map((c) => containerDefaults(c, hostNetwork));
  if (spec.volumes !== undefined) filled.volumes = spec.volumes.map(volumeDefaults);
  if (spec.resources !== undefined) filled.resources = podResourceDefaults(spec.resources, filled);
  return { ...pod, spec: filled };
}

/** Pod-level resources that are given in part: huge page limits are the containers' own; requests are the containers' own where they ask for any, or the limits. */
function podResourceDefaults(given: ResourceRequirements, { resources: _, ...containersOnly }: PodSpec): ResourceRequirements {
  if (Object.keys({ ...given.limits, ...given.requests }).length === 0) return given;
  const limits: ResourceList = { ...given.limits };
  for (const [name, amount] of Object.entries(podLimits({ spec: containersOnly }, { withOverhead: false })))
    if (name.startsWith(hugePages) && ownValue(limits, name) === undefined && ownValue(given.requests, name) === undefined)
      setOwn(limits, name, amount);
  if (Object.keys(limits).length === 0) return given;
  const requests: ResourceList = { ...given.requests };
  for (const [name, amount] of Object.entries(podRequests({ spec: containersOnly }, { withOverhead: false })))
    if (name === 'cpu' || name === 'memory') setOwn(requests, name, ownValue(requests, name) ?? amount);
  for (const [name, amount] of Object.entries(limits))
    if (name === 'cpu' || name === 'memory' || name.startsWith(hugePages)) setOwn(requests, name, ownValue(requests, name) ?? amount);
  return { ...given, limits, requests };
}

const hugePages = 'hugepages-';

function containerDefaults(container: Container, hostNetwork: boolean): Container {
  const filled: Container = {
    ...container,
    imagePullPolicy: container.imagePullPolicy || defaultPullPolicy(container.image ?? ''),
    terminationMessagePath: container.terminationMessagePath || '/dev/termination-log',
    terminationMessagePolicy: container.terminationMessagePolicy || 'File',
    resources: container.resources ?? {},
  };
  const limits = container.resources?.limits;
  if (limits !== undefined) filled.resources = { ...container.resources, requests: { ...limits, ...container.resources?.requests } };
  if (container.ports !== undefined)
    filled.ports = container.ports.map((port) => ({
      ...port,
      protocol: port.protocol || 'TCP',
      ...(hostNetwork && !port.hostPort ? { hostPort: port.containerPort } : {}),
    }));
  if (container.env !== undefined)
    filled.env = container.env.map((env) => {
      const fieldRef = env.valueFrom?.fieldRef;
      return fieldRef === undefined
        ? env
        : { ...env, valueFrom: { ...env.valueFrom, fieldRef: { ...fieldRef, apiVersion: fieldRef.apiVersion || 'v1' } } };
    });
  for (const kind of ['livenessProbe', 'readinessProbe', 'startupProbe'] as const) {
    const probe = container[kind];
    if (probe !== undefined) filled[kind] = probeDefaults(probe);
  }
  const lifecycle = container.lifecycle;
  if (lifecycle !== undefined) {
    filled.lifecycle = { ...lifecycle };
    for (const hook of ['postStart', 'preStop'] as const) {
      const httpGet = lifecycle[hook]?.httpGet;
      if (httpGet !== undefined) filled.lifecycle[hook] = { ...lifecycle[hook], httpGet: httpDefaults(httpGet) };
    }
  }
  return filled;
}

function probeDefaults(probe: Probe): Probe {
  return {
    ...probe,
    timeoutSeconds: probe.timeoutSeconds || 1,
    periodSeconds: probe.periodSeconds || 10,
    successThreshold: probe.successThreshold || 1,
    failureThreshold: probe.failureThreshold || 3,
    ...(probe.httpGet === undefined ? {} : { httpGet: httpDefaults(probe.httpGet) }),
  };
}

function httpDefaults<T extends { path?: string | undefined; scheme?: string | undefined }>(action: T): T {
  return { ...action, path: action.path || '/', scheme: action.scheme || 'HTTP' };
}

const fileMode = 0o644;

function volumeDefaults(volume: Volume): Volume {
  const filled: Volume = { ...volume };
  // A volume that says nothing of its kind is an emptyDir.
  if (Object.keys(volume).length === 1) filled.emptyDir = {};
  if (volume.image !== undefined)
    filled.image = { ...volume.image, pullPolicy: volume.image.pullPolicy || defaultPullPolicy(volume.image.reference ?? '') };
  if (volume.hostPath !== undefined) filled.hostPath = { ...volume.hostPath, type: volume.hostPath.type ?? '' };
  if (volume.configMap !== undefined) filled.configMap = { ...volume.configMap, defaultMode: volume.configMap.defaultMode ?? fileMode };
  if (volume.secret !== undefined) filled.secret = { ...volume.secret, defaultMode: volume.secret.defaultMode ?? fileMode };
  if (volume.downwardAPI !== undefined)
    filled.downwardAPI = {
      ...volume.downwardAPI,
      defaultMode: volume.downwardAPI.defaultMode ?? fileMode,
      ...(volume.downwardAPI.items === undefined ? {} : { items: volume.downwardAPI.items.map(downwardDefaults) }),
    };
  if (volume.projected !== undefined)
    filled.projected = {
      ...volume.projected,
      defaultMode: volume.projected.defaultMode ?? fileMode,
      sources: (volume.projected.sources ?? []).map((source) => ({
        ...source,
        ...(source.downwardAPI?.items === undefined
          ? {}
          : { downwardAPI: { ...source.downwardAPI, items: source.downwardAPI.items.map(downwardDefaults) } }),
        ...(source.serviceAccountToken === undefined
          ? {}
          : {
              serviceAccountToken: {
                ...source.serviceAccountToken,
                expirationSeconds: source.serviceAccountToken.expirationSeconds ?? 3600,
              },
            }),
      })),
    };
  return filled;
}

function downwardDefaults<T extends { fieldRef?: { apiVersion?: string | undefined; fieldPath: string } | undefined }>(item: T): T {
  return item.fieldRef === undefined ? item : { ...item, fieldRef: { ...item.fieldRef, apiVersion: item.fieldRef.apiVersion || 'v1' } };
}
