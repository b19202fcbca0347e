// What `/logs/?query=…` asks for: the logs of services of the machine, or one file below its log folder. Parameters, limits, statuses and words are
// kubelet's (pkg/kubelet/kubelet_server_journal.go).

import { goTime } from './log-options.ts';

const longestServiceName = 256;
const mostServices = 4;
const mostTailLines = 100_000;

export interface NodeLogQuery {
  readonly services: readonly string[];
  readonly files: readonly string[];
  readonly options: LogOptions;
}

interface LogOptions {
  /** Milliseconds since the epoch. */
  readonly sinceTime?: number;
  readonly untilTime?: number;
  readonly tailLines?: number;
  /** 0 is the current boot, -1 the one before. */
  readonly boot?: number;
  readonly pattern?: string;
}

/** `none`: no parameter asks for logs, and the request is one for a file by its path. */
export type ParsedQuery = { readonly kind: 'none' } | { readonly kind: 'query'; readonly query: NodeLogQuery } | Refusal;

interface Refusal {
  readonly kind: 'refused';
  readonly status: 400 | 406;
  readonly text: string;
}

/** Reads and checks a request's query; `path` is what stands behind `/logs/`. */
export function parseNodeLogQuery(parameters: URLSearchParams, path: string): ParsedQuery {
  const wrong: string[] = [];
  const given = parameters.getAll('query');
  // A slash is the hint for a file; a service named without one may still turn out to have a file.
  const files = given.filter((each) => /[/\\]/.test(each));
  const services = given.filter((each) => !/[/\\]/.test(each) && each.trim() !== '');
  if (given.length > 0 && files.length === 0 && services.length === 0) {
    wrong.push(`query: Invalid value: ${JSON.stringify(given)}: may not be empty`);
  }
  const options: { -readonly [K in keyof LogOptions]: LogOptions[K] } = {};
  for (const name of ['sinceTime', 'untilTime'] as const) {
    const text = parameters.get(name) ?? '';
    if (text === '') continue;
    const time = timeOf(text);
    if (time === undefined) wrong.push(`${name}: Invalid value: ${JSON.stringify(text)}: invalid time format`);
    else options[name] = time;
  }
  for (const name of ['boot', 'tailLines'] as const) {
    const text = parameters.get(name) ?? '';
    if (text === '') continue;
    if (!/^[+-]?\d{1,15}$/.test(text)) {
      wrong.push(`${name}: Invalid value: ${JSON.stringify(text)}: strconv.Atoi: parsing ${JSON.stringify(text)}: invalid syntax`);
    } else options[name] = Number(text);
  }
  const pattern = parameters.get('pattern') ?? '';
  if (pattern !== '') options.pattern = pattern;
  if (wrong.length > 0) return refused(400, wrong);
  if (given.length === 0 && Object.keys(options).length === 0) return { kind: 'none' };
  if (path !== '' && path !== '/') return { kind: 'refused', status: 406, text: 'path not allowed in query mode' };
  const query = { services, files, options };
  const invalid = complaints(query);
  return invalid.length > 0 ? refused(406, invalid) : { kind: 'query', query };
}

function refused(status: 400 | 406, complaint: readonly string[]): Refusal {
  return { kind: 'refused', status, text: complaint.length === 1 ? (complaint[0] ?? '') : `[${complaint.join(', ')}]` };
}

function timeOf(text: string): number | undefined {
  // In a query an unescaped "+" has become a space.
  const time = goTime(text.replace(/ (\d\d:\d\d)$/, '+$1'));
  return time === undefined ? undefined : Date.parse(time);
}

function complaints({ services, files, options }: NodeLogQuery): string[] {
  const wrong: string[] = [];
  for (const name of services) {
    if (name.length > longestServiceName) wrong.push(`query: Invalid value: "${name}": length must be less than ${longestServiceName}`);
    // What goes on journalctl's command line holds nothing that means something there.
    else if (/[^a-zA-Z\-_.:0-9@]/.test(name)) {
      wrong.push(`query: Invalid value: ${JSON.stringify(name)}: input contains unsupported characters`);
    }
  }
  if (services.length > mostServices) wrong.push(`query: Too many: ${services.length}: must have at most ${mostServices} items`);
  const hasOptions = Object.keys(options).length > 0;
  if (files.length === 0 && services.length === 0) wrong.push('query: Required value: cannot be empty with options');
  else if (files.length > 0 && services.length > 0) {
    wrong.push(`query: Invalid value: "[${files.join(' ')}], [${services.join(' ')}]": cannot specify a file and service`);
  } else if (files.length > 1) wrong.push(`query: Invalid value: ${JSON.stringify(files)}: cannot specify more than one file`);
  else if (files.length === 1 && hasOptions) {
    wrong.push(`query: Invalid value: ${JSON.stringify(files)}: cannot specify file with options`);
  }
  const { sinceTime, untilTime, boot, tailLines, pattern } = options;
  if (sinceTime !== undefined && untilTime !== undefined && sinceTime > untilTime) {
    wrong.push(`untilTime: Invalid value: "${new Date(untilTime).toISOString()}": must be after \`sinceTime\``);
  }
  if (boot !== undefined && boot > 0) wrong.push(`boot: Invalid value: ${boot}: must be less than 1`);
  if (tailLines !== undefined && (tailLines < 0 || tailLines > mostTailLines)) {
    wrong.push(`tailLines: Invalid value: ${tailLines}: must be between 0 and ${mostTailLines}, inclusive`);
  }
  // Whether it is a pattern, journalctl says, which is to understand it (PCRE2). No argument of a program can hold a NUL.
  if (pattern?.includes('\0') === true) wrong.push(invalidPattern(pattern, 'must not contain NUL'));
  return wrong;
}

function invalidPattern(pattern: string, why: string): string {
  return `pattern: Invalid value: ${JSON.stringify(pattern)}: ${why}`;
}

/** journalctl's arguments for nothing but its word on a pattern, which it gives before it opens any file. */
export function patternCheckArguments(pattern: string): string[] {
  return ['--quiet', '--lines=0', `--grep=${pattern}`, '--field', '_BOOT_ID'];
}

/** The refusal of a pattern that journalctl does not understand, from what it said; undefined when it said nothing of the kind. */
export function refusedPattern(pattern: string, said: string): Refusal | undefined {
  const why = /^Bad pattern .*/m.exec(said)?.[0];
  return why === undefined ? undefined : refused(406, [invalidPattern(pattern, why)]);
}

/** journalctl's arguments for the logs of services. */
export function journalArguments(services: readonly string[], options: LogOptions): string[] {
  // With the zone said: journalctl takes a time without one for the machine's own.
  const timeText = (time: number): string => `${new Date(time).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
  const { sinceTime, untilTime, tailLines, pattern, boot } = options;
  return [
    '--utc',
    '--no-pager',
    '--output=short-precise',
    ...(sinceTime === undefined ? [] : [`--since=${timeText(sinceTime)}`]),
    ...(untilTime === undefined ? [] : [`--until=${timeText(untilTime)}`]),
    ...(tailLines === undefined ? [] : ['--pager-end', `--lines=${tailLines}`]),
    ...services.map((service) => `--unit=${service}`),
    ...(pattern === undefined ? [] : [`--grep=${pattern}`]),
    ...(boot === undefined ? [] : [`--boot=${boot}`]),
  ];
}

/** journalctl's arguments for the names of all units that have written to the journal, a line each. */
export const journalUnits: readonly string[] = ['--field', '_SYSTEMD_UNIT'];

/** Where the log of a service that does not write to the journal is looked for, in this order. */
export function logFilesOf(service: string): string[] {
  return [service, `${service}.log`, `${service}/${service}.log`];
}
