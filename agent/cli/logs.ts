import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { AgentError } from '../base/errors.ts';
import { parseDuration } from '../config/duration.ts';
import { agent, askAgent, defaultContainer, parsePodName, pathOf } from './local/client.ts';

const help = `Usage: keelson logs POD [-c CONTAINER] [-n NAMESPACE] [-f] [-p] [--tail N] [--since 5m] [--since-time TIME] [--timestamps] [--limit-bytes N]

Prints what a container has written, as kubectl logs does. POD is the name in its manifest, or NAMESPACE/NAME.
`;

/** `keelson logs` */
export async function logs(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      container: { type: 'string', short: 'c' },
      namespace: { type: 'string', short: 'n' },
      follow: { type: 'boolean', short: 'f' },
      previous: { type: 'boolean', short: 'p' },
      tail: { type: 'string' },
      since: { type: 'string' },
      'since-time': { type: 'string' },
      timestamps: { type: 'boolean' },
      'limit-bytes': { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return 0;
  }
  const [name, container, ...more] = positionals;
  if (name === undefined || more.length > 0) throw new AgentError('Usage', `name one pod\n\n${help}`);
  const pod = parsePodName(name, values.namespace);
  const wanted = values.container ?? container ?? defaultContainer(await agent.why(pod, signal));
  const query = new URLSearchParams();
  for (const flag of ['follow', 'previous', 'timestamps'] as const) if (values[flag] === true) query.set(flag, 'true');
  if (values.tail !== undefined && values.tail !== '-1') query.set('tailLines', values.tail);
  if (values['limit-bytes'] !== undefined) query.set('limitBytes', values['limit-bytes']);
  if (values['since-time'] !== undefined) query.set('sinceTime', values['since-time']);
  if (values.since !== undefined) query.set('sinceSeconds', String(Math.ceil(parseDuration(values.since) / 1000)));
  const response = await askAgent('GET', `/logs/${pathOf(pod)}/${encodeURIComponent(wanted)}?${query}`, signal);
  try {
    await pipeline(response, process.stdout, { end: false });
  } catch (error) {
    // Whoever reads has had enough (`| head`), or Ctrl-C ended a follow.
    const gone = error instanceof Error && 'code' in error && error.code === 'EPIPE';
    if (!gone && !signal.aborted) throw error;
  }
  return 0;
}
