import { writeFile } from 'node:fs/promises';
import { AgentError, messageOf } from '../base/errors.ts';
import { proxyFlagUsage } from '../config/proxy/flags.ts';
import { loadProxyTask } from '../config/proxy/load.ts';
import { kubernetesVersion } from '../model/kubernetes-version.ts';
import { readText } from './files.ts';
import { createLog } from './log.ts';
import { requireMode } from './wiring/proxy-backends.ts';
import { cleanUpProxies, initProxy, runProxy } from './wiring/proxy-daemon.ts';

/**
 * `keelson proxy`: Services without the rest of a node, with kube-proxy's flags and KubeProxyConfiguration. Exit codes: 0 ended by a
 * signal or done, 1 an error, as kube-proxy's.
 */
export async function proxy(args: readonly string[], signal: AbortSignal): Promise<number> {
  try {
    const task = await loadProxyTask(args, readText);
    switch (task.kind) {
      case 'help':
        process.stdout.write(
          `Usage: keelson proxy [flags]\n\nPrograms this machine's Services, with kube-proxy's flags and configuration.\n\n${proxyFlagUsage()}`,
        );
        return 0;
      case 'version':
        process.stdout.write(`Kubernetes ${kubernetesVersion} (keelson)\n`);
        return 0;
      case 'writeConfig':
        // As upstream: through a link, and into a pipe. /dev/stdout must not become a file.
        await writeFile(task.file, task.text, { mode: 0o644 });
        return 0;
      default:
        break;
    }
    const { settings } = task;
    const log = createLog(settings.config.logging.verbosity);
    for (const warning of settings.warnings) log.warn({}, warning);
    if (task.kind === 'cleanup') return await cleanUpProxies(log, signal);
    if (task.kind === 'run') requireMode(settings.config.mode);
    await initProxy(settings.config, log);
    if (task.kind === 'run') await runProxy(settings, log, signal);
    return 0;
  } catch (error) {
    if (signal.aborted) return 0;
    process.stderr.write(`error: ${messageOf(error)}\n`);
    return error instanceof AgentError && error.code === 'Usage' ? 2 : 1;
  }
}
