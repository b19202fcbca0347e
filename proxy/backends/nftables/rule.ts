// The rules of the nftables backend as data: printed for `nft`, and followed by the interpreter.
import { unreachable } from '../../../agent/base/errors.ts';
import type { Family } from '../../model/address.ts';

/**
 * A part of a packet or its connection. `original…` are those of the connection's first packet,
 * before any translation. `random` is a number below a rule's `count`.
 */
export type Field =
  | 'saddr'
  | 'daddr'
  | 'protocol'
  | 'dport'
  | 'originalSaddr'
  | 'originalDaddr'
  | 'originalDport'
  | { readonly random: number };

/** A part of a rule, in order: where a condition does not hold, the next rule has its turn. */
export type Statement = Condition | Action;

export type Condition =
  /** The fields together are, or are not, an element of a set. */
  | { readonly if: 'in'; readonly fields: readonly Field[]; readonly set: string; readonly not?: true }
  /** An address lies, or does not lie, in one of these CIDRs. */
  | { readonly if: 'within'; readonly field: 'saddr' | 'daddr'; readonly cidrs: readonly string[]; readonly not?: true }
  /** The packet came in through this interface, or one whose name begins so. */
  | { readonly if: 'interface'; readonly name: string; readonly prefix: boolean; readonly not?: true }
  /** The address is one of this host's own. */
  | { readonly if: 'own'; readonly field: 'saddr' | 'daddr' }
  | { readonly if: 'protocol'; readonly protocols: readonly string[] }
  /** The packet is the first one of its connection. */
  | { readonly if: 'new' }
  /** The connection is neither established nor related to one that is. */
  | { readonly if: 'notEstablished' }
  /** Somebody gave the connection another destination, or nobody did. */
  | { readonly if: 'translated'; readonly not?: true }
  /** Our bit of the mark is set. */
  | { readonly if: 'marked'; readonly bit: number };

export type Action =
  | { readonly do: 'mark' | 'unmark'; readonly bit: number }
  /** Goes where the map says; without an element the next statement has its turn. */
  | { readonly do: 'vmap'; readonly fields: readonly Field[]; readonly map: string }
  | { readonly do: 'jump' | 'goto'; readonly chain: string }
  | { readonly do: 'drop' | 'masquerade' | 'reset' | 'unreachable' }
  /** Sends the connection to the address and port that the map has; without one, goes on. */
  | { readonly do: 'translate'; readonly fields: readonly Field[]; readonly map: string; readonly ports?: string }
  /** Remembers the connection's endpoint for its client, for some seconds. */
  | {
      readonly do: 'remember';
      readonly fields: readonly Field[];
      readonly map: string;
      readonly ports?: string;
      readonly seconds: number;
    };

// With `ports`, `map` has the address and that one the port: what nft 1.0.6 can write for IPv6.

export type Rule = readonly Statement[];

/** Where a chain is called by the kernel. */
export interface Hook {
  readonly type: 'nat' | 'filter';
  readonly hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
  /** A number: nft 1.0.6 refuses the name `dstnat` in the output hook. */
  readonly priority: number;
}

export interface Chain {
  readonly name: string;
  /** Undefined for chains that only others call. */
  readonly hook: Hook | undefined;
  readonly rules: readonly Rule[];
}

/** A set (`map` undefined) or a map. */
export interface NftSet {
  readonly name: string;
  readonly kind: 'set' | 'map';
  /** As written after the opening brace, such as `type ipv4_addr; flags interval;`. */
  readonly spec: string;
}

/** The text of a rule in the language of nft 1.0.6. */
export function ruleText(rule: Rule, family: Family): string {
  return rule.map((statement) => statementText(statement, family)).join(' ');
}

function statementText(statement: Statement, family: Family): string {
  if ('if' in statement) return conditionText(statement, family);
  switch (statement.do) {
    case 'mark':
      return `meta mark set meta mark or ${hexBit(statement.bit)}`;
    case 'unmark':
      return `meta mark set meta mark xor ${hexBit(statement.bit)}`;
    case 'vmap':
      return `${fieldsText(statement.fields, family)} vmap @${statement.map}`;
    case 'jump':
    case 'goto':
      return `${statement.do} ${statement.chain}`;
    case 'drop':
      return 'drop';
    case 'reset':
      return 'reject with tcp reset';
    case 'unreachable':
      return 'reject';
    case 'masquerade':
      return 'masquerade fully-random';
    case 'translate': {
      const lookup = (map: string): string => `${fieldsText(statement.fields, family)} map @${map}`;
      return `dnat ${family} to ${lookup(statement.map)}${statement.ports === undefined ? '' : ` : ${lookup(statement.ports)}`}`;
    }
    case 'remember': {
      const key = `${fieldsText(statement.fields, family)} timeout ${statement.seconds}s`;
      const update = (map: string, ...value: Field[]): string => `update @${map} { ${key} : ${fieldsText(value, family)} }`;
      const { map, ports } = statement;
      return ports === undefined ? update(map, 'daddr', 'dport') : `${update(map, 'daddr')} ${update(ports, 'dport')}`;
    }
    default:
      return unreachable(statement);
  }
}

function conditionText(statement: Condition, family: Family): string {
  switch (statement.if) {
    case 'in':
      return `${fieldsText(statement.fields, family)} ${statement.not ? '!= ' : ''}@${statement.set}`;
    case 'within':
      return `${fieldText(statement.field, family)} ${statement.not ? '!= ' : ''}{ ${statement.cidrs.join(', ')} }`;
    case 'interface':
      return `iifname ${statement.not ? '!= ' : ''}"${statement.name}${statement.prefix ? '*' : ''}"`;
    case 'own':
      return `fib ${statement.field} type local`;
    case 'protocol':
      return `meta l4proto { ${statement.protocols.join(', ')} }`;
    case 'new':
      return 'ct state new';
    case 'notEstablished':
      return 'ct state != { established, related }';
    case 'translated':
      return statement.not ? 'ct status & dnat == 0' : 'ct status dnat';
    case 'marked':
      return `meta mark and ${hexBit(statement.bit)} != 0`;
    default:
      return unreachable(statement);
  }
}

function fieldsText(fields: readonly Field[], family: Family): string {
  return fields.map((field) => fieldText(field, family)).join(' . ');
}

function fieldText(field: Field, family: Family): string {
  if (typeof field === 'object') return `numgen random mod ${field.random}`;
  switch (field) {
    case 'saddr':
    case 'daddr':
      return `${family} ${field}`;
    case 'protocol':
      return 'meta l4proto';
    case 'dport':
      return 'th dport';
    case 'originalSaddr':
      return `ct original ${family} saddr`;
    case 'originalDaddr':
      return `ct original ${family} daddr`;
    case 'originalDport':
      return 'ct original proto-dst';
    default:
      return unreachable(field);
  }
}

function hexBit(bit: number): string {
  return `0x${(2 ** bit).toString(16)}`;
}
