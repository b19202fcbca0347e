import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ServiceAccount, TokenRequest } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { buildKeyring, type Credential, type CredentialSource, type DockerConfig, lookUp } from './credentials.ts';
import {
  accountCacheKey,
  type CredentialProvider,
  cacheKeys,
  formatPluginRequest,
  parsePluginAnswer,
  providesFor,
  type TokenAttributes,
  wantedAnnotations,
} from './providers.ts';
import { untilAborted } from './until-aborted.ts';

/** Runs a plugin of the plugin folder with the agent's own environment and `env` over it; resolves to its stdout. Rejects with its stderr. */
export type RunPlugin = (
  plugin: {
    readonly name: string;
    readonly args: readonly string[];
    readonly env: readonly { name: string; value: string }[];
    readonly stdin: string;
  },
  signal: AbortSignal,
) => Promise<string>;

/** The API server's part: for plugins that work with the pod's service account. */
export interface ServiceAccounts {
  get(namespace: string, name: string, signal: AbortSignal): Promise<ServiceAccount>;
  /** Resolves to the token itself; the same one while it is good, or what is cached by token is not found again. */
  requestToken(namespace: string, name: string, request: TokenRequest, signal: AbortSignal): Promise<string>;
}

export interface ProvidersOptions {
  readonly providers: readonly CredentialProvider[];
  readonly runPlugin: RunPlugin;
  readonly serviceAccounts: ServiceAccounts | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

/** Asks plugins for credentials; what they may not give is missing, never an error: other credentials may do. */
export type AskProviders = (pod: AgentPod, repository: string, signal: AbortSignal) => Promise<readonly Credential[]>;

// The limit that upstream sets every plugin run.
const pluginDeadlineMs = 60_000;

interface CachedAnswer {
  readonly config: DockerConfig;
  readonly expiresAt: number;
}

export function createAskProviders(options: ProvidersOptions): AskProviders {
  const { clock, log } = options;
  const caches = new Map(options.providers.map((provider) => [provider.name, new Map<string, CachedAnswer>()]));
  const running = new Map<string, Promise<DockerConfig>>();

  return async (pod, repository, signal) => {
    const asked = options.providers.filter((provider) => providesFor(provider, repository));
    const answers = await Promise.all(
      asked.map(async (provider) => {
        try {
          return await provide(provider, pod, repository, signal);
        } catch (error) {
          if (signal.aborted) throw error;
          log.error(
            { provider: provider.name, image: repository, pod: `${pod.metadata.namespace}/${pod.metadata.name}`, err: messageOf(error) },
            'credential provider gave no credentials',
          );
          return undefined;
        }
      }),
    );
    return lookUp(buildKeyring(answers.filter((answer) => answer !== undefined)), repository);
  };

  async function provide(
    provider: CredentialProvider,
    pod: AgentPod,
    repository: string,
    signal: AbortSignal,
  ): Promise<{ config: DockerConfig; source: CredentialSource | undefined } | undefined> {
    const tokens = provider.tokenAttributes;
    const accountName = pod.spec.serviceAccountName ?? '';
    if (tokens === undefined || accountName === '') {
      if (tokens?.requireServiceAccount === true) return undefined;
      return { config: await ask(provider, repository, undefined, signal), source: undefined };
    }
    const account = await accountOf(tokens, pod, accountName, signal);
    if (account === undefined) return undefined;
    const { namespace } = pod.metadata;
    const source: CredentialSource = { kind: 'serviceAccount', uid: account.uid, namespace, name: accountName };
    return { config: await ask(provider, repository, account, signal), source };
  }

  async function accountOf(tokens: TokenAttributes, pod: AgentPod, name: string, signal: AbortSignal): Promise<Account | undefined> {
    const { namespace } = pod.metadata;
    if (options.serviceAccounts === undefined)
      throw new AgentError('FailedPrecondition', 'a service account token needs an API server, and this node has none');
    const object = await options.serviceAccounts.get(namespace, name, signal);
    const annotations = wantedAnnotations(tokens, object);
    // A missing annotation is how a workload stays out of it.
    if (annotations === undefined) return undefined;
    const uid = object.metadata?.uid ?? '';
    const token = await options.serviceAccounts.requestToken(
      namespace,
      name,
      {
        metadata: { uid },
        spec: {
          audiences: [tokens.audience],
          boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: pod.metadata.name, uid: pod.metadata.uid },
        },
      },
      signal,
    );
    return {
      uid,
      token,
      annotations,
      mayBePassword: tokens.cacheType === 'Token',
      cacheKey: accountCacheKey(tokens, object, annotations, token),
    };
  }

  async function ask(
    provider: CredentialProvider,
    repository: string,
    account: Account | undefined,
    signal: AbortSignal,
  ): Promise<DockerConfig> {
    const cache = caches.get(provider.name) ?? new Map<string, CachedAnswer>();
    const keys = cacheKeys(repository, account?.cacheKey ?? '');
    for (const [key, { expiresAt }] of cache) if (clock.mono() > expiresAt) cache.delete(key);
    const cached = cache.get(keys.Image) ?? cache.get(keys.Registry) ?? cache.get(keys.Global);
    if (cached !== undefined) return cached.config;
    // One run for all that ask the same at the same time. It has its own end: the first to ask may give up before the others.
    const flight = JSON.stringify([provider.name, repository, account?.token, account?.annotations]);
    const flying = running.get(flight) ?? run(provider, repository, account, cache, keys).finally(() => running.delete(flight));
    running.set(flight, flying);
    return await untilAborted(flying, signal);
  }

  async function run(
    provider: CredentialProvider,
    repository: string,
    account: Account | undefined,
    cache: Map<string, CachedAnswer>,
    keys: ReturnType<typeof cacheKeys>,
  ): Promise<DockerConfig> {
    const { name, args, env, apiVersion } = provider;
    using deadline = clock.deadline(new AbortController().signal, pluginDeadlineMs);
    const stdout = await options.runPlugin(
      { name, args, env, stdin: formatPluginRequest(apiVersion, repository, account) },
      deadline.signal,
    );
    const answer = parsePluginAnswer(apiVersion, stdout);
    if (account !== undefined && !account.mayBePassword && [...answer.config.values()].some((user) => user.password === account.token))
      throw new AgentError(
        'InvalidArgument',
        "credential provider plugin returned the service account token as the password which is not allowed when service account cache type is not set to 'Token'",
      );
    const cacheMs = answer.cacheMs ?? provider.defaultCacheMs;
    if (cacheMs > 0) cache.set(keys[answer.scope], { config: answer.config, expiresAt: clock.mono() + cacheMs });
    return answer.config;
  }
}

interface Account {
  readonly uid: string;
  readonly token: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly mayBePassword: boolean;
  readonly cacheKey: string;
}
