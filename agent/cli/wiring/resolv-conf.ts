import { messageOf } from '../../base/errors.ts';
import { readText } from '../../drivers/files/look.ts';
import { checkResolvConf, parseResolvConf, type ResolvConf } from '../../pods/dns.ts';

/**
 * How to read the node's resolv.conf, which may change under a running agent; undefined for the path `''`. What is wrong with it is told once, as
 * an event of the node: pods would be told one by one, and only those that use it.
 */
export async function openResolvConf(
  path: string,
  clusterDomain: string,
  nodeEvent: (type: 'Warning', reason: string, message: string) => void,
): Promise<() => Promise<ResolvConf | undefined>> {
  const read = async (): Promise<ResolvConf | undefined> => (path === '' ? undefined : parseResolvConf(await readText(path)));
  try {
    const found = await read();
    const problem = found && checkResolvConf(path, found, clusterDomain);
    if (problem !== undefined) nodeEvent('Warning', problem.reason, problem.message);
  } catch (error) {
    nodeEvent('Warning', 'CheckLimitsForResolvConf', messageOf(error));
  }
  return read;
}
