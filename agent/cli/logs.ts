import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { AgentError, hasCode } from '../base/errors.ts';
import { parseDuration } from '../config/duration.ts';
import { goTime } from '../server/log-options.ts';
import { agent, askAgent, defaultContainer, type PodName, parsePodName, pathOf } from './local/client.ts';

const help = `Usage: keelson logs POD [-c CONTAINER] [-n NAMESPACE] [-f] [-p] [--tail N] [--since 5m] [--since-time TIME] [--timestamps] [--limit-bytes N]

Prints what a container has written, as kubectl logs does. POD is the name in its manifest, or NAMESPACE/NAME.
`;

interface LogsArguments {
  readonly pod: PodName;
  readonly container: string | undefined;
  /** As `/containerLogs` of a kubelet takes it. */
  readonly query: URLSearchParams;
}

/** Undefined when help is wanted. Throws AgentError Usage that names the flag. */
export function parseLogsArguments(args: readonly string[]): LogsArguments | undefined {
  const usage = (problem: string): never => {
    throw new AgentError('Usage', `${problem}\n\n${help}`);
  };
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
  if (values.help === true) return undefined;
  const [name, container, ...more] = positionals;
  if (name === undefined || more.length > 0) return usage('name one pod');
  const query = new URLSearchParams();
  for (const flag of ['follow', 'previous', 'timestamps'] as const) if (values[flag] === true) query.set(flag, 'true');
  const { tail, since, 'since-time': sinceTime, 'limit-bytes': limitBytes } = values;
  if (tail !== undefined && tail !== '-1')
    query.set('tailLines', /^\d+$/.test(tail) ? tail : usage(`--tail: "${tail}" is no number of lines`));
  if (limitBytes !== undefined)
    query.set('limitBytes', /^0*[1-9]\d*$/.test(limitBytes) ? limitBytes : usage(`--limit-bytes: "${limitBytes}" is no number of bytes`));
  const seconds = since === undefined ? 0 : Math.ceil(durationOf(since, usage) / 1000);
  if (seconds < 0) usage(`--since: "${since}" lies in the future`);
  if (seconds > 0 && sinceTime !== undefined) usage('--since-time and --since exclude each other');
  if (seconds > 0) query.set('sinceSeconds', String(seconds));
  if (sinceTime !== undefined) {
    if (goTime(sinceTime) === undefined) usage(`--since-time: "${sinceTime}" is no time such as 2026-01-02T15:04:05Z`);
    query.set('sinceTime', sinceTime);
  }
  return { pod: parsePodName(name, values.namespace), container: values.container ?? container, query };
}

function durationOf(text: string, usage: (problem: string) => never): number {
  try {
    return parseDuration(text);
  } catch (error) {
    if (!hasCode(error, 'InvalidDuration')) throw error;
    return usage(`--since: ${error.message}`);
  }
}

/** `keelson logs` */
export async function logs(args: readonly string[], signal: AbortSignal): Promise<number> {
  const parsed = parseLogsArguments(args);
  if (parsed === undefined) {
    process.stdout.write(help);
    return 0;
  }
  const { pod, query } = parsed;
  const wanted = parsed.container ?? defaultContainer(await agent.why(pod, signal));
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
