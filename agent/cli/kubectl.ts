import { AgentError } from '../base/errors.ts';
import { hasCluster, runLab } from './local/cluster.ts';
import { localCluster } from './local/paths.ts';

/** `keelson kubectl`: upstream's kubectl, as administrator of the cluster that `keelson up --cluster` has started. Resolves to its exit code. */
export async function kubectl(args: readonly string[], signal: AbortSignal): Promise<number> {
  if (process.getuid?.() !== 0)
    throw new AgentError('Forbidden', 'keelson kubectl enters the cluster network: run it in a root shell (su -), or with sudo');
  if (!hasCluster()) throw new AgentError('NotFound', 'no cluster is up here: start one with ./keelson up --cluster');
  return await runLab(['kubectl', '--name', localCluster.name, ...args], signal);
}
