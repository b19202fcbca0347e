import { unreachable } from '../base/errors.ts';
import type { ContainerKind } from '../model/pod.ts';
import type { ContainerResize, PodSize } from './allocation.ts';
import type { Made } from './runtime-watch.ts';

/** One next step for a pod. Each says why by its kind or `reason`. */
export type PodAction =
  /** Pod folders, log folder and cgroup. */
  | { readonly kind: 'prepare' }
  | { readonly kind: 'mountVolumes' }
  | { readonly kind: 'pullImage'; readonly container: string; readonly image: string; readonly attempt: number }
  | { readonly kind: 'createSandbox'; readonly attempt: number }
  /** Ends what the sandbox has and gives back its address and ports; also of one that died by itself, which holds them still. */
  | { readonly kind: 'stopSandbox'; readonly id: string; readonly reason: string }
  | { readonly kind: 'removeSandbox'; readonly id: string }
  | {
      readonly kind: 'startContainer';
      readonly container: string;
      readonly containerKind: ContainerKind;
      readonly attempt: number;
      readonly sandboxId: string;
      readonly imageRef: string;
      /** When the instance before this one ended (wall, ms): the restart counts against the back-off. */
      readonly previousEnd: number | undefined;
    }
  | {
      readonly kind: 'preStop';
      readonly id: string;
      readonly container: string;
      readonly graceSeconds: number;
      /** Text of the Killing event: it tells that the end begins, and so comes before the hook. */
      readonly message: string;
    }
  | {
      readonly kind: 'stopContainer';
      readonly id: string;
      readonly container: string;
      /** What the runtime waits between the stop signal and SIGKILL. */
      readonly graceSeconds: number;
      readonly reason: string;
      /** Text of the Killing event; undefined when it was told before the preStop hook. */
      readonly message: string | undefined;
      /** It is stopped in order to be started again, whatever code it ends with. */
      readonly comesBack: boolean;
    }
  | { readonly kind: 'removeContainer'; readonly id: string }
  /** Brings the cgroups of the pod and of these running containers to their size: the pod's grows before theirs and shrinks after. */
  | { readonly kind: 'resizePod'; readonly from: PodSize; readonly to: PodSize; readonly containers: readonly ContainerResize[] }
  /** Ends the container if it runs and removes it, so that it starts anew as if it had never been; its logs stay. */
  | {
      readonly kind: 'resetContainer';
      readonly id: string;
      readonly container: string;
      readonly kill: boolean;
      readonly restartCount: number;
      /** When the container ended (wall, ms) whose rule asked for the restart; undefined for the others. */
      readonly sourceEnd: number | undefined;
      readonly reason: string;
    }
  | { readonly kind: 'unmountVolumes' }
  | { readonly kind: 'removeCgroup' }
  /** Containers, sandboxes, folders and logs of a pod that no source has any more. */
  | { readonly kind: 'purge' };

/** What an action brought about that the runtime does not tell. */
export type ActionResult =
  | { readonly kind: 'done' }
  | { readonly kind: 'image'; readonly imageRef: string }
  /** A sandbox, or a container that was started: all that is new in the runtime. */
  | { readonly kind: 'made'; readonly made: Made };

/** Names an action for `inFlight`: two with the same key never run at once. */
export function actionKey(action: PodAction): string {
  switch (action.kind) {
    case 'prepare':
    case 'createSandbox':
    case 'purge':
    case 'resizePod':
      return action.kind;
    case 'mountVolumes':
    case 'unmountVolumes':
      return 'volumes';
    case 'removeCgroup':
      return 'cgroup';
    case 'pullImage':
      return `pull:${action.container}`;
    case 'startContainer':
      return `start:${action.container}`;
    case 'stopSandbox':
      return `stopSandbox:${action.id}`;
    case 'removeSandbox':
      return `removeSandbox:${action.id}`;
    case 'preStop':
      return `preStop:${action.id}`;
    case 'stopContainer':
    case 'resetContainer':
      return `stop:${action.id}`;
    case 'removeContainer':
      return `remove:${action.id}`;
    default:
      return unreachable(action);
  }
}
