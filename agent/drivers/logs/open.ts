import { AgentError } from '../../base/errors.ts';
import { type Looked, lookAt } from '../files/look.ts';

// A pod that may write to /var/log can put links and FIFOs in the place of logs. Runtimes write a log as a regular file at its path; cri-dockerd alone lays a link,
// to Docker's own file.
const dockerLog = /\/containers\/([0-9a-f]{64})\/\1-json\.log(?:\.\d+(?:\.gz)?)?$/;

/**
 * Looks at a container's log. The folders above those of the pod may be links, and cri-dockerd's link is followed; what leads elsewhere is refused. Throws
 * AgentError: NotFound, OutsideRoot, NotAFile, ….
 */
export async function lookAtContainerLog(path: string): Promise<Looked> {
  const found = await lookAt(path);
  try {
    const real = pathWhenOpened(await found.realPath(), path);
    if (ofPod(real) !== ofPod(path) && !dockerLog.test(real)) throw new AgentError('OutsideRoot', `log file "${path}" leads to ${real}`);
    if (!found.info.isFile()) throw new AgentError('NotAFile', `log file "${path}" is no regular file`);
    return found;
  } catch (error) {
    await found[Symbol.asyncDispose]();
    throw error;
  }
}

// What a rotation adds to a name: a time (pkg/kubelet/logs), or Docker's number.
const rotated = /(?:\.\d{8}-\d{6}|(?<=-json\.log)\.\d+)$/;

/** Where a file lay that was opened at `path`, by where it is told to lie a moment later: a rotation may have renamed or removed it. */
export function pathWhenOpened(real: string, path: string): string {
  const named = real.replace(/ \(deleted\)$/, '');
  return rotated.test(path) ? named : named.replace(rotated, '');
}

/** `<namespace>_<pod>_<uid>/<container>/<restart>.log`: what is left of a path when the folders above are resolved. */
const ofPod = (path: string): string => path.split('/').slice(-3).join('/');
