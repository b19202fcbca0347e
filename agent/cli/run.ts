import { AgentError, messageOf } from '../base/errors.ts';
import { askedFor, loadConfig } from '../config/config.ts';
import { flagUsage } from '../config/flags.ts';
import { kubeletVersion } from '../node/status.ts';
import { listFilesBelow, readText } from './files.ts';
import { createLog } from './log.ts';
import { runNode } from './wiring/node.ts';

/** `keelson run`: the node agent in the foreground, with kubelet's flags and configuration. Exit codes: 0 ended by a signal, 1 an error, as kubelet's. */
export async function run(args: readonly string[], signal: AbortSignal): Promise<number> {
  try {
    switch (askedFor(args)) {
      case 'help':
        process.stdout.write(
          `Usage: keelson run [flags]\n\nRuns this machine as a Kubernetes node, with kubelet's flags and configuration.\n\n${flagUsage()}`,
        );
        return 0;
      case 'version':
        process.stdout.write(`Kubernetes ${kubeletVersion} (keelson)\n`);
        return 0;
      default:
        break;
    }
    const config = await loadConfig(args, { readFile: readText, listFiles: listFilesBelow });
    const log = createLog(config.verbosity);
    for (const warning of config.warnings) log.warn({}, warning);
    if (!config.noProxy && config.kubeconfig !== undefined) {
      throw new AgentError(
        'NotSupported',
        'programming Services is not there yet: start with --no-proxy and run kube-proxy beside keelson (docs/compatibility.md)',
      );
    }
    await runNode(config, log, signal);
    return 0;
  } catch (error) {
    if (signal.aborted) return 0;
    process.stderr.write(`error: ${messageOf(error)}\n`);
    return 1;
  }
}
