import type * as z from 'zod';
import { AgentError, messageOf } from '../base/errors.ts';
import { describeRepeated } from '../model/repeated-key.ts';
import { readYaml } from '../model/yaml.ts';
import { isObject, type PartialKubeletConfiguration, schema, withoutNulls } from './kubelet-configuration.ts';

// How upstream reads a KubeletConfiguration (pkg/kubelet/kubeletconfig/util/codec): strictly first, and when only that fails, leniently with a warning. So a
// node starts with the configuration of a newer cluster, whose fields it does not know.

/** A document, and what was accepted that deserves a line in the log. */
export interface ConfigDocument {
  readonly document: unknown;
  readonly warnings: readonly string[];
}

/** The first document of a configuration file that holds something. `what` it is, for the error. Throws AgentError InvalidConfig naming `file`. */
export function parseConfigDocument(text: string, file: string, what = 'kubelet config file'): ConfigDocument {
  let found: ReturnType<typeof readYaml>;
  try {
    found = readYaml(text);
  } catch (error) {
    throw new AgentError('InvalidConfig', `${file}: not YAML: ${messageOf(error)}`, { cause: error });
  }
  if (found === undefined) throw new AgentError('InvalidConfig', `${what} "${file}" was empty`);
  return {
    document: found.value,
    warnings: found.repeated.map((repeated) => `${file}: ${describeRepeated(repeated)}; the last one counts`),
  };
}

/**
 * Reads a parsed document as KubeletConfiguration; null counts as absent. Fields that this version does not know are left out, with a warning each.
 * Throws AgentError InvalidConfig with every other problem by its field path.
 */
export function decodeKubeletConfiguration(
  document: unknown,
  file: string,
): { config: PartialKubeletConfiguration; warnings: readonly string[] } {
  const fail = (problems: string[]): never => {
    throw new AgentError('InvalidConfig', `${file}: ${problems.join('; ')}`);
  };
  if (!isObject(document)) return fail(['not a KubeletConfiguration: the document is no mapping']);
  const { apiVersion, kind } = document;
  if (typeof apiVersion !== 'string' || typeof kind !== 'string') return fail(['no apiVersion/kind']);
  if (apiVersion !== 'kubelet.config.k8s.io/v1beta1' || kind !== 'KubeletConfiguration')
    return fail([`unknown apiVersion/kind: ${apiVersion}, Kind=${kind} (want kubelet.config.k8s.io/v1beta1, Kind=KubeletConfiguration)`]);
  // A copy, which the fields that nobody knows are taken out of.
  const { result, unknown } = leniently((plain) => schema.safeDecode(plain as z.input<typeof schema>), withoutNulls(document));
  if (!result.success) return fail(result.error.issues.map((issue) => `${pathText(issue.path)}: ${issue.message}`));
  const { apiVersion: _, kind: __, ...config } = result.data;
  return { config, warnings: unknown.map((field) => `${file}: unknown field "${field}", ignored`) };
}

/** Decodes strictly, and when that fails once more without the fields that are unknown: they are taken out of the document, and their paths returned. */
export function leniently<T>(
  decode: (document: unknown) => z.ZodSafeParseResult<T>,
  document: unknown,
): { result: z.ZodSafeParseResult<T>; unknown: readonly string[] } {
  const strict = decode(document);
  const unknown = strict.success ? [] : strict.error.issues.flatMap((issue) => removeUnknown(document, issue));
  return { result: unknown.length === 0 ? strict : decode(document), unknown };
}

/** Takes the unknown fields that an issue tells of out of the document, and returns their paths. */
function removeUnknown(document: unknown, issue: z.core.$ZodIssue): string[] {
  if (issue.code !== 'unrecognized_keys') return [];
  const holder = issue.path.reduce<unknown>((inside, key) => (inside as Record<PropertyKey, unknown>)[key], document);
  return issue.keys.map((key) => {
    delete (holder as Record<string, unknown>)[key];
    return pathText([...issue.path, key]);
  });
}

/** A dotted path, as error messages name fields. */
export function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, key) => (typeof key === 'number' ? `${text}[${key}]` : text === '' ? String(key) : `${text}.${String(key)}`),
    '',
  );
}
