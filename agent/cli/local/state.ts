import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { isErrno } from '../../drivers/sys/errno.ts';
import { standalone } from './paths.ts';
import { isAlive, type Tracked, track } from './process.ts';

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

export function writeState(state: StandaloneState): void {
  mkdirSync(dirname(standalone.state), { recursive: true, mode: 0o755 });
  writeFileSync(`${standalone.state}.tmp`, `${JSON.stringify(state, undefined, 2)}\n`, { mode: 0o600 });
  renameSync(`${standalone.state}.tmp`, standalone.state);
}

/** Keeps a second `up` or `down` away. Throws AgentError Busy when one is under way. */
export function takeLock(): Disposable {
  const file = standalone.lock;
  mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
  const me = track(process.pid);
  for (;;) {
    try {
      writeFileSync(file, JSON.stringify(me), { flag: 'wx', mode: 0o600 });
      return { [Symbol.dispose]: () => rmSync(file, { force: true }) };
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
    }
    const owner = readOwner(file);
    if (isAlive(owner)) throw new AgentError('Busy', `another keelson up or down is under way (process ${owner.pid}): wait for its end`);
    // Left behind by one that was killed.
    rmSync(file, { force: true });
  }
}

function readOwner(file: string): Tracked | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Tracked;
  } catch (error) {
    // Gone meanwhile, or cut off while it was written.
    if (isErrno(error, 'ENOENT') || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Only root may do what `command` does. Throws AgentError Forbidden with what to do. */
export function requireRoot(command: string): void {
  if (process.getuid?.() !== 0)
    throw new AgentError('Forbidden', `keelson ${command} needs root: run it in a root shell (su -), or with sudo`);
}
