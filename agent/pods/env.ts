import { AgentError, messageOf } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';
import type { ConfigMap, Container, EnvVarSource, Secret, Service } from '../model/generated/api.ts';
import { type AgentPod, isStaticPod } from '../model/pod.ts';
import type { ResourceList } from '../model/resources.ts';
import { expand } from './env-expand.ts';
import { envFieldValue, type RuntimeFacts, resourceFieldValue } from './env-field-ref.ts';
import { countProcessSize, longestValueBytes, variableName } from './env-limits.ts';

export interface EnvVarValue {
  readonly name: string;
  readonly value: string;
}

/** API objects of the pod's namespace; `undefined` says that there is none of this name. */
export interface ObjectLookup {
  configMap(name: string): ConfigMap | undefined;
  secret(name: string): Secret | undefined;
}

export interface EnvironmentInputs {
  readonly pod: AgentPod;
  readonly container: Container;
  readonly facts: RuntimeFacts;
  /** The Services of all namespaces; undefined while they have not been read. */
  readonly services: Iterable<Service> | undefined;
  /** Undefined without an API server. */
  readonly objects: ObjectLookup | undefined;
  /** What the node has for pods, the default of limits. */
  readonly allocatable: ResourceList;
  /** The text of a file in one of the pod's volumes; `undefined` when the volume is not mounted. Throws when it cannot be read. */
  readonly envFile: (volume: string, path: string) => string | undefined;
}

/**
 * The environment of a container: what its spec says, then the Services' variables that it does not override (kubelet's makeEnvironmentVariables).
 * Throws AgentError CreateContainerConfigError in kubelet's words.
 */
export function makeEnvironment(inputs: EnvironmentInputs): EnvVarValue[] {
  try {
    return build(inputs);
  } catch (error) {
    if (error instanceof AgentError && error.code === 'CreateContainerConfigError') throw error;
    throw new AgentError('CreateContainerConfigError', messageOf(error), { cause: error });
  }
}

function build(inputs: EnvironmentInputs): EnvVarValue[] {
  const { pod, container } = inputs;
  const { namespace } = pod.metadata;
  if (inputs.services === undefined && !isStaticPod(pod) && inputs.objects !== undefined) {
    throw new AgentError('CreateContainerConfigError', 'services have not yet been read at least once, cannot construct envvars');
  }
  const services = serviceVariables(inputs.services ?? [], namespace, pod.spec.enableServiceLinks ?? true);
  const own = new Map<string, string>();
  // Counted as they come, for a small manifest can ask for much.
  const size = countProcessSize();
  const set = (name: string, value: string): void => {
    size.setVariable(name, value);
    own.set(name, value);
  };
  const objects = cachingLookup(inputs.objects, namespace);

  for (const source of container.envFrom ?? []) {
    const prefix = source.prefix ?? '';
    if (source.configMapRef !== undefined) {
      const found = objects.configMap(source.configMapRef.name ?? '', source.configMapRef.optional === true);
      for (const [key, value] of Object.entries(found?.data ?? {})) set(prefix + key, value);
    } else if (source.secretRef !== undefined) {
      const found = objects.secret(source.secretRef.name ?? '', source.secretRef.optional === true);
      for (const [key, value] of Object.entries(found?.data ?? {})) set(prefix + key, decode(value, key, found));
    }
  }
  for (const variable of container.env ?? []) {
    const literal = variable.value ?? '';
    if (literal !== '') {
      // Variables declared before this one come first, then the Services'.
      const lookup = (name: string): string | undefined => own.get(name) ?? services.get(name);
      set(variable.name, expand(literal, lookup, longestValueBytes(variable.name), variableName(variable.name)));
    } else if (variable.valueFrom === undefined) {
      set(variable.name, '');
    } else {
      const value = valueFrom(inputs, variable.valueFrom, objects);
      if (value !== undefined) set(variable.name, value);
    }
  }
  for (const [name, value] of services) if (!own.has(name)) set(name, value);
  return [...own].map(([name, value]) => ({ name, value }));
}

type CachingLookup = ReturnType<typeof cachingLookup>;

function cachingLookup(objects: ObjectLookup | undefined, namespace: string) {
  return {
    configMap(name: string, optional: boolean): ConfigMap | undefined {
      if (objects === undefined) throw new AgentError('Standalone', `couldn't get configMap ${namespace}/${name}, no kubeClient defined`);
      const found = objects.configMap(name);
      if (found === undefined && !optional) throw new AgentError('NotFound', `configmap "${name}" not found`);
      return found;
    },
    secret(name: string, optional: boolean): Secret | undefined {
      if (objects === undefined) throw new AgentError('Standalone', `couldn't get secret ${namespace}/${name}, no kubeClient defined`);
      const found = objects.secret(name);
      if (found === undefined && !optional) throw new AgentError('NotFound', `secret "${name}" not found`);
      return found;
    },
  };
}

/** The value of one source; undefined when it is optional and not there, which leaves the variable out. */
function valueFrom(inputs: EnvironmentInputs, source: EnvVarSource, objects: CachingLookup): string | undefined {
  const { pod, container } = inputs;
  const { namespace } = pod.metadata;
  if (source.fieldRef !== undefined) return envFieldValue(pod, source.fieldRef, inputs.facts);
  if (source.resourceFieldRef !== undefined) return resourceFieldValue(pod, container, source.resourceFieldRef, inputs.allocatable);
  if (source.configMapKeyRef !== undefined) {
    const { name = '', key, optional } = source.configMapKeyRef;
    const found = objects.configMap(name, optional === true);
    const value = ownValue(found?.data, key);
    if (value === undefined && optional !== true) {
      throw new AgentError('NotFound', `couldn't find key ${key} in ConfigMap ${namespace}/${name}`);
    }
    return value;
  }
  if (source.secretKeyRef !== undefined) {
    const { name = '', key, optional } = source.secretKeyRef;
    const found = objects.secret(name, optional === true);
    const value = ownValue(found?.data, key);
    if (value === undefined && optional !== true)
      throw new AgentError('NotFound', `couldn't find key ${key} in Secret ${namespace}/${name}`);
    return value === undefined ? undefined : decode(value, key, found);
  }
  if (source.fileKeyRef !== undefined) {
    const { volumeName, path, key, optional } = source.fileKeyRef;
    let text: string | undefined;
    let value: string | undefined;
    try {
      text = inputs.envFile(volumeName, path);
      value = text === undefined ? undefined : parseEnvFile(text, key);
    } catch (error) {
      // The details could tell of files on the node. A file that is not there is no optional key either.
      throw new AgentError('InvalidEnvFile', "couldn't parse env file", { cause: error });
    }
    if (text === undefined) throw new AgentError('NotFound', `cannot find the volume "${volumeName}" referenced by FileKeyRef`);
    if (value !== undefined && value !== '') return value;
    if (optional === true) return undefined;
    throw new AgentError('NotFound', `environment variable key "${key}" not found in file "${path}"`);
  }
  return '';
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Text of a Secret. Other bytes cannot be had in an environment, since the CRI passes it as text: better no container than one with a wrong key. */
function decode(base64: string, key: string, secret: Secret | undefined): string {
  try {
    return utf8.decode(Buffer.from(base64, 'base64'));
  } catch (error) {
    const { namespace, name } = secret?.metadata ?? {};
    throw new AgentError('InvalidEncoding', `key ${key} in Secret ${namespace}/${name} is not UTF-8 text; mount it as a file instead`, {
      cause: error,
    });
  }
}

/** The Services' variables that a pod of this namespace gets: that of the API server always, the namespace's own unless service links are off. */
function serviceVariables(services: Iterable<Service>, namespace: string, links: boolean): Map<string, string> {
  const chosen = new Map<string, Service>();
  for (const service of services) {
    const name = service.metadata?.name ?? '';
    const ip = service.spec?.clusterIP ?? '';
    if (ip === '' || ip === 'None') continue;
    if (service.metadata?.namespace === 'default' && name === 'kubernetes') {
      if (!chosen.has(name)) chosen.set(name, service);
    } else if (service.metadata?.namespace === namespace && links) {
      chosen.set(name, service);
    }
  }
  const variables = new Map<string, string>();
  for (const [name, service] of chosen) addServiceVariables(variables, name, service);
  return variables;
}

function serviceVariableName(name: string): string {
  return name.toUpperCase().replaceAll('-', '_');
}

/** `NAME_SERVICE_HOST` and `NAME_SERVICE_PORT`, and the link variables that Docker once made (pkg/kubelet/envvars). */
function addServiceVariables(variables: Map<string, string>, name: string, service: Service): void {
  const prefix = serviceVariableName(name);
  const ip = service.spec?.clusterIP ?? '';
  const ports = service.spec?.ports ?? [];
  const [first] = ports;
  variables.set(`${prefix}_SERVICE_HOST`, ip);
  if (first !== undefined) variables.set(`${prefix}_SERVICE_PORT`, `${first.port}`);
  for (const port of ports) {
    if (port.name !== undefined && port.name !== '')
      variables.set(`${prefix}_SERVICE_PORT_${serviceVariableName(port.name)}`, `${port.port}`);
  }
  for (const [i, port] of ports.entries()) {
    const protocol = port.protocol ?? 'TCP';
    const url = `${protocol.toLowerCase()}://${ip.includes(':') ? `[${ip}]` : ip}:${port.port}`;
    if (i === 0) variables.set(`${prefix}_PORT`, url);
    const portPrefix = `${prefix}_PORT_${port.port}_${protocol.toUpperCase()}`;
    variables.set(portPrefix, url);
    variables.set(`${portPrefix}_PROTO`, protocol.toLowerCase());
    variables.set(`${portPrefix}_PORT`, `${port.port}`);
    variables.set(`${portPrefix}_ADDR`, ip);
  }
}

/**
 * The value of `key` in an env file: lines `NAME='value'`, where a value may span lines and holds anything but a quote; blank lines and `#` comments are
 * skipped (pkg/kubelet/util/env). Undefined when the key is not there. Throws AgentError InvalidEnvFile.
 */
export function parseEnvFile(text: string, key: string): string | undefined {
  const lines = text.replace(/\r$/, '').split(/\r?\n/);
  const invalid = (line: number, what: string): AgentError =>
    new AgentError('InvalidEnvFile', `invalid environment variable format at line ${line}: ${what}`);
  for (let i = 0; i < lines.length; i++) {
    const line = (lines[i] ?? '').replace(/^[ \t]+/, '');
    if (line === '' || line.startsWith('#')) continue;
    const equals = line.indexOf('=');
    if (equals < 0) throw invalid(i + 1, "missing '='");
    const name = line.slice(0, equals);
    if (name.trim() === '') throw invalid(i + 1, 'empty variable name');
    if (/[ \t]$/.test(name)) throw invalid(i + 1, "whitespace before '=' is not allowed");
    let rest = line.slice(equals + 1);
    // As a shell reads `NAME= 'value'`: empty.
    if (/^[ \t]/.test(rest)) {
      if (name === key) return '';
      continue;
    }
    if (!rest.startsWith("'")) throw invalid(i + 1, 'value must be enclosed in single quotes');
    rest = rest.slice(1);
    const start = i + 1;
    let value = '';
    let close = rest.indexOf("'");
    while (close < 0) {
      value += `${rest}\n`;
      i++;
      const more = lines[i];
      // A file's last newline is no line of its own.
      if (more === undefined || (more === '' && i === lines.length - 1)) throw invalid(start, 'unclosed single quote');
      rest = more;
      close = rest.indexOf("'");
    }
    value += rest.slice(0, close);
    const after = rest.slice(close + 1).replace(/^[ \t]+/, '');
    if (after !== '' && !after.startsWith('#')) throw invalid(i + 1, 'unexpected content after closing quote');
    if (name === key) return value;
  }
  return undefined;
}
