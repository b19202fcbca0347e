// What the loop asks of a backend, and nothing of how: nftables, iptables and IPVS stand behind it.
import type { Cidr, Family } from '../model/address.ts';
import type { Frontend } from '../model/frontend.ts';
import type { DetectLocal, NodePortAddresses } from '../model/node.ts';

/** What a backend has to know besides frontends, in its family. */
export interface BackendSettings {
  readonly detectLocal: DetectLocal;
  /** Masquerade connections to cluster IPs whoever makes them. */
  readonly masqueradeAll: boolean;
  /** The one bit of the packet mark that is ours, 0 to 31 (masqueradeBit, 14 by default). */
  readonly masqueradeBit: number;
  readonly nodePorts: NodePortAddresses;
  /** Connections to their addresses that no Service has are dropped after the first full sync. */
  readonly serviceCidrs: readonly Cidr[];
}

/** What a frontend is to become; `frontend` undefined: it goes. */
export interface Change {
  readonly key: string;
  readonly frontend: Frontend | undefined;
}

/**
 * A backend of one family. It holds what the kernel last acknowledged, and lists the kernel only
 * in `open` and `audit`. The loop calls one method at a time.
 *
 * Errors of `apply` are of two kinds:
 * - AgentError `BatchRefused`: the kernel or its tool judged the content and changed nothing. The
 *   loop halves the batch until the culprit is alone.
 * - anything else: whether the batch took effect is unknown (the tool crashed, timed out or is
 *   missing). The loop calls `open` before it goes on, after a back-off.
 */
export interface Backend extends AsyncDisposable {
  readonly family: Family;
  /** For logs and people: `nftables`, `iptables`, `ipvs`. */
  readonly name: string;
  /** Least time between transactions, ms; 0 where a transaction costs what it changes. */
  readonly minIntervalMs: number;
  /**
   * Makes the structure that frontends need and reads back which frontends the kernel has, of an
   * earlier run or of before a failure; what is there keeps working and is not touched.
   * Returns the keys of all it found. Called again after a failure or a failed audit.
   */
  open(settings: BackendSettings, signal: AbortSignal): Promise<ReadonlySet<string>>;
  /**
   * Brings frontends to what they are to be, in one transaction: all of it or, when it throws
   * `BatchRefused`, nothing. A change that is nothing new costs nothing. Endpoints in use by
   * frontends that are not in `changes` are not touched.
   */
  apply(changes: readonly Change[], signal: AbortSignal): Promise<void>;
  /**
   * Everything wanted has been applied once, and what was left over is gone: unknown addresses of
   * `serviceCidrs` may be dropped from now on.
   */
  complete(signal: AbortSignal): Promise<void>;
  /** Carries over new settings (the node's addresses changed) without touching frontends. */
  configure(settings: BackendSettings, signal: AbortSignal): Promise<void>;
  /**
   * Whether the kernel still has what was acknowledged. `structure` looks at what does not grow
   * with Services and is cheap; `everything` reads all frontends back.
   */
  audit(depth: 'structure' | 'everything', signal: AbortSignal): Promise<boolean>;
  /** How many rules there are by table, for backends that are measured by them: iptables. */
  ruleCounts?(): readonly RuleCount[];
}

export interface RuleCount {
  readonly table: string;
  /** Those of Services in the kernel. */
  readonly total: number;
  /** Those that the last transaction wrote. */
  readonly last: number;
}

/** The code of an AgentError that says a batch's content was refused and nothing changed. */
export const batchRefused = 'BatchRefused';
