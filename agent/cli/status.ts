import { parseArgs } from 'node:util';
import { systemClock } from '../base/clock.ts';
import { agent } from './local/client.ts';
import { describeStatus } from './local/describe.ts';

const help = `Usage: keelson status [--json]

Shows the pods of this machine's agent: state, restarts, addresses, what they wait for, and manifests that cannot be used.
`;

/** `keelson status` */
export async function status(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { values } = parseArgs({ args: [...args], options: { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } });
  if (values.help === true) {
    process.stdout.write(help);
    return 0;
  }
  const answer = await agent.status(signal);
  process.stdout.write(values.json === true ? `${JSON.stringify(answer, undefined, 2)}\n` : describeStatus(answer, systemClock.wall()));
  return 0;
}
