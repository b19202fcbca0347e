import { AgentError, hasCode } from '../agent/base/errors.ts';
import { batchRefused, type Change } from './backends/backend.ts';

/** Changes of one Service, which stand or fall together. */
export interface ServiceChanges {
  /** `namespace/name`. */
  readonly service: string;
  readonly changes: readonly Change[];
}

/** How a batch ended: by Service, in the order they were applied. */
export interface BatchResult {
  readonly applied: readonly ServiceChanges[];
  /** Services whose changes the kernel refuses even alone. */
  readonly refused: readonly { readonly batch: ServiceChanges; readonly error: AgentError }[];
}

/** So many culprits, and so many others from all over the batch too: the kernel or its tool refuses everything. */
const hopeless = 8;

/**
 * Applies the changes of many Services in one transaction. When it is refused, each half is tried
 * by itself, down to single Services: one culprit among n costs 2·log2(n) transactions, and
 * everybody else's changes are in. Errors that blame nobody are thrown, and so is the refusal when
 * many Services are refused and none is not: then it is not their fault. `onApplied` has heard by
 * then of what is in.
 */
export async function applyHalving(
  batches: readonly ServiceChanges[],
  apply: (changes: readonly Change[]) => Promise<void>,
  onApplied: (batches: readonly ServiceChanges[]) => void,
): Promise<BatchResult> {
  const applied: ServiceChanges[] = [];
  const refused: { batch: ServiceChanges; error: AgentError }[] = [];

  async function attempt(part: readonly ServiceChanges[]): Promise<void> {
    const [first] = part;
    if (first === undefined) return;
    try {
      await apply(part.flatMap(({ changes }) => changes));
    } catch (error) {
      if (!hasCode(error, batchRefused)) throw error;
      if (part.length === 1) {
        refused.push({ batch: first, error });
        if (applied.length === 0 && refused.length === hopeless && !(await anyOtherWorks()))
          throw new AgentError('BackendFailed', error.message, { cause: error });
        return;
      }
      const middle = part.length >> 1;
      await attempt(part.slice(0, middle));
      await attempt(part.slice(middle));
      return;
    }
    applied.push(...part);
    onApplied(part);
  }

  /** The culprits may be those who come first, such as all of one namespace: they must not keep everybody else waiting. */
  async function anyOtherWorks(): Promise<boolean> {
    const others = batches.slice(batches.indexOf(refused[hopeless - 1]?.batch as ServiceChanges) + 1);
    const stride = Math.max(1, Math.floor(others.length / hopeless));
    for (const other of others.filter((_, index) => index % stride === stride - 1).slice(0, hopeless)) {
      try {
        await apply(other.changes);
      } catch (error) {
        if (!hasCode(error, batchRefused)) throw error;
        continue;
      }
      // It comes again with its half, which costs nothing: it is nothing new then.
      applied.push(other);
      onApplied([other]);
      return true;
    }
    return false;
  }

  await attempt(batches);
  return { applied, refused };
}
