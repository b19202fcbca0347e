import type { PodSandboxConfig } from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf, unreachable } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { CriClient } from '../drivers/cri/client.ts';
import type { Container, ImageVolumeSource, Secret } from '../model/generated/api.ts';
import { parseImageName, withDefaultTag } from '../model/image-name.ts';
import { type AgentPod, containersOf } from '../model/pod.ts';
import { type AccountTokensOptions, createAccountTokens } from './account-tokens.ts';
import { createAskProviders, type RunPlugin, type ServiceAccounts } from './ask-providers.ts';
import { buildKeyring, type Credential, configsOfSecrets, type DockerConfig, lookUp } from './credentials.ts';
import {
  afterPullFailure,
  type ImageEvent,
  type ImageFacts,
  type ImageReason,
  isForgotten,
  judgePullErrors,
  nextImageStep,
  type PullBackoff,
} from './decide.ts';
import { formatGoDuration } from './go-duration.ts';
import type { CredentialProvider } from './providers.ts';
import { createPulled, type RecordFiles } from './pulled.ts';
import { createPull, PullFailed } from './pulls.ts';
import type { VerificationPolicy } from './records.ts';

/** KubeletConfiguration's words on images; read whenever something is decided. */
export interface ImageSettings {
  readonly serializeImagePulls: boolean;
  /** Undefined: no limit. Counts only when pulls are not serialised. */
  readonly maxParallelImagePulls: number | undefined;
  /** 0: no limit. */
  readonly registryPullQPS: number;
  readonly registryBurst: number;
  readonly imagePullCredentialsVerificationPolicy: VerificationPolicy['kind'];
  readonly preloadedImagesVerificationAllowlist: readonly string[];
}

export interface ImagesOptions {
  readonly runtime: Pick<CriClient, 'imageStatus' | 'pullImage'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly settings: () => ImageSettings;
  /** Called for everything that the pod's owner should see. `fieldPath` names the container; image volumes have none. */
  readonly onEvent: (pod: AgentPod, type: 'Normal' | 'Warning', reason: string, message: string, fieldPath: string | undefined) => void;
  /** Told each pull that succeeded: how large the image is, and how long it took with all waiting. */
  readonly tookPull?: (sizeBytes: number, tookMs: number) => void;
  /** Where it is remembered who pulled what; undefined when the KubeletEnsureSecretPulledImages gate is off. */
  readonly recordFiles: RecordFiles | undefined;
  /** The node's own docker credentials, read anew; undefined when it has none. */
  readonly readNodeConfig: () => Promise<DockerConfig | undefined>;
  readonly providers: readonly CredentialProvider[];
  readonly runPlugin: RunPlugin;
  /** Undefined on a node without an API server. */
  readonly serviceAccounts:
    | { readonly get: ServiceAccounts['get']; readonly requestToken: AccountTokensOptions['requestToken'] }
    | undefined;
}

/** An image that a pod needs: a container's, or an image volume's. */
export type ImageRequest = {
  readonly pod: AgentPod;
  readonly pullSecrets: readonly Secret[];
  readonly podSandboxConfig?: PodSandboxConfig | undefined;
  /** Given only when images go by runtime handler (RuntimeClassInImageCriApi gate). */
  readonly runtimeHandler?: string | undefined;
} & ({ readonly container: Container } | { readonly imageVolume: ImageVolumeSource; readonly mountedBy?: Container });

export interface ImagePresent {
  /** The runtime's ID of the image: what containers are created with and statuses show. */
  readonly imageRef: string;
  /** As the pod names it, with the default tag. */
  readonly runtimeImage: string;
  readonly pulled: boolean;
}

/** Why the image is not there: `code` is the waiting reason, the message is the waiting message. */
export class ImageError extends AgentError {
  declare readonly code: ImageReason;
  /** When asking again can have another outcome, on the clock's `mono`; undefined when only a change of the pod or the node can help. */
  readonly retryAt: number | undefined;

  constructor(code: ImageReason, message: string, retryAt: number | undefined, options?: { cause?: unknown }) {
    super(code, message, options);
    this.name = 'ImageError';
    this.retryAt = retryAt;
  }
}

export interface Images {
  /**
   * Makes sure that a pod's image is there and that the pod may use it. A present image costs one call to the runtime and no more. Rejects with an
   * ImageError, or with the signal's reason. Asked again while it backs off, it rejects with ImagePullBackOff at once. Sends all events of images
   * itself, "Error: <reason>" for a container included.
   */
  ensureImage(request: ImageRequest, signal: AbortSignal): Promise<ImagePresent>;
  /** To be called once the runtime answers, before pods start: takes over what a killed agent was pulling. */
  adoptInterruptedPulls(signal: AbortSignal): Promise<void>;
  /** To be called after images were removed, with the IDs of those left and the wall time when they were listed. */
  pruneRecords(imageRefs: ReadonlySet<string>, listedAtMs: number): Promise<void>;
  /** Forgets the back-offs and tokens of a pod that is gone. */
  forgetPod(podUid: string): void;
}

// kubelet keeps what it read of the node's docker config for as long.
const nodeConfigAgeMs = 300_000;
// How long a runtime may take to say whether an interrupted pull has brought its image.
const afterwardsMs = 10_000;

export function createImages(options: ImagesOptions): Images {
  const { runtime, clock, log } = options;
  const backoffs = new Map<string, PullBackoff>();
  const { serviceAccounts } = options;
  const tokens = serviceAccounts && createAccountTokens({ requestToken: serviceAccounts.requestToken, clock, log, random: Math.random });
  const askProviders = createAskProviders({
    ...options,
    serviceAccounts: serviceAccounts && tokens && { get: serviceAccounts.get, requestToken: tokens.get },
  });
  const pull = createPull({
    runtime,
    clock,
    limits: () => {
      const { serializeImagePulls, maxParallelImagePulls, registryPullQPS, registryBurst } = options.settings();
      return {
        parallel: serializeImagePulls ? 1 : (maxParallelImagePulls ?? Number.POSITIVE_INFINITY),
        qps: registryPullQPS,
        burst: registryBurst,
      };
    },
  });
  const pulled =
    options.recordFiles === undefined
      ? undefined
      : createPulled({
          files: options.recordFiles,
          clock,
          log,
          policy: () => {
            const { imagePullCredentialsVerificationPolicy, preloadedImagesVerificationAllowlist } = options.settings();
            return { kind: imagePullCredentialsVerificationPolicy, allowlist: preloadedImagesVerificationAllowlist };
          },
        });
  let nodeConfig: { config: DockerConfig | undefined; readAt: number } | undefined;

  async function ensureImage(request: ImageRequest, signal: AbortSignal): Promise<ImagePresent> {
    const { pod } = request;
    const target = targetOf(request);
    const backoffKey = `${pod.metadata.uid}_${target.image}`;
    const emit = (event: ImageEvent): void => options.onEvent(pod, event.type, event.reason, event.message, target.fieldPath);
    const fail = (reason: ImageReason, message: string, retryAt: number | undefined, cause?: unknown): never => {
      if (target.starts !== undefined) options.onEvent(pod, 'Warning', 'Failed', `Error: ${reason}`, target.starts);
      throw new ImageError(reason, message, retryAt, { cause });
    };
    let credentials: Promise<readonly Credential[]> | undefined;
    const credentialsOnce = (): Promise<readonly Credential[]> => {
      credentials ??= credentialsFor(request, target.image, signal);
      return credentials;
    };

    let facts: ImageFacts = { image: target.image, pullPolicy: target.pullPolicy, backoff: backoffs.get(backoffKey), now: clock.mono() };
    for (;;) {
      const step = nextImageStep(facts);
      switch (step.kind) {
        case 'inspect':
          facts = { ...facts, inspected: await inspect(request, step.runtimeImage, signal), now: clock.mono() };
          break;
        case 'verify': {
          let accessible: ImageFacts['accessible'];
          try {
            accessible = pulled === undefined ? 'unchecked' : await pulled.mayUse(target.image, step.imageRef, credentialsOnce);
          } catch (error) {
            if (signal.aborted) throw signal.reason;
            return failPull([error]);
          }
          facts = { ...facts, accessible, now: clock.mono() };
          break;
        }
        case 'use': {
          emit(step.event);
          return { imageRef: step.imageRef, runtimeImage: withDefaultTag(target.image), pulled: false };
        }
        case 'fail':
          emit(step.event);
          return fail(step.reason, step.message, step.retryAt);
        case 'pull':
          return await pullNow(step.runtimeImage, step.event);
        default:
          return unreachable(step);
      }
    }

    async function pullNow(runtimeImage: string, begin: ImageEvent): Promise<ImagePresent> {
      const { image } = target;
      const startedAt = clock.mono();
      let outcome: Awaited<ReturnType<typeof pull>>;
      let usable: readonly Credential[];
      let before: string | undefined;
      const idNow = (): Promise<string | undefined> => imageIdNow(runtimeImage);
      // An image that the runtime cannot look at may be just what a pull mends.
      const idBefore = (): Promise<string | undefined> =>
        idNow().catch((error: unknown) => {
          log.debug({ image, err: messageOf(error) }, 'it is not known whether the image is there before it is pulled');
          return undefined;
        });
      try {
        [usable, before] = await Promise.all([
          credentialsOnce(),
          // With a policy of Always it has not been asked for yet.
          facts.inspected !== undefined || pulled === undefined ? idOf(facts.inspected) : idBefore(),
        ]);
        await pulled?.begin(image, idBefore);
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        return failPull([error]);
      }
      emit(begin);
      try {
        outcome = await pull({ spec: specOf(request, runtimeImage), credentials: usable, sandboxConfig: request.podSandboxConfig }, signal);
      } catch (error) {
        const unsure = signal.aborted || (error instanceof PullFailed ? error.errors : [error]).some(mayHaveSucceeded);
        // What was there before this pull did not come with it.
        const arrived = async (): Promise<string | undefined> => {
          const now = await idNow();
          return now === before ? undefined : now;
        };
        await pulled?.failed(image, unsure ? arrived : undefined);
        if (signal.aborted) throw signal.reason;
        return failPull(error instanceof PullFailed ? error.errors : [error]);
      }
      const { imageRef, sizeBytes, tookMs } = outcome;
      const waitedMs = clock.mono() - startedAt;
      options.tookPull?.(sizeBytes, waitedMs);
      const took = `${formatGoDuration(tookMs)} (${formatGoDuration(waitedMs)} including waiting)`;
      emit({
        type: 'Normal',
        reason: 'Pulled',
        message: `Successfully pulled image ${JSON.stringify(image)} in ${took}. Image size: ${sizeBytes} bytes.`,
      });
      log.info({ image, pod: `${pod.metadata.namespace}/${pod.metadata.name}`, tookMs: Math.round(tookMs), sizeBytes }, 'image pulled');
      await pulled?.succeeded(image, imageRef, outcome.credential === undefined ? undefined : usable[outcome.credential]);
      return { imageRef, runtimeImage, pulled: true };
    }

    function failPull(errors: readonly unknown[]): never {
      const failure = judgePullErrors(target.image, errors);
      emit(failure.event);
      const now = clock.mono();
      for (const [key, backoff] of backoffs) if (isForgotten(backoff, now)) backoffs.delete(key);
      const backoff = afterPullFailure(backoffs.get(backoffKey), `${failure.reason}: ${failure.message}`, now);
      backoffs.set(backoffKey, backoff);
      return fail(failure.reason, failure.message, now + backoff.delayMs, errors[0]);
    }
  }

  /** The ID of an image if it is there, asked within a time of its own: whoever wanted it may have gone. */
  async function imageIdNow(runtimeImage: string): Promise<string | undefined> {
    using deadline = clock.deadline(new AbortController().signal, afterwardsMs);
    return (await runtime.imageStatus({ image: { image: runtimeImage } }, deadline.signal)).image?.id;
  }

  async function inspect(request: ImageRequest, runtimeImage: string, signal: AbortSignal): Promise<NonNullable<ImageFacts['inspected']>> {
    try {
      const { image } = await runtime.imageStatus({ image: specOf(request, runtimeImage) }, signal);
      if (image === undefined) return { imageRef: undefined };
      if ((image.id ?? '') === '' || (image.size ?? 0) === 0)
        return { error: `Id or size of image ${JSON.stringify(runtimeImage)} is not set` };
      return { imageRef: image.id };
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      return { error: messageOf(error) };
    }
  }

  /** Everything that may open the image's registry: the pod's secrets, then the node's own, then what plugins give. */
  async function credentialsFor(request: ImageRequest, image: string, signal: AbortSignal): Promise<readonly Credential[]> {
    const { repository } = parseImageName(image);
    const secrets = lookUp(buildKeyring(configsOfSecrets(request.pullSecrets)), repository);
    const [config, plugins] = await Promise.all([nodeDockerConfig(), askProviders(request.pod, repository, signal)]);
    const node = config === undefined ? [] : lookUp(buildKeyring([{ config, source: undefined }]), repository);
    return [...secrets, ...node, ...plugins];
  }

  async function nodeDockerConfig(): Promise<DockerConfig | undefined> {
    if (nodeConfig !== undefined && clock.mono() - nodeConfig.readAt < nodeConfigAgeMs) return nodeConfig.config;
    const config = await options.readNodeConfig().catch((error: unknown) => {
      log.warn({ err: messageOf(error) }, "the node's docker config could not be read");
      return undefined;
    });
    nodeConfig = { config, readAt: clock.mono() };
    return config;
  }

  return {
    ensureImage,
    async adoptInterruptedPulls(signal) {
      await pulled?.adopt(async (image) => (await runtime.imageStatus({ image: { image: withDefaultTag(image) } }, signal)).image?.id);
    },
    async pruneRecords(imageRefs, listedAtMs) {
      await pulled?.prune(imageRefs, listedAtMs);
    },
    forgetPod(podUid) {
      for (const key of backoffs.keys()) if (key.startsWith(`${podUid}_`)) backoffs.delete(key);
      tokens?.forgetPod(podUid);
    },
  };
}

function idOf(inspected: ImageFacts['inspected']): string | undefined {
  return inspected !== undefined && 'imageRef' in inspected ? inspected.imageRef : undefined;
}

/** True for the ends of a call that do not tell whether the runtime has done it. */
function mayHaveSucceeded(error: unknown): boolean {
  return hasCode(error, 'Canceled', 'DeadlineExceeded', 'Unavailable');
}

function specOf(request: ImageRequest, image: string): { image: string; annotations: Record<string, string>; runtime_handler: string } {
  return { image, annotations: request.pod.metadata.annotations ?? {}, runtime_handler: request.runtimeHandler ?? '' };
}

interface Target {
  readonly image: string;
  readonly pullPolicy: string | undefined;
  /** The container whose image it is; a volume's has none. */
  readonly fieldPath: string | undefined;
  /** The container that cannot start without it. */
  readonly starts: string | undefined;
}

/** The image that is asked for, and the fields of the pod that ask. */
function targetOf(request: ImageRequest): Target {
  if ('imageVolume' in request) {
    const { reference = '', pullPolicy } = request.imageVolume;
    const starts = request.mountedBy === undefined ? undefined : fieldPathOf(request.pod, request.mountedBy);
    return { image: reference, pullPolicy, fieldPath: undefined, starts };
  }
  const { image = '', imagePullPolicy } = request.container;
  const fieldPath = fieldPathOf(request.pod, request.container);
  return { image, pullPolicy: imagePullPolicy, fieldPath, starts: fieldPath };
}

function fieldPathOf(pod: AgentPod, { name }: Container): string {
  const kind = containersOf(pod).find(({ container }) => container.name === name)?.kind ?? 'app';
  const list = kind === 'init' ? 'initContainers' : kind === 'ephemeral' ? 'ephemeralContainers' : 'containers';
  return `spec.${list}{${name}}`;
}
