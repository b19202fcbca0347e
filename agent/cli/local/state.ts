import { readFileSync } from 'node:fs';
import { AgentError } from '../../base/errors.ts';
import { writeAtomically } from '../../drivers/files/atomic.ts';
import { isErrno } from '../../drivers/sys/errno.ts';
import { standalone } from './paths.ts';
import type { Tracked } from './process.ts';

/** What `keelson up` has made and started, for the next `up` and for `down`. */
export interface StandaloneState {
  readonly agent?: Tracked | undefined;
  readonly containerd?: Tracked | undefined;
  readonly manifests?: string | undefined;
  /** IPv4 range of the pods, such as 10.199.77.0/24. */
  readonly subnet?: string | undefined;
  /** Folders outside of our own that were not there before; `down` removes those that are empty. */
  readonly madeFolders?: readonly string[] | undefined;
}

/** Undefined when nothing is up. */
export function readState(): StandaloneState | undefined {
  try {
    return JSON.parse(readFileSync(standalone.state, 'utf8')) as StandaloneState;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw new AgentError('Io', `cannot read ${standalone.state}: run "keelson down", which also clears up what is broken`, {
      cause: error,
    });
  }
}

export async function writeState(state: StandaloneState): Promise<void> {
  await writeAtomically(standalone.state, `${JSON.stringify(state, undefined, 2)}\n`, { mode: 0o600 });
}

/** Only root may do what `command` does. Throws AgentError Forbidden with what to do. */
export function requireRoot(command: string): void {
  if (process.getuid?.() !== 0)
    throw new AgentError('Forbidden', `keelson ${command} needs root: run it in a root shell (su -), or with sudo`);
}
