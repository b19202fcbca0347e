import { hasCode, messageOf, peerWordsOf } from '../base/errors.ts';
import { defaultPullPolicy, withDefaultTag } from '../model/image-name.ts';

/** Why a container waits for its image: the reasons that its status shows. */
export type ImageReason =
  | 'InvalidImageName'
  | 'ImageInspectError'
  | 'ErrImageNeverPull'
  | 'ErrImagePull'
  | 'ImagePullBackOff'
  | 'RegistryUnavailable'
  | 'SignatureValidationFailed';

export interface ImageEvent {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly message: string;
}

/** Failed pulls of one image for one pod. */
export interface PullBackoff {
  readonly delayMs: number;
  /** On the clock's `mono`. */
  readonly failedAt: number;
  /** "<reason>: <message>" of the last failure. */
  readonly lastError: string;
}

/** What is known when the next step is decided; undefined is "not asked yet". */
export interface ImageFacts {
  /** As the pod's author wrote it. */
  readonly image: string;
  readonly pullPolicy: string | undefined;
  /** The runtime's answer about the image: its ID, or that it has none, or that it could not be asked. */
  readonly inspected?: { readonly imageRef: string | undefined } | { readonly error: string } | undefined;
  /** Whether this pod may use the image that is present, without pulling it anew; unchecked: nobody keeps track of that. */
  readonly accessible?: boolean | 'unchecked' | undefined;
  readonly backoff?: PullBackoff | undefined;
  /** On the clock's `mono`. */
  readonly now: number;
}

export type ImageStep =
  | { readonly kind: 'inspect'; readonly runtimeImage: string }
  | { readonly kind: 'verify'; readonly runtimeImage: string; readonly imageRef: string }
  | { readonly kind: 'use'; readonly imageRef: string; readonly event: ImageEvent }
  | { readonly kind: 'pull'; readonly runtimeImage: string; readonly event: ImageEvent }
  | {
      readonly kind: 'fail';
      readonly reason: ImageReason;
      readonly message: string;
      readonly event: ImageEvent;
      readonly retryAt?: number;
    };

/** The next step towards a container's image. Messages are kubelet's (pkg/kubelet/images/image_manager.go of 1.36). */
export function nextImageStep(facts: ImageFacts): ImageStep {
  const { image, inspected } = facts;
  let runtimeImage: string;
  try {
    runtimeImage = withDefaultTag(image);
  } catch (error) {
    const message = `Failed to apply default image tag ${quoted(image)}: ${messageOf(error)}`;
    return { kind: 'fail', reason: 'InvalidImageName', message, event: { type: 'Warning', reason: 'InspectFailed', message } };
  }
  const policy = facts.pullPolicy ?? defaultPullPolicy(image);
  if (policy !== 'Always') {
    if (inspected === undefined) return { kind: 'inspect', runtimeImage };
    if ('error' in inspected) {
      const message = `Failed to inspect image ${quoted(image)}: ${inspected.error}`;
      return { kind: 'fail', reason: 'ImageInspectError', message, event: { type: 'Warning', reason: 'InspectFailed', message } };
    }
    if (inspected.imageRef !== undefined) {
      if (facts.accessible === undefined) return { kind: 'verify', runtimeImage, imageRef: inspected.imageRef };
      if (facts.accessible !== false) {
        const proven = facts.accessible === 'unchecked' ? '' : ' and can be accessed by the pod';
        const message = `Container image ${quoted(image)} already present on machine${proven}`;
        return { kind: 'use', imageRef: inspected.imageRef, event: { type: 'Normal', reason: 'Pulled', message } };
      }
    }
    if (policy === 'Never') {
      // Also when it is there but not for this pod: whether others have it is none of its business.
      const message = `Container image ${quoted(image)} is not present with pull policy of Never`;
      return { kind: 'fail', reason: 'ErrImageNeverPull', message, event: { type: 'Warning', reason: 'ErrImageNeverPull', message } };
    }
  }
  if (facts.backoff !== undefined && isBackingOff(facts.backoff, facts.now)) {
    const message = `Back-off pulling image ${quoted(image)}`;
    return {
      kind: 'fail',
      reason: 'ImagePullBackOff',
      message: `${message}: ${facts.backoff.lastError}`,
      event: { type: 'Normal', reason: 'BackOff', message },
      retryAt: facts.backoff.failedAt + facts.backoff.delayMs,
    };
  }
  return { kind: 'pull', runtimeImage, event: { type: 'Normal', reason: 'Pulling', message: `Pulling image ${quoted(image)}` } };
}

// imageBackOffPeriod and MaxImageBackOff of pkg/kubelet/kubelet.go.
const firstDelayMs = 10_000;
const longestDelayMs = 300_000;

function isBackingOff(backoff: PullBackoff, now: number): boolean {
  return now - backoff.failedAt < backoff.delayMs;
}

/** True when a failure is so long ago that the next one starts anew: twice the longest delay. */
export function isForgotten(backoff: PullBackoff, now: number): boolean {
  return now - backoff.failedAt > 2 * longestDelayMs;
}

/** The back-off after a failure: 10 s, doubling to 5 minutes. */
export function afterPullFailure(backoff: PullBackoff | undefined, lastError: string, now: number): PullBackoff {
  const delayMs = backoff === undefined || isForgotten(backoff, now) ? firstDelayMs : Math.min(2 * backoff.delayMs, longestDelayMs);
  return { delayMs, failedAt: now, lastError };
}

/** A failed pull: what the event says, and reason and message of the status. */
export interface PullFailure {
  readonly reason: ImageReason;
  readonly message: string;
  readonly event: ImageEvent;
}

/** Judges the errors of a pull, one for each credential that was tried. The runtime's words decide between the reasons (cri-api pkg/errors). */
export function judgePullErrors(image: string, errors: readonly unknown[]): PullFailure {
  const texts = [...new Set(errors.map(pullErrorText))];
  const text = texts.length === 1 ? (texts[0] ?? '') : `[${texts.join(', ')}]`;
  const event: ImageEvent = { type: 'Warning', reason: 'Failed', message: `Failed to pull image ${quoted(image)}: ${text}` };
  if (text.startsWith('RegistryUnavailable')) {
    const detail = text.slice('RegistryUnavailable'.length);
    return { reason: 'RegistryUnavailable', message: `image pull failed for ${image} because the registry is unavailable${detail}`, event };
  }
  if (text.startsWith('SignatureValidationFailed')) {
    const detail = text.slice('SignatureValidationFailed'.length);
    return {
      reason: 'SignatureValidationFailed',
      message: `image pull failed for ${image} because the signature validation failed${detail}`,
      event,
    };
  }
  return { reason: 'ErrImagePull', message: text, event };
}

/** An error of the pull itself as kubelet shows it: the peer's words alone when its code says nothing (cri-client remote_image.go PullImage). */
function pullErrorText(error: unknown): string {
  return hasCode(error, 'Unknown') ? peerWordsOf(error) : messageOf(error);
}

/** Go's %q for the texts that occur in images. */
function quoted(text: string): string {
  return JSON.stringify(text);
}
