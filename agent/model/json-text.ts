import type { RepeatedKey } from './repeated-key.ts';

const token = /"(?:[^"\\]|\\.)*"|-?\d[-+.\deE]*|[{}[\],:\n]/g;

interface Open {
  /** The names of an object so far; undefined for a list. */
  readonly keys: Set<string> | undefined;
  readonly at: string;
  index: number;
  key: string | undefined;
}

/**
 * A text that is one JSON object, read by JSON's own rules, as Kubernetes does with what begins with a brace (apimachinery util/yaml IsJSONBuffer).
 * Undefined when it is anything else: it may still be YAML.
 */
export function readJson(text: string, maxDepth: number): { value: unknown; repeated: RepeatedKey[] } | undefined {
  if (!/^[\ufeff\s]*\{/.test(text)) return undefined;
  let value: unknown;
  try {
    // Half a surrogate pair becomes U+FFFD, as in Go.
    const wellFormed = (_: string, inner: unknown): unknown => (typeof inner === 'string' ? inner.toWellFormed() : inner);
    value = JSON.parse(text.replace(/^\ufeff/, ''), /\\ud/i.test(text) ? wellFormed : undefined);
  } catch {
    return undefined;
  }
  const repeated: RepeatedKey[] = [];
  const open: Open[] = [];
  let line = 1;
  let isKey = false;
  const pathOf = (inside: Open | undefined): string => {
    if (inside === undefined) return '';
    if (inside.keys === undefined) return `${inside.at}[${inside.index}]`;
    return inside.at === '' ? (inside.key ?? '') : `${inside.at}.${inside.key}`;
  };
  for (const [word] of text.matchAll(token)) {
    const inside = open.at(-1);
    if (word === '\n') line++;
    else if (word === '{' || word === '[') {
      open.push({ keys: word === '{' ? new Set() : undefined, at: pathOf(inside), index: 0, key: undefined });
      isKey = word === '{';
      // The YAML reader says what is wrong with it.
      if (open.length > maxDepth) return undefined;
    } else if (word === '}' || word === ']') open.pop();
    else if (word === ',') {
      isKey = inside?.keys !== undefined;
      if (inside !== undefined) inside.index++;
    } else if (word === ':') isKey = false;
    else if (isKey && inside?.keys !== undefined) {
      const key = JSON.parse(word) as string;
      if (inside.keys.has(key)) repeated.push({ key, at: inside.at, line });
      inside.keys.add(key);
      inside.key = key;
    } else if (!word.startsWith('"') && !Number.isFinite(Number(word))) return undefined;
  }
  return { value, repeated };
}
