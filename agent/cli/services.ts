import { parseArgs } from 'node:util';
import { AgentError } from '../base/errors.ts';
import { agent, parsePodName } from './local/client.ts';
import { describeServices } from './local/describe-services.ts';

const help = `Usage: keelson services [[NAMESPACE/]NAME] [-n NAMESPACE] [--verify] [--json]

Shows what this node's proxy has programmed: a line a Service, or of one all its addresses and endpoints,
why an endpoint gets nothing from here, and what could not be served.
--verify reads the rules back from the kernel; what they lack is made anew. Exit code 1 says that something lacked.
`;

/** `keelson services` */
export async function services(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      namespace: { type: 'string', short: 'n' },
      verify: { type: 'boolean' },
      json: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return 0;
  }
  const [name] = positionals;
  if (positionals.length > 1) throw new AgentError('Usage', `name one Service, or none\n\n${help}`);
  const wanted = name === undefined ? undefined : parsePodName(name.replace(/^(services?|svc)\//, ''), values.namespace);
  const answer = await agent.services(wanted, values.verify === true, signal);
  process.stdout.write(values.json === true ? `${JSON.stringify(answer, undefined, 2)}\n` : describeServices(answer, wanted !== undefined));
  return answer.verified?.some(({ whole }) => !whole) ? 1 : 0;
}
