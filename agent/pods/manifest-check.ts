import { isIP } from 'node:net';
import { messageOf } from '../base/errors.ts';
import { ownValue, setOwn } from '../base/own.ts';
import type { Container, Pod, Probe } from '../model/generated/api.ts';
import { isPodUid } from '../model/pod-uid.ts';
import { compareQuantity, parseQuantity } from '../model/quantity.ts';
import { podSchema } from './generated/pod-schema.ts';

/** What is wrong with a manifest: each by its field path. */
export interface ShapeProblems {
  /** Fields that the Pod API does not have. */
  readonly unknown: string[];
  /** Values of a wrong type, and fields that must be there and are not. */
  readonly wrong: string[];
}

/** Compares a decoded manifest (nulls dropped) with the API's fields and types. Quantities written as numbers become text. */
export function checkShape(document: unknown): { pod: Pod } & ShapeProblems {
  const problems: ShapeProblems = { unknown: [], wrong: [] };
  const pod = checkValue(document, 'Pod', '', problems) as Pod;
  return { pod, ...problems };
}

function checkValue(value: unknown, type: string, at: string, problems: ShapeProblems): unknown {
  const wrong = (expected: string): unknown => {
    problems.wrong.push(`${at || 'the document'}: must be ${expected}, not ${describe(value)}`);
    return value;
  };
  const scalar = ownValue(scalars, type);
  if (scalar !== undefined) return scalar.is(value) ? (scalar.read?.(value) ?? value) : wrong(scalar.expected);
  if (type.endsWith('[]')) {
    if (!Array.isArray(value)) return wrong('a list');
    return value.map((item, i) => checkValue(item, type.slice(0, -2), `${at}[${i}]`, problems));
  }
  const map = /^Record<string, (.*)>$/.exec(type)?.[1];
  if (!isMapping(value)) return wrong('a mapping');
  if (map !== undefined)
    return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, checkValue(v, map, `${at}[${key}]`, problems)]));
  const fields = ownValue(podSchema, type) ?? {};
  const path = (field: string): string => (at === '' ? field : `${at}.${field}`);
  const result: Record<string, unknown> = {};
  for (const [field, inner] of Object.entries(value)) {
    const fieldType = ownValue(fields, field);
    if (fieldType === undefined) problems.unknown.push(path(field));
    else setOwn(result, field, checkValue(inner, fieldType.replace(/!$/, ''), path(field), problems));
  }
  for (const [field, fieldType] of Object.entries(fields))
    if (fieldType.endsWith('!') && ownValue(value, field) === undefined) problems.wrong.push(`${path(field)}: required`);
  return result;
}

interface Scalar {
  readonly expected: string;
  is(value: unknown): boolean;
  read?(value: unknown): unknown;
}

const scalars: Readonly<Record<string, Scalar>> = {
  string: { expected: 'text (quote it)', is: (v) => typeof v === 'string' },
  number: { expected: 'a whole number', is: (v) => Number.isInteger(v) },
  boolean: { expected: 'true or false', is: (v) => typeof v === 'boolean' },
  'number | string': { expected: 'a whole number or text', is: (v) => Number.isInteger(v) || typeof v === 'string' },
  quantity: { expected: 'a quantity such as 100m or 64Mi', is: isQuantity, read: String },
  unknown: { expected: 'anything', is: () => true },
};

function isQuantity(value: unknown): boolean {
  if (typeof value !== 'string' && typeof value !== 'number') return false;
  try {
    parseQuantity(value);
    return true;
  } catch {
    return false;
  }
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  return JSON.stringify(value);
}

export function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const dnsLabel = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const dnsSubdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const portName = /^(?=.*[a-z])[a-z0-9]([a-z0-9]|-(?!-))*$/;

/**
 * What the API server would say to a pod with its defaults set: the rules (k8s.io/kubernetes pkg/apis/core/validation) whose breach would otherwise come
 * out late or not at all. One message a problem, each with its field path.
 */
export function validatePod(pod: Pod): string[] {
  const problems: string[] = [];
  const say = (at: string, problem: string): void => void problems.push(`${at}: ${problem}`);
  const oneOf = (at: string, value: string | undefined, allowed: readonly string[]): void => {
    if (value !== undefined && !allowed.includes(value)) say(at, `must be one of ${allowed.join(', ')}, not "${value}"`);
  };
  const label = (at: string, value: string): void => {
    if (value.length > 63 || !dnsLabel.test(value))
      say(at, `"${value}" is no name: lower case letters, digits and "-", letter or digit at both ends, at most 63 of them`);
  };
  const { metadata, spec } = pod;
  const name = metadata?.name ?? '';
  if (name.length > 253 || !dnsSubdomain.test(name))
    say(
      'metadata.name',
      `"${name}" is no name: lower case letters, digits, "-" and ".", letter or digit at both ends, at most 253 of them`,
    );
  label('metadata.namespace', metadata?.namespace ?? '');
  const { uid } = metadata ?? {};
  if (uid !== undefined && uid !== '' && !isPodUid(uid))
    say('metadata.uid', `"${uid}" is no UID: letters, digits, "-" and ".", letter or digit at both ends, at most 128 of them`);
  if (spec === undefined) {
    say('spec', 'required');
    return problems;
  }
  oneOf('spec.restartPolicy', spec.restartPolicy, ['Always', 'OnFailure', 'Never']);
  oneOf('spec.dnsPolicy', spec.dnsPolicy, ['ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None']);
  if (spec.dnsPolicy === 'None' && (spec.dnsConfig?.nameservers ?? []).length === 0)
    say('spec.dnsConfig.nameservers', 'must name at least one server when dnsPolicy is None');
  if ((spec.terminationGracePeriodSeconds ?? 0) < 0) say('spec.terminationGracePeriodSeconds', 'must be 0 or more');
  if (spec.activeDeadlineSeconds !== undefined && spec.activeDeadlineSeconds < 1) say('spec.activeDeadlineSeconds', 'must be 1 or more');
  if (spec.hostname !== undefined) label('spec.hostname', spec.hostname);
  for (const [i, alias] of (spec.hostAliases ?? []).entries())
    if (isIP(alias.ip) === 0) say(`spec.hostAliases[${i}].ip`, `"${alias.ip}" is no IP address`);
  if ((spec.ephemeralContainers ?? []).length > 0) say('spec.ephemeralContainers', 'a new pod can have none');

  const volumes = new Set<string>();
  for (const [i, volume] of (spec.volumes ?? []).entries()) {
    const at = `spec.volumes[${i}]`;
    label(`${at}.name`, volume.name);
    if (volumes.has(volume.name)) say(`${at}.name`, `"${volume.name}" is there twice`);
    volumes.add(volume.name);
    const kinds = Object.keys(volume).filter((key) => key !== 'name');
    if (kinds.length !== 1)
      say(at, kinds.length === 0 ? 'must say what it is, such as emptyDir' : `must be one thing only, not ${kinds.join(' and ')}`);
    const hostPath = volume.hostPath?.path;
    if (hostPath?.split('/').includes('..') === true) say(`${at}.hostPath.path`, 'must not contain ".."');
  }

  if (spec.containers.length === 0) say('spec.containers', 'must have at least one container');
  const names = new Set<string>();
  const lists = [
    ['spec.initContainers', spec.initContainers ?? []],
    ['spec.containers', spec.containers],
  ] as const;
  for (const [list, containers] of lists)
    for (const [i, container] of containers.entries()) {
      const at = `${list}[${i}]`;
      label(`${at}.name`, container.name);
      if (names.has(container.name)) say(`${at}.name`, `"${container.name}" is there twice`);
      names.add(container.name);
      checkContainer(container, at, volumes, spec.hostNetwork === true, say, oneOf);
      const sidecar = container.restartPolicy === 'Always';
      if (list === 'spec.initContainers' && !sidecar)
        for (const field of ['livenessProbe', 'readinessProbe', 'startupProbe', 'lifecycle'] as const)
          if (container[field] !== undefined) say(`${at}.${field}`, 'an init container can have none, unless its restartPolicy is Always');
    }
  return problems;
}

type Say = (at: string, problem: string) => void;
type OneOf = (at: string, value: string | undefined, allowed: readonly string[]) => void;

function checkContainer(
  container: Container,
  at: string,
  volumes: ReadonlySet<string>,
  hostNetwork: boolean,
  say: Say,
  oneOf: OneOf,
): void {
  const image = container.image ?? '';
  if (image === '') say(`${at}.image`, 'required');
  else if (image !== image.trim()) say(`${at}.image`, 'must not have spaces around it');
  oneOf(`${at}.imagePullPolicy`, container.imagePullPolicy, ['Always', 'IfNotPresent', 'Never']);
  oneOf(`${at}.terminationMessagePolicy`, container.terminationMessagePolicy, ['File', 'FallbackToLogsOnError']);
  oneOf(`${at}.restartPolicy`, container.restartPolicy, ['Always', 'OnFailure', 'Never']);
  const portNames = new Set<string>();
  for (const [i, port] of (container.ports ?? []).entries()) {
    const where = `${at}.ports[${i}]`;
    const inRange = (n: number): boolean => n >= 1 && n <= 65535;
    if (!inRange(port.containerPort)) say(`${where}.containerPort`, `must be between 1 and 65535, not ${port.containerPort}`);
    if (port.hostPort !== undefined && port.hostPort !== 0 && !inRange(port.hostPort))
      say(`${where}.hostPort`, `must be between 1 and 65535, not ${port.hostPort}`);
    if (hostNetwork && port.hostPort !== port.containerPort) say(`${where}.hostPort`, 'must be the containerPort when hostNetwork is true');
    oneOf(`${where}.protocol`, port.protocol, ['TCP', 'UDP', 'SCTP']);
    if (port.name === undefined) continue;
    if (port.name.length > 15 || !portName.test(port.name) || port.name.endsWith('-'))
      say(`${where}.name`, `"${port.name}" is no port name: lower case letters, digits and "-", at most 15, with a letter`);
    if (portNames.has(port.name)) say(`${where}.name`, `"${port.name}" is there twice`);
    portNames.add(port.name);
  }
  for (const [i, env] of (container.env ?? []).entries()) {
    const where = `${at}.env[${i}]`;
    if (env.name === '' || env.name.includes('=')) say(`${where}.name`, `"${env.name}" is no name of an environment variable`);
    if (env.valueFrom === undefined) continue;
    if (env.value !== undefined && env.value !== '') say(`${where}.valueFrom`, 'must not be there beside a value');
    if (Object.keys(env.valueFrom).length !== 1) say(`${where}.valueFrom`, 'must have exactly one source');
  }
  const mountPaths = new Set<string>();
  for (const [i, mount] of (container.volumeMounts ?? []).entries()) {
    const where = `${at}.volumeMounts[${i}]`;
    if (!volumes.has(mount.name)) say(`${where}.name`, `the pod has no volume "${mount.name}"`);
    if (mount.mountPath === '') say(`${where}.mountPath`, 'required');
    if (mountPaths.has(mount.mountPath)) say(`${where}.mountPath`, `"${mount.mountPath}" is there twice`);
    mountPaths.add(mount.mountPath);
    if (mount.subPath !== undefined && (mount.subPath.startsWith('/') || mount.subPath.split('/').includes('..')))
      say(`${where}.subPath`, 'must be a relative path without ".."');
  }
  for (const field of ['livenessProbe', 'readinessProbe', 'startupProbe'] as const) {
    const probe = container[field];
    if (probe !== undefined) checkProbe(probe, `${at}.${field}`, field, say);
  }
  const { limits = {}, requests = {} } = container.resources ?? {};
  for (const [resource, request] of Object.entries(requests)) {
    const limit = ownValue(limits, resource);
    try {
      if (limit !== undefined && compareQuantity(request, limit) > 0)
        say(`${at}.resources.requests[${resource}]`, `${request} is more than the limit of ${limit}`);
    } catch (error) {
      say(`${at}.resources.requests[${resource}]`, messageOf(error));
    }
  }
}

function checkProbe(probe: Probe, at: string, kind: string, say: Say): void {
  const handlers = (['exec', 'httpGet', 'tcpSocket', 'grpc'] as const).filter((h) => probe[h] !== undefined);
  if (handlers.length !== 1) say(at, 'must have exactly one of exec, httpGet, tcpSocket, grpc');
  if (probe.exec !== undefined && (probe.exec.command ?? []).length === 0) say(`${at}.exec.command`, 'required');
  for (const field of ['initialDelaySeconds', 'timeoutSeconds', 'periodSeconds', 'successThreshold', 'failureThreshold'] as const)
    if ((probe[field] ?? 0) < 0) say(`${at}.${field}`, 'must be 0 or more');
  if (kind !== 'readinessProbe' && (probe.successThreshold ?? 1) !== 1) say(`${at}.successThreshold`, 'must be 1');
  if (kind === 'readinessProbe' && probe.terminationGracePeriodSeconds !== undefined)
    say(`${at}.terminationGracePeriodSeconds`, 'a readiness probe can have none');
}

/**
 * The first thing in the API that the pod refers to, as field path and upstream's words; undefined when it can run without any. A static pod may refer to
 * none (pkg/api/pod HasAPIObjectReference): nobody would say when it changes, or whether the pod may read it.
 */
export function apiReference(pod: Pod): { field: string; resource: string } | undefined {
  const { spec } = pod;
  if (spec === undefined) return undefined;
  if (spec.serviceAccountName) return { field: 'spec.serviceAccountName', resource: 'serviceaccounts' };
  if (spec.serviceAccount) return { field: 'spec.serviceAccount', resource: 'serviceaccounts' };
  if ((spec.imagePullSecrets ?? []).length > 0) return { field: 'spec.imagePullSecrets', resource: 'secrets' };
  const lists = [
    ['spec.initContainers', spec.initContainers ?? []],
    ['spec.containers', spec.containers],
  ] as const;
  for (const [list, containers] of lists)
    for (const [i, { env = [], envFrom = [] }] of containers.entries()) {
      for (const [j, { valueFrom }] of env.entries()) {
        const at = `${list}[${i}].env[${j}].valueFrom`;
        if (valueFrom?.secretKeyRef !== undefined) return { field: `${at}.secretKeyRef`, resource: 'secrets' };
        if (valueFrom?.configMapKeyRef !== undefined) return { field: `${at}.configMapKeyRef`, resource: 'configmaps' };
      }
      for (const [j, source] of envFrom.entries()) {
        const at = `${list}[${i}].envFrom[${j}]`;
        if (source.secretRef !== undefined) return { field: `${at}.secretRef`, resource: 'secrets' };
        if (source.configMapRef !== undefined) return { field: `${at}.configMapRef`, resource: 'configmaps' };
      }
    }
  if ((spec.resourceClaims ?? []).length > 0) return { field: 'spec.resourceClaims', resource: 'resourceclaims' };
  for (const [i, volume] of (spec.volumes ?? []).entries()) {
    const at = `spec.volumes[${i}]`;
    for (const [kind, resource] of Object.entries(volumesOfTheApi))
      if (Object.hasOwn(volume, kind)) return { field: `${at}.${kind}`, resource };
    for (const kind of ['cephfs', 'cinder', 'flexVolume', 'iscsi', 'rbd', 'scaleIO', 'storageos'] as const) {
      const source = volume[kind];
      if (source?.secretRef !== undefined) return { field: `${at}.${kind}.secretRef`, resource: 'secrets' };
    }
    for (const [j, source] of (volume.projected?.sources ?? []).entries())
      for (const [kind, resource] of Object.entries(projectionsOfTheApi))
        if (Object.hasOwn(source, kind)) return { field: `${at}.projected.sources[${j}].${kind}`, resource };
  }
  return undefined;
}

const volumesOfTheApi: Readonly<Record<string, string>> = {
  configMap: 'configmaps (via configmap volumes)',
  secret: 'secrets (via secret volumes)',
  csi: 'csidrivers (via CSI volumes)',
  glusterfs: 'endpoints (via glusterFS volumes)',
  persistentVolumeClaim: 'persistentvolumeclaims',
  ephemeral: 'persistentvolumeclaims (via ephemeral volumes)',
  azureFile: 'secrets (via azureFile volumes)',
};

const projectionsOfTheApi: Readonly<Record<string, string>> = {
  configMap: 'configmaps (via projected volumes)',
  secret: 'secrets (via projected volumes)',
  serviceAccountToken: 'serviceaccounts (via projected volumes)',
  clusterTrustBundle: 'clustertrustbundles',
  podCertificate: 'podcertificates',
};
