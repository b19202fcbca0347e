// nf_tables in memory: takes what a kernel takes, refuses what it refuses, and follows packets through
// the rules. Tests run on it what they run on the kernel, and people can ask where a packet would go.
import { AgentError, unreachable } from '../../../agent/base/errors.ts';
import { addressIn } from '../../model/address.ts';
import { batchRefused } from '../backend.ts';
import type { Batch } from './batch.ts';
import type { Listing } from './listing.ts';
import type { Netfilter, SetContent } from './netfilter.ts';
import type { Action, Chain, Condition, Field, Hook, Rule } from './rule.ts';

/** The first packet of a connection, as it enters the node or leaves a process on it. */
export interface Packet {
  readonly saddr: string;
  readonly daddr: string;
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  readonly dport: number;
  /** The interface it comes in through; undefined: a process of the node sent it. */
  readonly from: string | undefined;
}

/** Where a packet ends up. */
export interface Outcome {
  /** `delivered`: to whoever has the destination. `refused`: the client is told at once. */
  readonly kind: 'delivered' | 'refused' | 'dropped';
  /** After translation. */
  readonly daddr: string;
  readonly dport: number;
  /** Its source becomes an address of the node. */
  readonly masqueraded: boolean;
  /** The chains it went through. */
  readonly path: readonly string[];
}

export interface Interpreter extends Netfilter {
  /** `isOwn` says which addresses are the node's. Every random choice gives an outcome. */
  trace(packet: Packet, isOwn: (address: string) => boolean): Outcome[];
  /** Forgets everything, as `nft flush ruleset` does. */
  flush(): void;
  readonly commands: number;
}

type Elements = Map<string, string | undefined>;

interface TableState {
  readonly sets: Map<string, Elements>;
  readonly chains: Map<string, Chain>;
}

export function createInterpreter(): Interpreter {
  let table: TableState | undefined;
  let commands = 0;

  /** Changes a copy, which becomes the table when all of it went well. */
  async function transact(change: (state: TableState) => void): Promise<void> {
    commands++;
    const copy: TableState = {
      sets: new Map([...(table?.sets ?? [])].map(([name, elements]) => [name, new Map(elements)])),
      chains: new Map(table?.chains),
    };
    change(copy);
    table = copy;
  }

  return {
    define: async (layout, contents, replace) => {
      if (replace) table = undefined;
      await transact((state) => {
        for (const { name } of layout.sets) if (!state.sets.has(name)) state.sets.set(name, new Map());
        for (const chain of layout.chains) addChain(state, chain);
        for (const content of contents) replaceContent(state, content);
      });
    },
    apply: async (batch) => await transact((state) => applyBatch(state, batch)),
    fill: async (content) => await transact((state) => replaceContent(state, content)),
    drop: async (chains, sets) =>
      await transact((state) => {
        for (const name of chains) if (!state.chains.delete(name)) refuse(`no chain ${name}`);
        for (const name of sets) if (!state.sets.delete(name)) refuse(`no set ${name}`);
      }),
    read: async (elements) => (table === undefined ? undefined : listingOf(table, elements)),
    readSet: async (set) => new Map(table?.sets.get(set)),
    routeLoopbackTo: async () => undefined,
    removeOlder: async () => undefined,
    remove: async () => {
      table = undefined;
    },
    [Symbol.asyncDispose]: async () => undefined,
    trace(packet, isOwn) {
      const outcomes: Outcome[] = [];
      for (let choice = 0, choices = 1; choice < choices; choice++) {
        const run = new Run(table, packet, isOwn, (count) => {
          choices = count;
          return choice;
        });
        outcomes.push(run.through());
      }
      return outcomes;
    },
    flush() {
      table = undefined;
    },
    get commands() {
      return commands;
    },
  };
}

function refuse(message: string): never {
  throw new AgentError(batchRefused, message);
}

function applyBatch(state: TableState, { sets, chains, elements }: Batch): void {
  for (const { name } of sets ?? []) if (!state.sets.has(name)) state.sets.set(name, new Map());
  for (const chain of chains) {
    if (state.chains.has(chain.name)) refuse(`chain ${chain.name} has its rules already`);
    addChain(state, chain);
  }
  for (const { op, set, key, value } of elements) {
    const target = state.sets.get(set) ?? refuse(`no set ${set}`);
    if (op === 'delete') {
      if (!target.has(key)) refuse(`${set}: element ${key} does not exist`);
      target.delete(key);
    } else {
      if (target.has(key) && target.get(key) !== value) refuse(`${set}: element ${key} exists`);
      requireChain(state, value);
      target.set(key, value);
    }
  }
}

function addChain(state: TableState, chain: Chain): void {
  for (const statement of chain.rules.flat()) {
    if ('do' in statement && (statement.do === 'goto' || statement.do === 'jump')) requireChain(state, `goto ${statement.chain}`);
    for (const set of namesIn(statement)) if (!state.sets.has(set)) refuse(`chain ${chain.name}: no set ${set}`);
  }
  state.chains.set(chain.name, chain);
}

function namesIn(statement: Rule[number]): string[] {
  if ('set' in statement) return [statement.set];
  if (!('map' in statement)) return [];
  return [statement.map, ...('ports' in statement && statement.ports !== undefined ? [statement.ports] : [])];
}

function requireChain(state: TableState, verdict: string | undefined): void {
  const chain = verdict?.startsWith('goto ') ? verdict.slice('goto '.length) : undefined;
  if (chain !== undefined && !state.chains.has(chain)) refuse(`no chain ${chain}`);
}

function replaceContent(state: TableState, { set, keys }: SetContent): void {
  if (!state.sets.has(set)) refuse(`no set ${set}`);
  state.sets.set(set, new Map(keys.map((key) => [key, undefined])));
}

function listingOf({ sets, chains }: TableState, elements: boolean): Listing {
  return {
    sets: new Map([...sets].map(([name, content]) => [name, elements ? new Map(content) : new Map()])),
    chains: new Map([...chains].map(([name, { rules }]) => [name, JSON.stringify(rules)])),
  };
}

type Verdict = 'accept' | 'drop' | 'refuse' | undefined;

/** One packet on its way. */
class Run {
  readonly #table: TableState | undefined;
  readonly #original: Packet;
  readonly #isOwn: (address: string) => boolean;
  readonly #choose: (count: number) => number;
  readonly #path: string[] = [];
  #daddr: string;
  #dport: number;
  #marks = new Set<number>();
  #translated = false;
  #masqueraded = false;

  constructor(table: TableState | undefined, packet: Packet, isOwn: (address: string) => boolean, choose: (count: number) => number) {
    this.#table = table;
    this.#original = packet;
    this.#isOwn = isOwn;
    this.#choose = choose;
    this.#daddr = packet.daddr;
    this.#dport = packet.dport;
  }

  /** Through the kernel's hooks, in their order. */
  through(): Outcome {
    const local = this.#original.from === undefined;
    const verdict =
      this.#hook(local ? 'output' : 'prerouting') ??
      // Where it goes is decided between: after the translation of what came in, or went out.
      (local ? undefined : this.#hook(this.#isOwn(this.#daddr) ? 'input' : 'forward')) ??
      (local || !this.#isOwn(this.#daddr) ? this.#hook('postrouting') : undefined) ??
      (local && this.#isOwn(this.#daddr) ? (this.#hook('prerouting', 'filter') ?? this.#hook('input')) : undefined);
    return {
      kind: verdict === 'drop' ? 'dropped' : verdict === 'refuse' ? 'refused' : 'delivered',
      daddr: this.#daddr,
      dport: this.#dport,
      masqueraded: this.#masqueraded,
      path: this.#path,
    };
  }

  #hook(hook: Hook['hook'], type?: Hook['type']): Verdict {
    const chains = [...(this.#table?.chains.values() ?? [])].filter(
      (chain) => chain.hook?.hook === hook && (type ?? chain.hook.type) === chain.hook.type,
    );
    for (const chain of chains.sort((a, b) => (a.hook?.priority ?? 0) - (b.hook?.priority ?? 0))) {
      const verdict = this.#chain(chain.name);
      if (verdict === 'drop' || verdict === 'refuse') return verdict;
    }
    return undefined;
  }

  /** Undefined: the chain ended, and the caller goes on. */
  #chain(name: string): Verdict {
    this.#path.push(name);
    for (const rule of this.#table?.chains.get(name)?.rules ?? []) {
      const verdict = this.#rule(rule);
      if (verdict !== undefined) return verdict === 'end' ? undefined : verdict;
    }
    return undefined;
  }

  /** `end`: a goto came back, so this chain is over as well. */
  #rule(rule: Rule): Verdict | 'end' {
    for (const statement of rule) {
      if ('if' in statement) {
        if (!this.#holds(statement)) return undefined;
        continue;
      }
      switch (statement.do) {
        case 'mark':
          this.#marks.add(statement.bit);
          break;
        case 'unmark':
          this.#marks.delete(statement.bit);
          break;
        case 'drop':
          return 'drop';
        case 'reset':
        case 'unreachable':
          return 'refuse';
        case 'masquerade':
          this.#masqueraded = true;
          return 'accept';
        case 'goto':
          return this.#chain(statement.chain) ?? 'end';
        case 'jump': {
          const verdict = this.#chain(statement.chain);
          if (verdict !== undefined) return verdict;
          break;
        }
        case 'vmap': {
          const verdict = this.#look(statement.map, statement.fields);
          if (verdict === undefined) return undefined;
          return verdict === 'drop' ? 'drop' : (this.#chain(verdict.slice('goto '.length)) ?? 'end');
        }
        case 'translate': {
          const endpoint = this.#look(statement.map, statement.fields);
          if (endpoint === undefined) return undefined;
          const [address = '', port = this.#look(statement.ports ?? '', statement.fields)] = endpoint.split(' . ');
          this.#daddr = address;
          this.#dport = Number(port);
          this.#translated = true;
          return 'accept';
        }
        case 'remember':
          this.#remember(statement);
          break;
        default:
          return unreachable(statement);
      }
    }
    return undefined;
  }

  #holds(condition: Condition): boolean {
    switch (condition.if) {
      case 'in':
        return this.#has(condition.set, condition.fields) !== (condition.not ?? false);
      case 'within': {
        const address = this.#field(condition.field);
        return condition.cidrs.some((cidr) => addressIn(address, cidr)) !== (condition.not ?? false);
      }
      case 'interface': {
        const from = this.#original.from ?? '';
        return (condition.prefix ? from.startsWith(condition.name) : from === condition.name) !== (condition.not ?? false);
      }
      case 'own':
        return this.#isOwn(this.#field(condition.field));
      case 'protocol':
        return condition.protocols.includes(this.#original.protocol);
      case 'new':
      case 'notEstablished':
        return true;
      case 'translated':
        return this.#translated !== (condition.not ?? false);
      case 'marked':
        return this.#marks.has(condition.bit);
      default:
        return unreachable(condition);
    }
  }

  #remember({ fields, map, ports }: Action & { readonly do: 'remember' }): void {
    const sets = this.#table?.sets;
    const key = this.#key(fields);
    sets?.get(map)?.set(key, ports === undefined ? `${this.#daddr} . ${this.#dport}` : this.#daddr);
    if (ports !== undefined) sets?.get(ports)?.set(key, `${this.#dport}`);
  }

  /** Of an interval set the last part of a key may be a CIDR. */
  #has(set: string, fields: readonly Field[]): boolean {
    const elements = this.#table?.sets.get(set);
    const key = this.#key(fields);
    if (elements?.has(key)) return true;
    const parts = key.split(' . ');
    const address = parts.pop() ?? '';
    return [...(elements?.keys() ?? [])].some((element) => {
      const others = element.split(' . ');
      const last = others.pop() ?? '';
      return last.includes('/') && others.join() === parts.join() && addressIn(address, last);
    });
  }

  #look(map: string, fields: readonly Field[]): string | undefined {
    return this.#table?.sets.get(map)?.get(this.#key(fields));
  }

  #key(fields: readonly Field[]): string {
    return fields.map((field) => this.#field(field)).join(' . ');
  }

  #field(field: Field): string {
    if (typeof field === 'object') return `${this.#choose(field.random)}`;
    switch (field) {
      case 'saddr':
      case 'originalSaddr':
        return this.#original.saddr;
      case 'daddr':
        return this.#daddr;
      case 'protocol':
        return this.#original.protocol;
      case 'dport':
        return `${this.#dport}`;
      case 'originalDaddr':
        return this.#original.daddr;
      case 'originalDport':
        return `${this.#original.dport}`;
      default:
        return unreachable(field);
    }
  }
}
