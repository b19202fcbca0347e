import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AgentError, messageOf } from '../../base/errors.ts';

/** The number that a file below /proc/sys holds, such as `net/netfilter/nf_conntrack_max`; undefined where the kernel has no such file. */
export async function readSysctl(name: string, root = '/proc/sys'): Promise<number | undefined> {
  let text: string;
  try {
    text = await readFile(join(root, name), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new AgentError('Unavailable', `cannot read sysctl ${name}: ${messageOf(error)}`, { cause: error });
  }
  return Number(text.trim());
}

/** Sets a number below /proc/sys, unless it stands there already or, with `atLeast`, a higher one. Resolves to whether it was written. */
export async function writeSysctl(name: string, value: number, atLeast: boolean, root = '/proc/sys'): Promise<boolean> {
  const current = await readSysctl(name, root);
  if (current === undefined) throw new AgentError('NotSupported', `this kernel has no sysctl ${name}`);
  if (current === value || (atLeast && current > value)) return false;
  try {
    await writeFile(join(root, name), String(value));
  } catch (error) {
    throw new AgentError('Forbidden', `cannot set sysctl ${name} to ${value}: ${messageOf(error)}`, { cause: error });
  }
  return true;
}
