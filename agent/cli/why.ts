import { parseArgs } from 'node:util';
import { AgentError, hasCode } from '../base/errors.ts';
import { agent, parsePodName } from './local/client.ts';
import { describeWhy } from './local/describe.ts';

const help = `Usage: keelson why POD [-n NAMESPACE] [--json]

Tells what a pod is doing and why: its containers, what it waits for, each step that was taken with its time, and its events.
POD is the name in its manifest, or NAMESPACE/NAME.
`;

/** `keelson why` */
export async function why(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { namespace: { type: 'string', short: 'n' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return 0;
  }
  const [name] = positionals;
  if (name === undefined || positionals.length > 1) throw new AgentError('Usage', `name one pod\n\n${help}`);
  const wanted = parsePodName(name, values.namespace);
  const answer = await agent.why(wanted, signal).catch(async (error: unknown) => {
    if (!hasCode(error, 'NotFound') || (await agent.status(signal)).standalone) throw error;
    throw new AgentError(
      'NotFound',
      `this node has no pod ${wanted.namespace}/${wanted.name}: if the cluster has it, it runs on another node or waits for the scheduler, and "kubectl describe pod -n ${wanted.namespace} ${wanted.name}" tells why`,
      { cause: error },
    );
  });
  process.stdout.write(values.json === true ? `${JSON.stringify(answer, undefined, 2)}\n` : describeWhy(answer));
  return 0;
}
