// The kernel's nf_tables as this backend uses it: one table of ours a family. By text (`text.ts`) and in
// memory (`interpreter.ts`).
import type { Batch } from './batch.ts';
import type { Layout } from './layout.ts';
import type { Listing } from './listing.ts';

/** The elements of a set that are no frontend's, all of them. */
export interface SetContent {
  readonly set: string;
  readonly keys: readonly string[];
}

/**
 * Errors of what changes something: AgentError `BatchRefused` when the content was judged and
 * nothing changed; any other when it is not known whether something did.
 */
export interface Netfilter extends AsyncDisposable {
  /**
   * Makes the table with all of the layout, in one transaction. May be repeated: sets keep their
   * elements, and rules are made anew without a moment without them. `replace`: the table that is
   * there goes, in the same transaction.
   */
  define(layout: Layout, contents: readonly SetContent[], replace: boolean, signal: AbortSignal): Promise<void>;
  apply(batch: Batch, signal: AbortSignal): Promise<void>;
  /** Replaces the elements of a set. */
  fill(content: SetContent, signal: AbortSignal): Promise<void>;
  /** Removes chains, in this order, and sets that nothing refers to any more. */
  drop(chains: readonly string[], sets: readonly string[], signal: AbortSignal): Promise<void>;
  /** What is there, with elements or without; undefined when there is no table. */
  read(elements: boolean, signal: AbortSignal): Promise<Listing | undefined>;
  /** The elements of one set alone; empty when it is not there. */
  readSet(set: string, signal: AbortSignal): Promise<ReadonlyMap<string, string | undefined>>;
  /** Lets connections from loopback go to these IPv4 addresses, once the table translates them. */
  routeLoopbackTo(addresses: readonly string[], signal: AbortSignal): Promise<void>;
  /** Removes tables that other versions of this backend left. */
  removeOlder(signal: AbortSignal): Promise<void>;
  /** Removes all tables of ours; none is fine. */
  remove(signal: AbortSignal): Promise<void>;
}
