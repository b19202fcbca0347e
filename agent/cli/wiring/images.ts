import type { Clock } from '../../base/clock.ts';
import { AgentError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { type Config, isEnabled } from '../../config/config.ts';
import type { CriClient } from '../../drivers/cri/client.ts';
import { checkPlugins, dockerConfigPaths, firstReadable, readProviderConfigFiles } from '../../drivers/images/credential-files.ts';
import { createRunPlugin } from '../../drivers/images/plugin.ts';
import { openRecordFiles } from '../../drivers/images/record-files.ts';
import { type KubeClient, pathOf } from '../../drivers/kube/client.ts';
import { parseDockerCfg, parseDockerConfigJson } from '../../images/credentials.ts';
import { type CredentialProvider, parseProviderConfig } from '../../images/providers.ts';
import type { VerificationPolicy } from '../../images/records.ts';
import { createImages, type Images } from '../../images/worker.ts';
import type { ServiceAccount, TokenRequest } from '../../model/generated/api.ts';
import type { RecordEvent } from '../../pods/apply.ts';

export interface NodeImagesOptions {
  readonly cri: CriClient;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: Config;
  readonly recordEvent: RecordEvent;
  readonly tookPull: (sizeBytes: number, tookMs: number) => void;
  /** Undefined standalone. */
  readonly client: KubeClient | undefined;
  readonly requestToken: (namespace: string, name: string, request: TokenRequest, signal: AbortSignal) => Promise<TokenRequest>;
}

/** The images room with the node's files and plugins. Throws AgentError InvalidArgument for a provider config or plugin that cannot be used. */
export async function createNodeImages(options: NodeImagesOptions): Promise<Images> {
  const { config, client, clock, log } = options;
  const kc = config.kubelet;
  const { imageCredentialProviderConfig: providerConfig, imageCredentialProviderBinDir: binDir } = config;
  let providers: CredentialProvider[] = [];
  if (providerConfig !== undefined && binDir !== undefined) {
    providers = parseProviderConfig(await readProviderConfigFiles(providerConfig));
    await checkPlugins(
      binDir,
      providers.map((p) => p.name),
    );
  } else if (providerConfig !== undefined || binDir !== undefined) {
    throw new AgentError(
      'InvalidArgument',
      '--image-credential-provider-config and --image-credential-provider-bin-dir must be given together',
    );
  }
  const paths = dockerConfigPaths(config.rootDir, process.cwd(), process.env.HOME ?? '/root');
  return createImages({
    runtime: options.cri,
    clock,
    log,
    settings: () => ({
      serializeImagePulls: kc.serializeImagePulls,
      maxParallelImagePulls: kc.maxParallelImagePulls,
      registryPullQPS: kc.registryPullQPS,
      registryBurst: kc.registryBurst,
      imagePullCredentialsVerificationPolicy: kc.imagePullCredentialsVerificationPolicy as VerificationPolicy['kind'],
      preloadedImagesVerificationAllowlist: kc.preloadedImagesVerificationAllowlist,
    }),
    onEvent: (pod, type, reason, message, fieldPath) => options.recordEvent(pod, type, reason, message, fieldPath),
    tookPull: options.tookPull,
    recordFiles: isEnabled(config, 'KubeletEnsureSecretPulledImages') ? await openRecordFiles(config.rootDir) : undefined,
    readNodeConfig: async () =>
      (await firstReadable(paths.json, parseDockerConfigJson)) ?? (await firstReadable(paths.cfg, parseDockerCfg)),
    providers,
    runPlugin: createRunPlugin(binDir ?? '', process.env),
    serviceAccounts: client && {
      get: (namespace, name, signal) => client.get<ServiceAccount>(pathOf('v1', 'serviceaccounts', namespace, name), signal),
      requestToken: options.requestToken,
    },
  });
}
