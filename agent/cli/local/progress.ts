import type { Clock } from '../../base/clock.ts';
import type { LocalStatus } from '../../server/local.ts';
import { formatTook, isReady, isSettled, shortName, stateOf, stepWords, told } from './describe.ts';

/** Tells a person what is going on: on a terminal in place, elsewhere line by line. */
export interface Progress {
  /** Runs a step and tells how long it took; what it resolves to is told beside its name. */
  step<T>(name: string, work: () => Promise<T>, tell?: (result: T) => string): Promise<T>;
  line(text: string): void;
  /** Shows the pods as they are now. */
  pods(status: LocalStatus): void;
  /** Leaves what is shown standing. */
  settle(): void;
}

interface Output {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): boolean;
}

export function createProgress(out: Output, clock: Clock): Progress {
  const tty = out.isTTY === true;
  // Lines of the block that is drawn over.
  let drawn = 0;
  const seen = new Set<string>();
  const erase = (): string => (drawn === 0 ? '' : `\x1b[${drawn}A\x1b[J`);
  const line = (text: string): void => {
    out.write(`${erase()}${text}\n`);
    drawn = 0;
  };
  const draw = (lines: readonly string[]): void => {
    const width = (out.columns ?? 80) - 1;
    out.write(`${erase()}${lines.map((text) => `${text.slice(0, width)}\n`).join('')}`);
    drawn = lines.length;
  };
  return {
    line,
    async step(name, work, tell) {
      const startedAt = clock.mono();
      if (tty) draw([`  … ${name}`]);
      try {
        const result = await work();
        const words = tell?.(result) ?? '';
        line(`  ✓ ${name}${words === '' ? '' : `: ${words}`} (${formatTook(clock.mono() - startedAt)})`);
        return result;
      } catch (error) {
        line(`  ✗ ${name} (${formatTook(clock.mono() - startedAt)})`);
        throw error;
      }
    },
    pods(status) {
      if (tty) draw(podBlock(status));
      else for (const text of podNews(status, seen)) line(text);
    },
    settle() {
      drawn = 0;
    },
  };
}

/** The pods with their steps, as they stand: one line a pod, one a step. */
function podBlock(status: LocalStatus): string[] {
  const lines: string[] = [];
  for (const local of status.pods) {
    const { pod, activity } = local;
    const mark = isSettled(local) ? '✓' : '…';
    const ip = pod.status?.podIP;
    lines.push(`  ${mark} ${shortName(pod, status.node)}: ${stateOf(local)}${isReady(local) ? ', ready' : ''}${ip ? `, ${ip}` : ''}`);
    for (const { step, tookMs, error } of activity?.steps.slice(-8) ?? [])
      lines.push(
        `      ${error === undefined ? '✓' : '✗'} ${stepWords(step)} (${formatTook(tookMs)})${error === undefined ? '' : `: ${error.split('\n')[0]}`}`,
      );
    for (const { subject, message } of isSettled(local) ? [] : (activity?.waiting ?? []))
      lines.push(`      … ${subject === '' ? '' : `${subject}: `}${message}`);
  }
  for (const { origin, message } of status.problems) lines.push(`  ✗ ${told(origin, message).split('\n')[0]}`);
  for (const { origin, message } of status.passedOver) lines.push(`  - ${told(origin, message).split('\n')[0]}`);
  return lines;
}

/** What is new since the last call, as lines; `seen` remembers. */
export function podNews(status: LocalStatus, seen: Set<string>): string[] {
  const lines: string[] = [];
  const tell = (key: string, text: string): void => {
    if (seen.has(key)) return;
    seen.add(key);
    lines.push(text);
  };
  for (const local of status.pods) {
    const { pod, activity } = local;
    const { uid } = pod.metadata;
    const name = shortName(pod, status.node);
    for (const { step, startedAt, tookMs, error } of activity?.steps ?? [])
      tell(
        `${uid} ${step} ${startedAt}`,
        `  ${error === undefined ? '✓' : '✗'} ${name}: ${stepWords(step)} (${formatTook(tookMs)})${error === undefined ? '' : `: ${error}`}`,
      );
    const state = `${stateOf(local)}${isReady(local) ? ', ready' : ''}`;
    tell(`${uid} ${state}`, `  ${isSettled(local) ? '✓' : '…'} ${name}: ${state}${pod.status?.podIP ? `, ${pod.status.podIP}` : ''}`);
  }
  for (const { origin, message } of status.problems) tell(`${origin} ${message}`, `  ✗ ${told(origin, message)}`);
  for (const { origin, message } of status.passedOver) tell(`${origin} ${message}`, `  - ${told(origin, message)}`);
  return lines;
}
