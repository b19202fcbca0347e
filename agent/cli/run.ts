import { writeFileSync } from 'node:fs';
import { messageOf } from '../base/errors.ts';
import { askedFor, loadConfig } from '../config/config.ts';
import { flagUsage } from '../config/flags.ts';
import { loadProxySettings } from '../config/proxy/load.ts';
import { kubernetesVersion } from '../model/kubernetes-version.ts';
import { listFilesBelow, readText } from './files.ts';
import { createLog } from './log.ts';
import { runNode } from './wiring/node.ts';

/** `keelson run`: the node agent in the foreground, with kubelet's flags and configuration. Exit codes: 0 ended by a signal, 1 an error, as kubelet's. */
export const run = (args: readonly string[], signal: AbortSignal): Promise<number> => runAs('keelson', args, signal);

/** `keelson kubelet`, or the launcher called by a link named kubelet: the agent in a kubelet's place, beside a kube-proxy, and found by `pidof kubelet`. */
export const runKubelet = (args: readonly string[], signal: AbortSignal): Promise<number> =>
  runAs('kubelet', ['--no-proxy', ...args], signal);

async function runAs(processName: string, args: readonly string[], signal: AbortSignal): Promise<number> {
  try {
    switch (askedFor(args)) {
      case 'help':
        process.stdout.write(
          `Usage: keelson run [flags]\n\nRuns this machine as a Kubernetes node, with kubelet's flags and configuration.\n\n${flagUsage()}`,
        );
        return 0;
      case 'version':
        process.stdout.write(`Kubernetes ${kubernetesVersion} (keelson)\n`);
        return 0;
      default:
        break;
    }
    const config = await loadConfig(args, { readFile: readText, listFiles: listFilesBelow });
    const log = createLog(config.verbosity);
    try {
      // The kernel's name for the process, which pgrep knows it by (proc_pid_comm(5)). process.title would hide the flags.
      writeFileSync('/proc/self/comm', processName);
    } catch (error) {
      // As in a container whose /proc is read-only: nothing but the name is lost.
      log.debug({ err: messageOf(error) }, 'the process keeps the name of its program');
    }
    for (const warning of config.warnings) log.warn({}, warning);
    const programsServices = !config.noProxy && config.kubeconfig !== undefined;
    const proxy = programsServices ? await loadProxySettings(config.proxyConfig, readText) : undefined;
    await runNode(config, proxy, log, signal);
    return 0;
  } catch (error) {
    if (signal.aborted) return 0;
    process.stderr.write(`error: ${messageOf(error)}\n`);
    return 1;
  }
}
