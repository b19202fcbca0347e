// What a test came to, and sums of that: pure, so that the last line of a run can be trusted.

/** One test, one spec or one check. `file` tells where it is; a skip says why in `message`. */
export interface Outcome {
  readonly kind: 'passed' | 'failed' | 'skipped';
  readonly name: string;
  readonly file: string;
  readonly message: string;
  readonly seconds: number;
}

export interface Sum {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

export const nothing: Sum = { passed: 0, failed: 0, skipped: 0 };

export function addSums(a: Sum, b: Sum): Sum {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed, skipped: a.skipped + b.skipped };
}

export function sumOf(outcomes: readonly Outcome[]): Sum {
  const count = (kind: Outcome['kind']): number => outcomes.filter((outcome) => outcome.kind === kind).length;
  return { passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
}

export function sumText({ passed, failed, skipped }: Sum): string {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

/** The sum a command ended its output with; undefined when there is none. */
export function parseSum(output: string): Sum | undefined {
  const found = [...output.matchAll(/^(\d+) passed, (\d+) failed, (\d+) skipped$/gm)].at(-1);
  return found === undefined ? undefined : { passed: Number(found[1]), failed: Number(found[2]), skipped: Number(found[3]) };
}

/** The part of node:test's `test:complete` that counts here. */
export interface Completed {
  readonly name: string;
  readonly file?: string | undefined;
  readonly skip?: string | boolean | undefined;
  readonly todo?: string | boolean | undefined;
  readonly details: {
    readonly passed: boolean;
    readonly duration_ms: number;
    readonly type?: string | undefined;
    readonly error?: { readonly message: string; readonly failureType?: string; readonly cause?: unknown } | undefined;
  };
}

/** Whether this is node:test's wrapper around a whole file rather than a test in it: it is named like the file. */
export function isFile({ name, file }: Pick<Completed, 'name' | 'file'>): boolean {
  return file !== undefined && /\.ts$/.test(name) && (file === name || file.endsWith(`/${name}`));
}

/**
 * What the end of a test, suite or file counts as; undefined when its parts have said it all. A suite counts when it skips itself or its hooks fail, a
 * file when it crashed.
 */
export function outcomeOf(completed: Completed): Outcome | undefined {
  const { name, details, skip, todo } = completed;
  const outcome = (kind: Outcome['kind'], message: string): Outcome => ({
    kind,
    name,
    file: completed.file ?? '',
    message,
    seconds: details.duration_ms / 1000,
  });
  const reason = (why: string | boolean): string => (typeof why === 'string' ? why : '');
  if (skip !== undefined && skip !== false) return outcome('skipped', reason(skip));
  if (todo !== undefined && todo !== false) return outcome('skipped', `to do ${reason(todo)}`.trim());
  if (!details.passed) {
    if (details.error?.failureType === 'subtestsFailed') return undefined;
    const cause = details.error?.cause;
    return outcome('failed', cause instanceof Error ? (cause.stack ?? cause.message) : String(cause ?? details.error?.message ?? ''));
  }
  return details.type === 'suite' || isFile(completed) ? undefined : outcome('passed', '');
}

/** A line of the file that a stage's reporter writes and the run reads, also when the stage was cut short. */
export type Line = { readonly begun: string } | { readonly ended: string } | { readonly outcome: Outcome };

/** Reads such lines: all outcomes, and the files that began and did not end. A last line that is cut off is left out. */
export function readLines(text: string): { outcomes: Outcome[]; unfinished: string[] } {
  const outcomes: Outcome[] = [];
  const unfinished = new Set<string>();
  for (const each of text.slice(0, text.lastIndexOf('\n') + 1).split('\n')) {
    if (each === '') continue;
    const line = JSON.parse(each) as Line;
    if ('outcome' in line) outcomes.push(line.outcome);
    else if ('begun' in line) unfinished.add(line.begun);
    else unfinished.delete(line.ended);
  }
  return { outcomes, unfinished: [...unfinished] };
}
