import type { Container } from '../../model/generated/api.ts';
import type { AgentPod } from '../../model/pod.ts';
import type { EnvironmentInputs } from '../../pods/env.ts';
import type { Volumes } from '../../volumes/worker.ts';

/** Reads the files that variables of a container refer to. What is wrong with one is thrown when it is asked for. */
export async function readEnvFiles(
  volumes: Volumes,
  pod: AgentPod,
  container: Container,
  signal: AbortSignal,
): Promise<EnvironmentInputs['envFile']> {
  const found = new Map<string, PromiseSettledResult<string | undefined>>();
  const keyOf = (volume: string, path: string): string => JSON.stringify([volume, path]);
  for (const { valueFrom } of container.env ?? []) {
    if (valueFrom?.fileKeyRef === undefined) continue;
    const { volumeName, path } = valueFrom.fileKeyRef;
    const key = keyOf(volumeName, path);
    if (found.has(key)) continue;
    const [read] = await Promise.allSettled([volumes.readFile(pod, volumeName, path, signal)]);
    found.set(key, read);
  }
  signal.throwIfAborted();
  return (volume, path) => {
    const read = found.get(keyOf(volume, path));
    if (read?.status === 'rejected') throw read.reason;
    return read?.value;
  };
}
