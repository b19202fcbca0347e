import { createHash } from 'node:crypto';
import * as z from 'zod';
import { AgentError, messageOf } from '../base/errors.ts';
import { ownValue, setOwn } from '../base/own.ts';
import type { ServiceAccount } from '../model/generated/api.ts';
import { describeRepeated } from '../model/repeated-key.ts';
import { readYaml } from '../model/yaml.ts';
import { type DockerConfig, matchesImage, parseSchemeless } from './credentials.ts';
import { parseGoDuration } from './go-duration.ts';

// Credential provider plugins: programs that give registry credentials (--image-credential-provider-config, --image-credential-provider-bin-dir).

const pluginApi = 'credentialprovider.kubelet.k8s.io';
const pluginVersions = ['v1', 'v1alpha1', 'v1beta1'].map((version) => `${pluginApi}/${version}`);
const configVersions = ['v1', 'v1beta1', 'v1alpha1'].map((version) => `kubelet.config.k8s.io/${version}`);

export interface TokenAttributes {
  readonly audience: string;
  readonly cacheType: 'ServiceAccount' | 'Token';
  readonly requireServiceAccount: boolean;
  readonly requiredAnnotations: readonly string[];
  readonly optionalAnnotations: readonly string[];
}

export interface CredentialProvider {
  /** Also the program's name in the folder of plugins. */
  readonly name: string;
  readonly matchImages: readonly string[];
  readonly defaultCacheMs: number;
  readonly apiVersion: string;
  readonly args: readonly string[];
  readonly env: readonly { readonly name: string; readonly value: string }[];
  readonly tokenAttributes: TokenAttributes | undefined;
}

const providerSchema = z.strictObject({
  name: z.string().default(''),
  matchImages: z.array(z.string()).nullish(),
  defaultCacheDuration: z.string().nullish(),
  apiVersion: z.string().default(''),
  args: z.array(z.string()).nullish(),
  env: z.array(z.strictObject({ name: z.string(), value: z.string() })).nullish(),
  tokenAttributes: z
    .strictObject({
      serviceAccountTokenAudience: z.string().default(''),
      cacheType: z.string().default(''),
      requireServiceAccount: z.boolean().nullish(),
      requiredServiceAccountAnnotationKeys: z.array(z.string()).nullish(),
      optionalServiceAccountAnnotationKeys: z.array(z.string()).nullish(),
    })
    .nullish(),
});
const configSchema = z.strictObject({
  apiVersion: z.enum(configVersions),
  kind: z.literal('CredentialProviderConfig'),
  providers: z.array(providerSchema).nullish(),
});

/**
 * Reads CredentialProviderConfig files, in the order of their names, into one list of providers. Throws InvalidArgument naming file, provider and field.
 */
export function parseProviderConfig(files: readonly { path: string; text: string }[]): CredentialProvider[] {
  const providers: CredentialProvider[] = [];
  for (const { path, text } of files) {
    let found: z.infer<typeof configSchema>;
    try {
      const document = readYaml(text);
      const [repeated] = document?.repeated ?? [];
      // Upstream decodes this file strictly (pkg/credentialprovider/plugin/config.go).
      if (repeated !== undefined) throw new AgentError('InvalidArgument', describeRepeated(repeated));
      found = configSchema.parse(document?.value);
    } catch (error) {
      const why = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error);
      throw new AgentError('InvalidArgument', `${path} is no valid CredentialProviderConfig: ${why}`, { cause: error });
    }
    for (const provider of found.providers ?? []) {
      const trouble = providerTrouble(provider, providers);
      if (trouble !== undefined)
        throw new AgentError('InvalidArgument', `${path}: credential provider ${JSON.stringify(provider.name)}: ${trouble}`);
      const tokens = provider.tokenAttributes;
      providers.push({
        name: provider.name,
        matchImages: provider.matchImages ?? [],
        defaultCacheMs: parseGoDuration(provider.defaultCacheDuration ?? '') ?? 0,
        apiVersion: provider.apiVersion,
        args: provider.args ?? [],
        env: provider.env ?? [],
        tokenAttributes:
          tokens === undefined || tokens === null
            ? undefined
            : {
                audience: tokens.serviceAccountTokenAudience,
                cacheType: tokens.cacheType === 'Token' ? 'Token' : 'ServiceAccount',
                requireServiceAccount: tokens.requireServiceAccount === true,
                requiredAnnotations: tokens.requiredServiceAccountAnnotationKeys ?? [],
                optionalAnnotations: tokens.optionalServiceAccountAnnotationKeys ?? [],
              },
      });
    }
  }
  if (providers.length === 0) throw new AgentError('InvalidArgument', 'CredentialProviderConfig: at least 1 item in providers is required');
  return providers;
}

function providerTrouble(provider: z.infer<typeof providerSchema>, before: readonly CredentialProvider[]): string | undefined {
  const { name, matchImages, defaultCacheDuration, apiVersion, tokenAttributes } = provider;
  if (name === '' || name === '.' || name === '..' || /[/ ]/.test(name))
    return "name must be a file name: not empty, '.' or '..', without '/' and spaces";
  if (before.some((other) => other.name === name)) return 'duplicate provider name';
  if (!pluginVersions.includes(apiVersion))
    return `apiVersion ${JSON.stringify(apiVersion)} is not supported: use one of ${pluginVersions.join(', ')}`;
  if ((matchImages ?? []).length === 0) return 'at least 1 item in matchImages is required';
  const unreadable = matchImages?.find((pattern) => parseSchemeless(pattern) === undefined);
  if (unreadable !== undefined) return `match image is invalid: ${unreadable}`;
  if (defaultCacheDuration === undefined || defaultCacheDuration === null) return 'defaultCacheDuration is required';
  const cacheMs = parseGoDuration(defaultCacheDuration);
  if (cacheMs === undefined || cacheMs < 0)
    return `defaultCacheDuration ${JSON.stringify(defaultCacheDuration)} must be a duration of 0 or more`;
  if (tokenAttributes === undefined || tokenAttributes === null) return undefined;
  const required = tokenAttributes.requiredServiceAccountAnnotationKeys ?? [];
  const optional = tokenAttributes.optionalServiceAccountAnnotationKeys ?? [];
  if (tokenAttributes.serviceAccountTokenAudience === '') return 'tokenAttributes.serviceAccountTokenAudience is required';
  if (typeof tokenAttributes.requireServiceAccount !== 'boolean') return 'tokenAttributes.requireServiceAccount is required';
  if (apiVersion !== `${pluginApi}/v1`) return `tokenAttributes is only supported for ${pluginApi}/v1 API version`;
  if (!tokenAttributes.requireServiceAccount && required.length > 0)
    return 'requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set';
  const twice = [...required, ...optional].find((key, i, all) => all.indexOf(key) !== i);
  if (twice !== undefined) return `annotation key ${twice} is listed twice`;
  const unqualified = [...required, ...optional].find((key) => !isQualifiedName(key.toLowerCase()));
  if (unqualified !== undefined) return `annotation key ${JSON.stringify(unqualified)} is no qualified name`;
  if (tokenAttributes.cacheType !== 'ServiceAccount' && tokenAttributes.cacheType !== 'Token')
    return 'tokenAttributes.cacheType must be ServiceAccount or Token';
  return undefined;
}

function isQualifiedName(key: string): boolean {
  const [, prefix, name = ''] = /^(?:([^/]*)\/)?([^/]*)$/.exec(key) ?? [];
  const label = '[a-z0-9](?:[-a-z0-9]*[a-z0-9])?';
  const goodPrefix = prefix === undefined || (prefix.length <= 253 && new RegExp(`^${label}(?:\\.${label})*$`).test(prefix));
  return goodPrefix && name.length <= 63 && /^[a-z0-9](?:[-a-z0-9_.]*[a-z0-9])?$/.test(name);
}

/** Whether a provider is asked about an image (its name with domain, without tag). */
export function providesFor(provider: CredentialProvider, repository: string): boolean {
  return provider.matchImages.some((pattern) => matchesImage(pattern, repository));
}

/** The annotations a plugin wants of a service account; undefined when a required one is missing: the plugin is then not asked. */
export function wantedAnnotations(tokens: TokenAttributes, account: ServiceAccount): Record<string, string> | undefined {
  const there = account.metadata?.annotations ?? {};
  if (tokens.requiredAnnotations.some((key) => ownValue(there, key) === undefined)) return undefined;
  const wanted: Record<string, string> = {};
  for (const key of [...tokens.requiredAnnotations, ...tokens.optionalAnnotations]) {
    const value = ownValue(there, key);
    if (value !== undefined) setOwn(wanted, key, value);
  }
  return wanted;
}

/** What a plugin reads on stdin. */
export function formatPluginRequest(
  apiVersion: string,
  repository: string,
  account: { token: string; annotations: Readonly<Record<string, string>> } | undefined,
): string {
  return `${JSON.stringify({
    kind: 'CredentialProviderRequest',
    apiVersion,
    image: repository,
    ...(account === undefined ? {} : { serviceAccountToken: account.token }),
    ...(account === undefined || Object.keys(account.annotations).length === 0 ? {} : { serviceAccountAnnotations: account.annotations }),
  })}\n`;
}

export interface PluginAnswer {
  readonly scope: 'Image' | 'Registry' | 'Global';
  /** Undefined: the provider's default. */
  readonly cacheMs: number | undefined;
  readonly config: DockerConfig;
}

const answerSchema = z.object({
  kind: z.literal('CredentialProviderResponse'),
  apiVersion: z.string(),
  cacheKeyType: z.string().default(''),
  cacheDuration: z.string().nullish(),
  auth: z.record(z.string(), z.object({ username: z.string().default(''), password: z.string().default('') })).nullish(),
});

/** What a plugin wrote on stdout. Throws InvalidArgument; never with a piece of the text, which may be a secret. */
export function parsePluginAnswer(apiVersion: string, stdout: string): PluginAnswer {
  let answer: unknown;
  try {
    answer = readYaml(stdout)?.value;
  } catch {
    throw new AgentError('InvalidArgument', 'error decoding credential provider plugin response from stdout: neither JSON nor YAML');
  }
  const found = answerSchema.safeParse(answer);
  if (!found.success)
    throw new AgentError('InvalidArgument', 'error decoding credential provider plugin response from stdout: wrong kind or fields');
  const { cacheKeyType, cacheDuration, auth } = found.data;
  if (found.data.apiVersion !== apiVersion)
    throw new AgentError(
      'InvalidArgument',
      `apiVersion from credential plugin response did not match expected apiVersion:${apiVersion}, actual apiVersion:${found.data.apiVersion}`,
    );
  if (cacheKeyType !== 'Image' && cacheKeyType !== 'Registry' && cacheKeyType !== 'Global')
    throw new AgentError('InvalidArgument', `credential provider plugin did not return a valid cacheKeyType: ${cacheKeyType}`);
  const cacheMs = cacheDuration === undefined || cacheDuration === null ? undefined : parseGoDuration(cacheDuration);
  if (typeof cacheDuration === 'string' && cacheMs === undefined)
    throw new AgentError('InvalidArgument', `credential provider plugin returned the cacheDuration ${cacheDuration}, which is none`);
  return {
    scope: cacheKeyType,
    cacheMs,
    config: new Map(Object.entries(auth ?? {}).map(([key, user]) => [key, { ...user, email: '' }])),
  };
}

/** Where an answer may be found in the cache again: `account` is the service account's part of the key, '' without one. Narrowest first. */
export function cacheKeys(repository: string, account: string): Record<PluginAnswer['scope'], string> {
  const key = (base: string): string => JSON.stringify([base, account]);
  return { Image: key(repository), Registry: key(repository.split('/')[0] ?? ''), Global: key('<global>') };
}

/** The service account's part of a cache key. Pods are no part of it: they share what their account may. */
export function accountCacheKey(
  tokens: TokenAttributes,
  account: ServiceAccount,
  annotations: Readonly<Record<string, string>>,
  token: string,
): string {
  const { namespace, name, uid } = account.metadata ?? {};
  const sorted = Object.entries(annotations).sort(([a], [b]) => (a < b ? -1 : 1));
  const hash = tokens.cacheType === 'Token' ? createHash('sha256').update(token).digest('hex') : '';
  return JSON.stringify([namespace, name, uid, sorted, hash]);
}
