import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { nodeFeatureGates } from '../../../agent/config/feature-gates.ts';
import { areas, compatibilityPage, fields, gates, parseState } from '../../../scripts/generate-compatibility.ts';

const repository = join(import.meta.dirname, '../../..');

/** The generated types: field → type, by interface. */
function apiTypes(): Map<string, Map<string, string>> {
  const text = readFileSync(join(repository, 'agent/model/generated/api.ts'), 'utf8');
  const types = new Map<string, Map<string, string>>();
  for (const [, name = '', body = ''] of text.matchAll(/export interface (\w+) \{\n([\s\S]*?)\n\}/g)) {
    const found = [...body.matchAll(/^ {2}'?([\w$-]+)'?\??: (.*);$/gm)].map(([, field = '', type = '']): [string, string] => [field, type]);
    types.set(name, new Map(found));
  }
  return types;
}

function reachable(types: Map<string, Map<string, string>>, from: string, seen = new Set<string>()): Set<string> {
  const own = types.get(from);
  if (own === undefined || seen.has(from)) return seen;
  seen.add(from);
  for (const type of own.values()) for (const word of type.match(/\w+/g) ?? []) reachable(types, word, seen);
  return seen;
}

test('every field that can be reached from PodSpec has its line, and nothing else has', () => {
  const types = apiTypes();
  const wanted = [...reachable(types, 'PodSpec')].flatMap((type) =>
    [...(types.get(type)?.keys() ?? [])].map((field) => `${type}.${field}`),
  );
  const listed = Object.entries(fields).flatMap(([type, table]) => Object.keys(table).map((field) => `${type}.${field}`));
  assert.ok(wanted.length > 400, `only ${wanted.length} fields were found: has the form of the generated types changed?`);
  assert.deepEqual(
    wanted.filter((field) => !listed.includes(field)),
    [],
    'new fields: honour or refuse them, then say so in docs/compatibility/fields.json',
  );
  assert.deepEqual(
    listed.filter((field) => !wanted.includes(field)),
    [],
    'lines of fields that are no more',
  );
});

test('every feature gate of a kubelet has its line, and nothing else has', () => {
  assert.deepEqual(Object.keys(gates).sort(), [...nodeFeatureGates()].sort());
});

test('every line has a state, and all but "works" say more', () => {
  for (const table of [...Object.values(fields), gates, ...Object.values(areas)]) for (const text of Object.values(table)) parseState(text);
});

test('docs/compatibility.md is what the data says: node scripts/generate-compatibility.ts', () => {
  assert.equal(readFileSync(join(repository, 'docs/compatibility.md'), 'utf8'), compatibilityPage());
});
