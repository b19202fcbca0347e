import { utf8Length } from './file-text.ts';

// What a scalar of YAML means to Kubernetes: the rules of go-yaml v2 (go.yaml.in/yaml/v2 resolve.go, decode.go), through which sigs.k8s.io/yaml reads
// every file. They are YAML 1.1's with exceptions: base 60 is text, a date is text, and Go's ways to write a number count.

/** A scalar as the document has it. */
export interface ScalarText {
  readonly text: string;
  /** True without quotes and block indicators: what it looks like counts. */
  readonly plain: boolean;
  /** The full tag; empty without one. */
  readonly tag: string;
}

/** What a scalar means. Go keeps integers and floats apart, which shows where one is a key. */
export type ScalarValue =
  | { readonly kind: 'null' }
  | { readonly kind: 'bool'; readonly value: boolean }
  | { readonly kind: 'int'; readonly value: bigint }
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'text'; readonly value: string };

const core = 'tag:yaml.org,2002:';

const words: ReadonlyMap<string, ScalarValue> = new Map<string, ScalarValue>([
  ...['y', 'Y', 'yes', 'Yes', 'YES', 'true', 'True', 'TRUE', 'on', 'On', 'ON'].map(
    (word) => [word, { kind: 'bool', value: true }] as const,
  ),
  ...['n', 'N', 'no', 'No', 'NO', 'false', 'False', 'FALSE', 'off', 'Off', 'OFF'].map(
    (word) => [word, { kind: 'bool', value: false }] as const,
  ),
  ...['', '~', 'null', 'Null', 'NULL'].map((word) => [word, { kind: 'null' }] as const),
  ...['.nan', '.NaN', '.NAN'].map((word) => [word, { kind: 'float', value: Number.NaN }] as const),
  ...['.inf', '.Inf', '.INF', '+.inf', '+.Inf', '+.INF'].map((word) => [word, { kind: 'float', value: Infinity }] as const),
  ...['-.inf', '-.Inf', '-.INF'].map((word) => [word, { kind: 'float', value: -Infinity }] as const),
]);

/** The value of a scalar; a string instead says what is wrong with it. */
export function resolveScalar({ text, plain, tag }: ScalarText): ScalarValue | string {
  if (tag === '' && !plain) return { kind: 'text', value: text };
  if (tag === `${core}binary`) return fromBase64(text);
  const [, name] = /^tag:yaml\.org,2002:(str|bool|int|float|null|timestamp)$/.exec(tag) ?? [];
  // A tag that it does not know leaves the text as it is.
  if (tag !== '' && name === undefined) return { kind: 'text', value: text };
  if (name === 'str') return { kind: 'text', value: text };
  if (name === 'timestamp' && isTimestamp(text)) return { kind: 'text', value: text };
  const found = meaningOf(text);
  if (name === undefined || name === found.kind) return found;
  if (name === 'float' && found.kind === 'int' && found.value <= maxInt64) return { kind: 'float', value: Number(found.value) };
  return `\`${text}\` is no !!${name}`;
}

/** What plain text means by its looks. */
function meaningOf(text: string): ScalarValue {
  const word = words.get(text);
  if (word !== undefined) return word;
  const asText: ScalarValue = { kind: 'text', value: text };
  if (text.startsWith('.'))
    return /^\.[0-9]+(_[0-9]+)*([eE][-+]?[0-9]+(_[0-9]+)*)?$/.test(text) ? finite(text.replaceAll('_', ''), asText) : asText;
  if (!/^[-+0-9]/.test(text)) return asText;
  const digits = text.replaceAll('_', '');
  const whole = integerOf(digits);
  if (whole !== undefined) return { kind: 'int', value: whole };
  return /^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$/.test(digits) ? finite(digits, asText) : asText;
}

function finite(text: string, otherwise: ScalarValue): ScalarValue {
  const value = Number(text);
  // What is too large for a float64 stays text.
  return Number.isFinite(value) ? { kind: 'float', value } : otherwise;
}

const maxInt64 = 2n ** 63n - 1n;

// By prefix: JavaScript's prefix and the digits that may follow.
const bases = {
  '': ['', /^[0-9]+$/],
  '0': ['0o', /^[0-7]+$/],
  '0b': ['0b', /^[01]+$/],
  '0o': ['0o', /^[0-7]+$/],
  '0x': ['0x', /^[0-9a-f]+$/i],
} as const;

/** Go's ParseInt and ParseUint with base 0, and go-yaml's own `0b` before a sign. Undefined for what is neither or does not fit 64 bits. */
function integerOf(text: string): bigint | undefined {
  const [, sign, prefix = '', body = ''] = /^([-+]?)(0[bBoOxX](?=.)|0(?=.)|)(.*)$/s.exec(text) ?? [];
  const [base, digits] = bases[prefix.toLowerCase() as keyof typeof bases] ?? bases[''];
  if (digits.test(body)) {
    const value = BigInt(base + body);
    if (sign === '-') return value <= maxInt64 + 1n ? -value : undefined;
    return value <= (sign === '+' ? maxInt64 : 2n ** 64n - 1n) ? value : undefined;
  }
  const [, signed, bits] = /^0b([-+])([01]+)$/.exec(text) ?? [];
  if (bits === undefined) return undefined;
  const value = BigInt(`0b${bits}`);
  return value <= maxInt64 ? (signed === '-' ? -value : value) : undefined;
}

/** A key of JSON from a key of YAML (sigs.k8s.io/yaml convertToJSONableObject); undefined for what cannot be one. */
export function keyText(value: ScalarValue): string | undefined {
  switch (value.kind) {
    case 'text':
      return value.value;
    case 'bool':
      return String(value.value);
    case 'int':
      return value.value <= maxInt64 ? String(value.value) : undefined;
    case 'float':
      return float32Text(value.value);
    case 'null':
      return undefined;
  }
}

/** Go's FormatFloat(value, 'g', -1, 32), with YAML's names for what is no number. */
function float32Text(value: number): string {
  const single = Math.fround(value);
  if (Number.isNaN(single)) return '.nan';
  if (!Number.isFinite(single)) return single > 0 ? '.inf' : '-.inf';
  if (single === 0) return Object.is(single, -0) ? '-0' : '0';
  // The fewest digits that still mean the same float32.
  let shortest = single.toExponential(8);
  for (let digits = 0; digits < 8; digits++) {
    const candidate = single.toExponential(digits);
    if (Math.fround(Number(candidate)) !== single) continue;
    shortest = candidate;
    break;
  }
  const [mantissa = '', power = '0'] = shortest.split('e');
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 6) return `${mantissa}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
  const significant = mantissa.replace(/[-.]/g, '').length;
  return Number(shortest).toFixed(Math.max(0, significant - 1 - exponent));
}

function fromBase64(text: string): ScalarValue | string {
  const compact = text.replace(/[\r\n]/g, '');
  if (compact.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(compact)) return '!!binary with what is no base64';
  return { kind: 'text', value: goUtf8(Buffer.from(compact, 'base64')) };
}

/** Bytes as text where each byte that is no UTF-8 becomes U+FFFD, as in Go; TextDecoder has one for several of them. */
function goUtf8(bytes: Buffer): string {
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const length = utf8Length(bytes, at);
    text += length === 0 ? '\ufffd' : bytes.toString('utf8', at, at + length);
    at += Math.max(1, length);
  }
  return text;
}

const timestamp =
  /^(\d{4})-(\d{1,2})-(\d{1,2})(?:[Tt](\d{1,2}):(\d{1,2}):(\d{1,2})([.,]\d+)?(?:Z|[-+](\d{2}):(\d{2}))| (\d{1,2}):(\d{1,2}):(\d{1,2})([.,]\d+)?)?$/;

/** The forms that go-yaml knows of the type timestamp. */
function isTimestamp(text: string): boolean {
  const match = timestamp.exec(text);
  if (match === null) return false;
  const [year, month, day, hour, minute, second] = [
    match[1],
    match[2],
    match[3],
    match[4] ?? match[10],
    match[5] ?? match[11],
    match[6] ?? match[12],
  ].map((part) => Number(part ?? 0)) as [number, number, number, number, number, number];
  const date = new Date(Date.UTC(2000, 0, 1));
  date.setUTCFullYear(year, month - 1, day);
  return month >= 1 && month <= 12 && day >= 1 && date.getUTCDate() === day && hour < 24 && minute < 60 && second < 60;
}
