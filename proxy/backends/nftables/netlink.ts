// Elements by netlink, in the place of the nft binary: it needs a third of the time, and does not care for what others have
// put into the kernel (nft 1.0.6 crashes on sets of newer versions, kubernetes#136786). Structure stays with the text.
import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import type { Family } from '../../model/address.ts';
import type { NetfilterMessage } from '../../netlink.ts';
import { batchRefused } from '../backend.ts';
import { isOurTable, tableName } from './layout.ts';
import type { Netfilter } from './netfilter.ts';
import { deleteTable, dumpElements, dumpTables, elementMessages, fillMessages, parseElements, parseTableName, schemaOf } from './wire.ts';

/** A socket of NETLINK_NETFILTER. Errors are AgentErrors with the errno's code. */
export interface NetfilterSocket {
  /** Sends messages as one transaction. Resolves with what the kernel refused; undefined when all took effect. */
  transaction(messages: readonly NetfilterMessage[]): Promise<Refusal | undefined>;
  /** Payloads of the answer. Throws `Interrupted` when what is listed changed meanwhile. */
  dump(message: NetfilterMessage): Promise<readonly Buffer[]>;
}

export interface Refusal {
  readonly error: AgentError;
  /** Undefined when it is about the transaction as such. */
  readonly message: NetfilterMessage | undefined;
}

// What the kernel says of a content; whatever else it says is about memory, rights or the socket.
const judged = [
  'AlreadyExists',
  'NotFound',
  'InvalidArgument',
  'Busy',
  'NotSupported',
  'TooManyFiles',
  'NoSpace',
  'ERANGE',
  'E2BIG',
  'EMLINK',
];

/** A listing that others make inconsistent so many times in a row is left to the next audit. */
const mostDumps = 20;

/** `text` does what is more than elements. It is closed with this. */
export function createNetlinkElements(family: Family, text: Netfilter, socket: NetfilterSocket): Netfilter {
  async function send(messages: readonly NetfilterMessage[]): Promise<void> {
    if (messages.length === 0) return;
    const refusal = await socket.transaction(messages);
    if (refusal === undefined) return;
    if (refusal.message === undefined || !judged.includes(refusal.error.code)) throw refusal.error;
    throw new AgentError(batchRefused, refusal.error.message, { cause: refusal.error });
  }

  async function dump(message: NetfilterMessage, signal: AbortSignal): Promise<readonly Buffer[]> {
    for (let turn = 1; ; turn++) {
      try {
        return await socket.dump(message);
      } catch (error) {
        if (!hasCode(error, 'Interrupted') || turn === mostDumps) throw error;
        signal.throwIfAborted();
      }
    }
  }

  async function elementsOf(set: string, signal: AbortSignal): Promise<ReadonlyMap<string, string | undefined>> {
    try {
      return parseElements(family, set, await dump(dumpElements(family, set), signal));
    } catch (error) {
      if (hasCode(error, 'NotFound')) return new Map();
      throw error;
    }
  }

  async function removeTables(which: (name: string) => boolean, signal: AbortSignal): Promise<void> {
    const names = (await dump(dumpTables(family), signal)).map(parseTableName);
    await send(names.filter((name) => isOurTable(name) && which(name)).map((name) => deleteTable(family, name)));
  }

  return {
    define: (...given) => text.define(...given),
    async apply(batch, signal) {
      const { chains, sets = [], elements } = batch;
      const messages = chains.length + sets.length > 0 ? undefined : elementMessages(family, elements);
      if (messages === undefined) await text.apply(batch, signal);
      else await send(messages);
    },
    fill: async ({ set, keys }) => await send(fillMessages(family, set, keys)),
    drop: (...given) => text.drop(...given),
    async read(elements, signal) {
      const listing = await text.read(false, signal);
      if (listing === undefined || !elements) return listing;
      const sets = new Map<string, ReadonlyMap<string, string | undefined>>();
      for (const set of listing.sets.keys()) sets.set(set, schemaOf(set) === undefined ? new Map() : await elementsOf(set, signal));
      return { ...listing, sets };
    },
    readSet: elementsOf,
    routeLoopbackTo: (...given) => text.routeLoopbackTo(...given),
    removeOlder: (signal) => removeTables((name) => name !== tableName, signal),
    remove: (signal) => removeTables(() => true, signal),
    [Symbol.asyncDispose]: () => text[Symbol.asyncDispose](),
  };
}
