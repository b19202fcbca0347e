import { AgentError } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';

const unitMs: Record<string, number> = { ns: 1e-6, us: 1e-3, µs: 1e-3, μs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
const part = /(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/y;

/** Milliseconds of a Go duration ("1h0m0s", "300ms", "-1s", "0"). Throws AgentError InvalidDuration. */
export function parseDuration(text: string): number {
  const fail = (): never => {
    throw new AgentError('InvalidDuration', `time: invalid duration "${text}" (examples: 300ms, 10s, 1m30s, 2h)`);
  };
  const sign = text.startsWith('-') ? -1 : 1;
  const body = /^[+-]/.test(text) ? text.slice(1) : text;
  if (body === '0') return 0;
  let total = 0;
  part.lastIndex = 0;
  while (part.lastIndex < body.length) {
    const match = part.exec(body);
    if (match === null) return fail();
    total += Number(match[1]) * (ownValue(unitMs, match[2] ?? '') ?? 0);
  }
  return body === '' ? fail() : sign * total;
}

/** The text that Go prints for a duration of `ms` milliseconds: 0s, 250ms, 10s, 1m30s, 2h0m0s. */
export function formatDuration(ms: number): string {
  if (ms === 0) return '0s';
  const sign = ms < 0 ? '-' : '';
  const value = Math.abs(ms);
  if (value < 1e-3) return `${sign}${trim(value * 1e6)}ns`;
  if (value < 1) return `${sign}${trim(value * 1e3)}µs`;
  if (value < 1000) return `${sign}${trim(value)}ms`;
  const hours = Math.floor(value / 3_600_000);
  const minutes = Math.floor(value / 60_000) % 60;
  const seconds = trim((value % 60_000) / 1000);
  if (hours > 0) return `${sign}${hours}h${minutes}m${seconds}s`;
  return minutes > 0 ? `${sign}${minutes}m${seconds}s` : `${sign}${seconds}s`;
}

// Nanoseconds are the finest that Go's durations hold.
function trim(value: number): string {
  return String(Number(value.toFixed(9)));
}
