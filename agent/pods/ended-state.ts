import type { ContainerState, ContainerStatus } from '../model/generated/api.ts';
import { unreadableMessage } from './last-words.ts';
import type { RuntimeContainer } from './observed.ts';

type Terminated = NonNullable<ContainerState['terminated']>;

/** RFC 3339 with seconds, as the API keeps times. */
export function apiTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`;
}

// What containerd tells of a container whose end it missed (internal/cri/server: unknownExitReason, unknownExitCode).
const missedReason = 'Unknown';
const missedExitCode = 255;

/** The end that is published of the container with this ID (`runtime://…`), as its present or its last state. */
export function publishedEnd(published: ContainerStatus | undefined, id: string): Terminated | undefined {
  return [published?.state?.terminated, published?.lastState?.terminated].find((ended) => ended?.containerID === id);
}

/**
 * The API's state of an ended container. An end happens once: what is published of it is not taken back by a later look that
 * knows less. After a restart of the agent its message file may be unmounted, its log removed and the kernel's word on its OOM
 * kill gone, and a runtime may have lost what it knew. `messageBytes` is the room for its message.
 */
export function endedState(c: RuntimeContainer, id: string, published: ContainerStatus | undefined, messageBytes: number): Terminated {
  const known = publishedEnd(published, id);
  const missed = c.reason === missedReason && c.exitCode === missedExitCode;
  if (known !== undefined && missed) return known;
  const message = lastingMessage(known?.message ?? '', c.message);
  return {
    exitCode: c.exitCode,
    reason: known?.reason === 'OOMKilled' || c.reason === '' ? known?.reason : c.reason,
    message: message === '' ? undefined : clip(message, messageBytes),
    startedAt: c.startedAt > 0 ? apiTime(c.startedAt) : known?.startedAt,
    finishedAt: c.finishedAt > 0 ? apiTime(c.finishedAt) : known?.finishedAt,
    containerID: id,
  };
}

/** A message is read at the container's end. A later reading counts only where there was none, or where it had failed. */
function lastingMessage(known: string, seen: string): string {
  return known === '' || (known.includes(unreadableMessage) && seen !== '') ? seen : known;
}

function clip(text: string, bytes: number): string {
  const raw = Buffer.from(text, 'utf8');
  return raw.length <= bytes ? text : raw.subarray(0, bytes).toString('utf8');
}
