// Rules as text, in one spelling: what we write, and what iptables-save printed, can be compared.
import type { Family } from '../../model/address.ts';
import type { Protocol } from '../../model/service-row.ts';

/** What a rule asks and does; all but the jump may be missing. */
export interface RuleFacts {
  /** With `!` in front: not from here. */
  readonly source?: string | undefined;
  readonly destination?: string | undefined;
  readonly input?: string | undefined;
  readonly protocol?: Protocol | undefined;
  readonly port?: number | undefined;
  readonly comment?: string | undefined;
  /** `-m` and what follows, one string a module. */
  readonly matches?: readonly string[];
  /** What follows `-j`; undefined: it only carries a comment. */
  readonly jump: string | undefined;
}

export const ownDestination = '-m addrtype --dst-type LOCAL';
export const ownSource = '-m addrtype --src-type LOCAL';

/** A rule in the one spelling, without the chain. */
export function ruleText(facts: RuleFacts): string {
  const negatable = (option: string, value: string): string =>
    value.startsWith('!') ? `! ${option} ${value.slice(1)}` : `${option} ${value}`;
  const { source, destination, input, protocol, port, comment, matches = [], jump } = facts;
  return spell([
    ...(source === undefined ? [] : [negatable('-s', source)]),
    ...(destination === undefined ? [] : [negatable('-d', destination)]),
    ...(input === undefined ? [] : [negatable('-i', input)]),
    ...(protocol === undefined ? [] : [`-p ${protocol}`]),
    ...(comment === undefined ? [] : [`-m comment --comment ${quote(comment)}`]),
    ...(port === undefined ? [] : [`-m ${protocol} --dport ${port}`]),
    ...matches,
    ...(jump === undefined ? [] : [`-j ${jump}`]),
  ]);
}

/** The comment module's own limit is 256 bytes with the zero at its end. */
const longestComment = 255;

/** A name in a comment must not end it: names of manifests are no API server's. */
function quote(comment: string): string {
  return `"${comment.replace(/[^ !#-[\]-~]/g, '?').slice(0, longestComment)}"`;
}

/** An address as iptables-save prints it. */
export function single(family: Family, address: string): string {
  return `${address}/${family === 'ip' ? 32 : 128}`;
}

/** 1/n as upstream words it, with ten digits, in the steps that the kernel keeps it in. */
export function probability(n: number): string {
  return inKernelSteps((1 / n).toFixed(10));
}

const steps = 2 ** 31;

function inKernelSteps(text: string): string {
  return (Math.round(Number(text) * steps) / steps).toFixed(11);
}

/**
 * The one spelling of a rule that iptables-save printed. Versions and variants differ in the order
 * of matches and in quotes; the order of a rule's matches means nothing here.
 */
export function canonical(rule: string): string {
  const parts: string[][] = [];
  let negated = false;
  for (const word of wordsOf(rule)) {
    if (word === '!') {
      negated = true;
      continue;
    }
    // A `!` before a module's option belongs to the module.
    if (/^-[sdiopjgm]$/.test(word)) parts.push(negated ? ['!', word] : [word]);
    else parts.at(-1)?.push(...(negated ? ['!', word] : [word]));
    negated = false;
  }
  return spell(parts.filter((part) => !isBareProtocol(part)).map((part) => part.map(respell).join(' ')));
}

/** `-m tcp` without options says no more than `-p tcp`. */
function isBareProtocol(part: readonly string[]): boolean {
  return part.length === 2 && part[0] === '-m' && /^(tcp|udp|sctp)$/.test(part[1] ?? '');
}

function respell(word: string, index: number, part: readonly string[]): string {
  if (part[index - 1] === '--comment') return `"${word}"`;
  return part[index - 1] === '--probability' ? inKernelSteps(word) : word;
}

/** Words, without quotes around them. */
function wordsOf(rule: string): string[] {
  return [...rule.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(([, quoted, bare]) => quoted?.replace(/\\(.)/g, '$1') ?? bare ?? '');
}

const ranks = ['-s', '-d', '-i', '-o', '-p', '-m', '-j', '-g'];
const rankOf = (part: string): number => ranks.indexOf(part.replace(/^! /, '').slice(0, 2));

function spell(parts: readonly string[]): string {
  return [...parts].sort((a, b) => rankOf(a) - rankOf(b) || (a < b ? -1 : Number(a > b))).join(' ');
}

/** The value of an option in the one spelling. */
export function optionOf(rule: string, option: string): string | undefined {
  const words = wordsOf(rule);
  const at = words.indexOf(option);
  return at < 0 ? undefined : words[at + 1];
}
