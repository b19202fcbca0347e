// Flags as pflag reads them (github.com/spf13/pflag), for commands that take a kubelet's or a kube-proxy's command line.
import { isIP } from 'node:net';
import { AgentError, messageOf } from '../base/errors.ts';
import { ownValue, setOwn } from '../base/own.ts';
import { parseQuantity } from '../model/quantity.ts';
import { parseDuration } from './duration.ts';
import { checkLabelValue, checkQualifiedName } from './names.ts';

export type FlagKind =
  | 'bool'
  | 'string'
  | 'int'
  | 'float'
  | 'duration'
  | 'ip'
  /** Comma-separated, several occurrences add up. */
  | 'list'
  /** `key=value,…`; several occurrences add up. */
  | 'map'
  /** `key=value`, one pair an occurrence. */
  | 'pair'
  /** `key<value,…` */
  | 'thresholds'
  /** `key=true,…` */
  | 'gates'
  /** `key=value,…` where the value may be missing. */
  | 'labels'
  | 'taints'
  /** `name:value,…`, a name may come again. */
  | 'headers'
  | 'reservedMemory'
  | 'vmodule';

/** What a flag is to keelson: without effect only where upstream ignores it too, each with the reason. */
export type Support = { kind: 'honoured' } | { kind: 'noEffect'; why: string } | { kind: 'unsupported'; why: string };

export interface Flag {
  readonly name: string;
  readonly kind: FlagKind;
  /** The dotted path of the configuration's field that it sets; undefined for a flag that sets none. */
  readonly field?: string | undefined;
  readonly support: Support;
  readonly help: string;
}

export const honoured: Support = { kind: 'honoured' };

export function own(name: string, kind: FlagKind, help: string): Flag {
  return { name, kind, support: honoured, help };
}

export function noEffect(name: string, kind: FlagKind, why: string): Flag {
  return { name, kind, support: { kind: 'noEffect', why }, help: `accepted and without effect: ${why}` };
}

export function unsupported(name: string, kind: FlagKind, why: string): Flag {
  return { name, kind, support: { kind: 'unsupported', why }, help: `not supported: ${why}` };
}

/** The flags of a command, by name. */
export type FlagTable = ReadonlyMap<string, Flag>;

export function flagTable(flags: readonly Flag[]): FlagTable {
  return new Map(flags.map((flag) => [flag.name, flag]));
}

/** A flag's value after parsing; durations are milliseconds. */
export type FlagValue = string | number | boolean | string[] | Record<string, unknown> | Record<string, unknown>[];

/** What a command line said. */
export interface ParsedFlags {
  /** Values of flags that set a field of the configuration, by the field's dotted path. */
  readonly fields: ReadonlyMap<string, FlagValue>;
  /** Values of all other flags, by flag name. */
  readonly others: ReadonlyMap<string, FlagValue>;
  /** For the log: what was accepted and does nothing, and why. */
  readonly warnings: readonly string[];
}

/**
 * Parses a command line the way pflag does, by a command's table of flags: `--flag value`, `--flag=value`, booleans without a value, `-v4`, underscores for hyphens.
 * Throws AgentError InvalidFlag naming the flag.
 */
export function parseFlagsOf(flags: FlagTable, argv: readonly string[]): ParsedFlags {
  const given = new Map<string, FlagValue>();
  const warnings: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] ?? '';
    if (!word.startsWith('-') || word === '-') throw invalid(`unknown command ${word}`);
    if (word === '--') {
      const rest = argv[i + 1];
      if (rest !== undefined) throw invalid(`unknown command ${rest}`);
      break;
    }
    const { name, value: inline, shown } = split(flags, word);
    const flag = flags.get(name);
    if (flag === undefined) throw unknownFlag(flags, name, shown);
    if (flag.support.kind === 'unsupported') throw invalid(`flag --${name} is not supported: ${flag.support.why}`);
    let text = inline;
    if (text === undefined) {
      if (flag.kind === 'bool' || name === 'version') text = 'true';
      else {
        i++;
        text = argv[i];
        if (text === undefined) throw invalid(`flag needs an argument: ${shown}`);
      }
    }
    try {
      given.set(name, parseValue(flag, text, given.get(name)));
    } catch (error) {
      throw new AgentError('InvalidFlag', `invalid argument "${text}" for "${shown}" flag: ${messageOf(error)}`, { cause: error });
    }
    if (flag.support.kind === 'noEffect') warnings.push(`flag --${name} has no effect: ${flag.support.why}`);
  }
  const fields = new Map<string, FlagValue>();
  const others = new Map<string, FlagValue>();
  for (const [name, value] of given) {
    const field = flags.get(name)?.field;
    if (field === undefined) others.set(name, value);
    else fields.set(field, value);
  }
  return { fields, others, warnings };
}

function split(flags: FlagTable, word: string): { name: string; value: string | undefined; shown: string } {
  if (word.startsWith('--')) {
    const equals = word.indexOf('=');
    const raw = equals < 0 ? word.slice(2) : word.slice(2, equals);
    // component-base's WordSepNormalizeFunc: underscores are hyphens.
    return { name: raw.replaceAll('_', '-'), value: equals < 0 ? undefined : word.slice(equals + 1), shown: `--${raw}` };
  }
  const letter = word.slice(1, 2);
  const rest = word.slice(2);
  if (letter === 'h') return { name: 'help', value: rest === '' ? undefined : rest.replace(/^=/, ''), shown: '-h' };
  if (letter !== 'v') {
    const whole = word.slice(1).split('=')[0] ?? '';
    throw invalid(
      `unknown shorthand flag: '${letter}' in -${rest === '' ? letter : letter + rest}${flags.has(whole) ? `; did you mean --${whole}?` : ''}`,
    );
  }
  return { name: 'v', value: rest === '' ? undefined : rest.replace(/^=/, ''), shown: '-v' };
}

function invalid(message: string): AgentError {
  return new AgentError('InvalidFlag', message);
}

function unknownFlag(flags: FlagTable, name: string, shown: string): AgentError {
  let nearest: string | undefined;
  let best = Math.max(2, Math.floor(name.length / 4)) + 1;
  for (const known of flags.keys()) {
    const distance = editDistance(name, known);
    if (distance < best) [best, nearest] = [distance, known];
  }
  return invalid(`unknown flag: ${shown}${nearest === undefined ? '' : `; did you mean --${nearest}?`}`);
}

/** How many letters must be added, removed or changed to make one word of the other. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length] ?? 0;
}

const trueWords = ['1', 't', 'T', 'true', 'TRUE', 'True'];
const falseWords = ['0', 'f', 'F', 'false', 'FALSE', 'False'];

function parseBool(text: string): boolean {
  if (trueWords.includes(text)) return true;
  if (falseWords.includes(text)) return false;
  throw new AgentError('InvalidFlag', `strconv.ParseBool: parsing "${text}": invalid syntax`);
}

function parseValue(flag: Flag, text: string, before: FlagValue | undefined): FlagValue {
  switch (flag.kind) {
    case 'bool':
      return parseBool(text);
    case 'string':
      return text;
    case 'int': {
      if (!/^[+-]?\d+$/.test(text)) throw invalid(`strconv.ParseInt: parsing "${text}": invalid syntax`);
      return Number(text);
    }
    case 'float': {
      const value = Number(text);
      if (text.trim() === '' || Number.isNaN(value)) throw invalid(`strconv.ParseFloat: parsing "${text}": invalid syntax`);
      return value;
    }
    case 'duration':
      return parseDuration(text);
    case 'ip':
      if (text !== '' && isIP(text) === 0) throw invalid(`"${text}" is not a valid IP address`);
      return text;
    case 'list':
      return [...((before as string[] | undefined) ?? []), ...(text === '' ? [] : text.split(',').map((item) => item.trim()))];
    case 'map':
      return { ...(before as Record<string, string> | undefined), ...pairs(text, '=', 'malformed pair, expect string=string') };
    case 'thresholds':
      return { ...(before as Record<string, string> | undefined), ...pairs(text, '<', 'malformed pair, expect string<string') };
    case 'pair': {
      const at = text.indexOf('=');
      if (at < 0) throw invalid('malformed pair, expect string=string');
      return { ...(before as Record<string, string> | undefined), [text.slice(0, at).trim()]: text.slice(at + 1).trim() };
    }
    case 'gates': {
      const gates: Record<string, boolean> = { ...(before as Record<string, boolean> | undefined) };
      for (const [name, value] of Object.entries(pairs(text, '=', 'malformed pair, expect string=bool'))) {
        try {
          setOwn(gates, name, parseBool(value));
        } catch (error) {
          throw new AgentError('InvalidFlag', `invalid value of ${name}: ${value}, err: ${messageOf(error)}`, { cause: error });
        }
      }
      return gates;
    }
    case 'labels': {
      const labels: Record<string, string> = { ...(before as Record<string, string> | undefined) };
      for (const item of text.split(',').filter((part) => part !== '')) {
        const at = item.indexOf('=');
        setOwn(labels, (at < 0 ? item : item.slice(0, at)).trim(), at < 0 ? '' : item.slice(at + 1).trim());
      }
      return labels;
    }
    case 'taints':
      return text === '' ? [] : parseTaints(text);
    case 'headers': {
      const headers: Record<string, string[]> = { ...(before as Record<string, string[]> | undefined) };
      for (const item of text.split(',').filter((part) => part !== '')) {
        const at = item.indexOf(':');
        if (at < 0) throw invalid('malformed pair, expect string:string');
        const name = item.slice(0, at).trim();
        setOwn(headers, name, [...(ownValue(headers, name) ?? []), item.slice(at + 1).trim()]);
      }
      return headers;
    }
    case 'reservedMemory':
      return [...((before as Record<string, unknown>[] | undefined) ?? []), ...(text === '' ? [] : text.split(';').map(parseReservation))];
    case 'vmodule':
      return text
        .split(',')
        .filter((item) => item !== '')
        .map((item) => {
          const match = /^([^=]+)=(\d+)$/.exec(item.trim());
          if (match === null) throw invalid(`"${item}" does not have the pattern=N format`);
          return { filePattern: match[1], verbosity: Number(match[2]) };
        });
    default:
      return flag.kind satisfies never;
  }
}

function pairs(text: string, separator: string, problem: string): Record<string, string> {
  const map: Record<string, string> = {};
  for (const item of text.split(',')) {
    if (item === '') continue;
    const at = item.indexOf(separator);
    if (at < 0) throw invalid(problem);
    setOwn(map, item.slice(0, at).trim(), item.slice(at + 1).trim());
  }
  return map;
}

/** Taints of `key=value:Effect,key:Effect` (pkg/util/taints). Throws AgentError InvalidFlag. */
function parseTaints(text: string): { key: string; value?: string; effect: string }[] {
  const taints: { key: string; value?: string; effect: string }[] = [];
  for (const spec of text.split(',')) {
    const match = /^([^:=]+)(?:=([^:=]*))?:([^:]*)$/.exec(spec);
    if (match === null) throw invalid(`invalid taint spec: ${spec}`);
    const [, key = '', value, effect = ''] = match;
    if (!['NoSchedule', 'PreferNoSchedule', 'NoExecute'].includes(effect))
      throw invalid(`invalid taint effect: ${effect}, unsupported taint effect`);
    const problems = [...checkQualifiedName(key), ...(value === undefined ? [] : checkLabelValue(value))];
    if (problems.length > 0) throw invalid(`invalid taint spec: ${spec}, ${problems.join('; ')}`);
    if (taints.some((t) => t.key === key && t.effect === effect)) throw invalid(`duplicated taints with the same key and effect: ${spec}`);
    taints.push({ key, ...(value === undefined || value === '' ? {} : { value }), effect });
  }
  return taints;
}

function parseReservation(text: string): { numaNode: number; limits: Record<string, string> } {
  const match = /^(\d+):([^:]+)$/.exec(text);
  if (match === null)
    throw invalid(`the reserved memory has incorrect format, expected numaNodeID:type=quantity[,type=quantity...], got ${text}`);
  const limits = pairs(match[2] ?? '', '=', `the reserved limit has incorrect value, expected type=quantity, got ${match[2]}`);
  for (const [name, value] of Object.entries(limits)) {
    if (name !== 'memory' && !name.startsWith('hugepages-')) throw invalid(`memory type conversion error, unknown type: "${name}"`);
    parseQuantity(value);
  }
  return { numaNode: Number(match[1]), limits };
}

/** The flags' part of a command's --help: each flag with its kind and what it does. */
export function flagUsageOf(flags: FlagTable): string {
  const shown = [...flags.values()].filter((flag) => flag.support.kind === 'honoured').sort((a, b) => a.name.localeCompare(b.name));
  const lines = shown.map((flag) => {
    const name = flag.name === 'v' ? '-v, --v' : flag.name === 'help' ? '-h, --help' : `    --${flag.name}`;
    return `  ${`${name}${flag.kind === 'bool' ? '' : ` ${flag.kind}`}`.padEnd(56)} ${flag.help}`;
  });
  return `${lines.join('\n')}\n`;
}
