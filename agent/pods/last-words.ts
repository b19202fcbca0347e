import type { ContainerStatus } from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import { hasCode, messageOf } from '../base/errors.ts';
import { terminationPath } from './container-config.ts';
import { terminationMessagePathAnnotation, terminationMessagePolicyAnnotation } from './labels.ts';
import { lastLogText } from './runtime-parse.ts';

/**
 * Reads the end of a file, bytes. A container may have put anything there: what is no regular file is refused. Each rejects with AgentError, NotFound when
 * there is no such file.
 */
export interface LastWords {
  /** The file for the termination message, wherever the container's mount has it. */
  message(path: string, mostBytes: number, signal: AbortSignal): Promise<Uint8Array>;
  log(path: string, mostBytes: number): Promise<Uint8Array>;
}

// The longest termination message that is read (pkg/kubelet/container MaxContainerTerminationMessageLength), bytes.
const maxMessageBytes = 4096;
const logTailBytes = 64 * 1024;
/** How the text begins that stands for a message which could not be read (pkg/kubelet/kuberuntime getTerminationMessage). */
export const unreadableMessage = 'Error on reading termination ';
// For a file system that does not answer: the container's end is told without its words.
const deadlineMs = 10_000;

/** What an ended container left as its last words. A file that cannot be read never hides its end; why it cannot is told, as kubelet does. */
export async function readTerminationMessage(
  status: ContainerStatus,
  lastWords: LastWords,
  clock: Clock,
  signal: AbortSignal,
): Promise<string> {
  if (status.state !== 'CONTAINER_EXITED') return '';
  const path = terminationPath(status.annotations?.[terminationMessagePathAnnotation] ?? '');
  const written = path === '' ? undefined : status.mounts?.find((m) => m.container_path === path)?.host_path;
  if (written !== undefined && written !== '') {
    using deadline = clock.deadline(signal, deadlineMs);
    const read = async (): Promise<string> => textOf(await lastWords.message(written, maxMessageBytes, deadline.signal));
    const message = await orWhyNot(read, `${unreadableMessage}log ${written}`);
    signal.throwIfAborted();
    if (message !== '') return message;
  }
  const fallsBack =
    status.annotations?.[terminationMessagePolicyAnnotation] === 'FallbackToLogsOnError' &&
    status.exit_code !== 0 &&
    status.reason !== 'ContainerCannotRun';
  const { log_path: log = '' } = status;
  if (!fallsBack || log === '') return '';
  const read = async (): Promise<string> => lastLogText(textOf(await lastWords.log(log, logTailBytes)));
  return await orWhyNot(read, `${unreadableMessage}message from logs`);
}

const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('utf8');

async function orWhyNot(read: () => Promise<string>, what: string): Promise<string> {
  try {
    return await read();
  } catch (error) {
    return hasCode(error, 'NotFound') ? '' : `${what}: ${messageOf(error)}`;
  }
}
