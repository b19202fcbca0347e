// A transaction as data: elements that come and go, and chains that come before them.
import type { Family } from '../../model/address.ts';
import { type Layout, tableName } from './layout.ts';
import { type Chain, type NftSet, ruleText } from './rule.ts';

/** An element of a set or map; `value` undefined in a set. All of it as nft writes it. */
export interface Element {
  readonly set: string;
  /** `10.96.0.1 . tcp . 80`. */
  readonly key: string;
  /** `goto pick-5`, `10.1.0.7 . 8080`. */
  readonly value: string | undefined;
}

export interface ElementOp extends Element {
  readonly op: 'add' | 'delete';
}

/** Either all of it takes effect at once, or nothing. */
export interface Batch {
  readonly family: Family;
  /** Sets and maps that the table does not have yet. */
  readonly sets?: readonly NftSet[];
  /** Chains that the table does not have yet, in an order in which each comes after those it names. */
  readonly chains: readonly Chain[];
  /** In order: a key whose value changes is deleted first. */
  readonly elements: readonly ElementOp[];
}

export function isEmpty({ chains, elements }: Batch): boolean {
  return chains.length === 0 && elements.length === 0;
}

/** Commands for `nft -f`, or joined by `; ` for one line of `nft -i`. */
export function batchCommands({ family, sets = [], chains, elements }: Batch): string[] {
  const table = `${family} ${tableName}`;
  const commands = [
    ...sets.map(({ name, kind, spec }) => `add ${kind} ${table} ${name} { ${spec} }`),
    ...chains.flatMap(({ name, rules }) => [
      `add chain ${table} ${name}`,
      ...rules.map((rule) => `add rule ${table} ${name} ${ruleText(rule, family)}`),
    ]),
  ];
  let run: ElementOp[] = [];
  const flush = (): void => {
    const [first] = run;
    if (first === undefined) return;
    commands.push(`${first.op} element ${table} ${first.set} { ${run.map(elementText).join(', ')} }`);
    run = [];
  };
  for (const element of elements) {
    if (run[0] !== undefined && (run[0].op !== element.op || run[0].set !== element.set)) flush();
    run.push(element);
  }
  flush();
  return commands;
}

function elementText({ key, value }: Element): string {
  return value === undefined ? key : `${key} : ${value}`;
}

/**
 * Everything of the layout, in one transaction that may be repeated: sets keep their elements, and
 * rules are made anew without a moment without them.
 */
export function layoutText({ family, sets, chains }: Layout): string {
  const table = `${family} ${tableName}`;
  return [
    `add table ${table} { comment "keelson: Services of Kubernetes"; }`,
    ...sets.map(({ name, kind, spec }) => `add ${kind} ${table} ${name} { ${spec} }`),
    ...chains.map((chain) => `add chain ${table} ${chain.name}${hookText(chain)}`),
    ...chains.map(({ name }) => `flush chain ${table} ${name}`),
    ...chains.flatMap(({ name, rules }) => rules.map((rule) => `add rule ${table} ${name} ${ruleText(rule, family)}`)),
    '',
  ].join('\n');
}

/** Replaces the elements of a set that is no frontend's: addresses of node ports, Service CIDRs. */
export function setText(family: Family, set: string, keys: readonly string[]): string {
  const table = `${family} ${tableName}`;
  const fill = keys.length === 0 ? [] : [`add element ${table} ${set} { ${keys.join(', ')} }`];
  return [`flush set ${table} ${set}`, ...fill, ''].join('\n');
}

function hookText({ hook }: Chain): string {
  return hook === undefined ? '' : ` { type ${hook.type} hook ${hook.hook} priority ${hook.priority}; }`;
}
