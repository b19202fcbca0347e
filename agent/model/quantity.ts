import { AgentError } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';

// Suffixes of resource quantities (k8s.io/apimachinery/pkg/api/resource): binary ones are powers of 1024, decimal ones of 1000.
const binary: Record<string, bigint> = { Ki: 1n << 10n, Mi: 1n << 20n, Gi: 1n << 30n, Ti: 1n << 40n, Pi: 1n << 50n, Ei: 1n << 60n };
const decimalExponent: Record<string, number> = { n: -9, u: -6, m: -3, '': 0, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };
const grammar = /^([+-]?)(\d+\.?\d*|\.\d+)(?:(Ki|Mi|Gi|Ti|Pi|Ei)|([numkMGTPE]?)|[eE]([+-]?\d+))$/;
const nano = 1_000_000_000n;

/** A quantity in units of 10⁻⁹, rounded up as upstream does. Throws AgentError InvalidQuantity. */
function parseNano(text: string | number): bigint {
  const match = grammar.exec(String(text).trim());
  if (match === null) throw new AgentError('InvalidQuantity', `"${text}" is not a resource quantity (examples: 500m, 1.5, 64Mi, 2G)`);
  const [, sign, digits = '', binarySuffix, decimalSuffix, exponentText] = match;
  const [whole = '', fraction = ''] = digits.split('.');
  let numerator = BigInt(whole + fraction);
  let denominator = 10n ** BigInt(fraction.length);
  if (binarySuffix !== undefined) numerator *= ownValue(binary, binarySuffix) ?? 1n;
  else {
    const exponent = exponentText !== undefined ? Number(exponentText) : (ownValue(decimalExponent, decimalSuffix ?? '') ?? 0);
    if (exponent >= 0) numerator *= 10n ** BigInt(exponent);
    else denominator *= 10n ** BigInt(-exponent);
  }
  const scaled = numerator * nano;
  const up = scaled % denominator === 0n ? scaled / denominator : scaled / denominator + 1n;
  return sign === '-' ? -up : up;
}

function ceilDiv(value: bigint, by: bigint): bigint {
  const q = value / by;
  return value > 0n && value % by !== 0n ? q + 1n : q;
}

/** The value in whole units (bytes, cores, pods), rounded up like Quantity.Value(). Throws AgentError InvalidQuantity. */
export function parseQuantity(text: string | number): number {
  return Number(ceilDiv(parseNano(text), nano));
}

/** The value in thousandths (millicores), rounded up like Quantity.MilliValue(). Throws AgentError InvalidQuantity. */
export function parseMilli(text: string | number): number {
  return Number(ceilDiv(parseNano(text), 1_000_000n));
}

/** `value` over `divisor`, rounded up: what a resourceFieldRef shows. Throws AgentError InvalidQuantity. */
export function quantityOver(value: string | number, divisor: string | number): bigint {
  const by = parseNano(divisor);
  return by === 0n ? ceilDiv(parseNano(value), nano) : ceilDiv(parseNano(value), by);
}

/** True when both say the same amount, however written. */
export function sameQuantity(a: string | number, b: string | number): boolean {
  return parseNano(a) === parseNano(b);
}

/** The sum in canonical text; binary suffixes when either side has one. */
export function addQuantity(a: string, b: string): string {
  return formatNano(parseNano(a) + parseNano(b), /[KMGTPE]i$/.test(a) || /[KMGTPE]i$/.test(b));
}

/** `a - b` in canonical text. */
export function subtractQuantity(a: string, b: string): string {
  return formatNano(parseNano(a) - parseNano(b), /[KMGTPE]i$/.test(a) || /[KMGTPE]i$/.test(b));
}

/** Negative, zero or positive as `a` is less than, equal to or more than `b`. */
export function compareQuantity(a: string | number, b: string | number): number {
  const difference = parseNano(a) - parseNano(b);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

/** Canonical text of a number of bytes with a binary suffix: 1073741824 → 1Gi, 1500 → 1500. */
export function formatBinary(bytes: number): string {
  return formatNano(BigInt(Math.ceil(bytes)) * nano, true);
}

/** Canonical text of a number of millicores: 2000 → 2, 1500 → 1500m. */
export function formatMilli(milli: number): string {
  return formatNano(BigInt(Math.ceil(milli)) * 1_000_000n, false);
}

function formatNano(value: bigint, preferBinary: boolean): string {
  if (value === 0n) return '0';
  const sign = value < 0n ? '-' : '';
  const abs = value < 0n ? -value : value;
  if (preferBinary && abs % nano === 0n) {
    const whole = abs / nano;
    for (const suffix of ['Ei', 'Pi', 'Ti', 'Gi', 'Mi', 'Ki']) {
      const unit = ownValue(binary, suffix) ?? 1n;
      if (whole % unit === 0n) return `${sign}${whole / unit}${suffix}`;
    }
    return `${sign}${whole}`;
  }
  for (const [suffix, exponent] of [
    ['E', 18],
    ['P', 15],
    ['T', 12],
    ['G', 9],
    ['M', 6],
    ['k', 3],
    ['', 0],
    ['m', -3],
    ['u', -6],
  ] as const) {
    const unit = 10n ** BigInt(exponent + 9);
    if (abs % unit === 0n) return `${sign}${abs / unit}${suffix}`;
  }
  return `${sign}${abs}n`;
}
