import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { AgentError } from '../../../agent/base/errors.ts';
import { decodeFileText } from '../../../agent/model/file-text.ts';
import { describeRepeated } from '../../../agent/model/repeated-key.ts';
import { maxDepth, readAllYaml, readYaml, writeYaml } from '../../../agent/model/yaml.ts';
import { documents } from './yaml/documents.ts';
import { exceptions, inputs } from './yaml/inputs.ts';
import { type Answer, askUpstream } from './yaml/upstream.ts';

const recorded = JSON.parse(readFileSync(join(import.meta.dirname, 'yaml/upstream.json'), 'utf8')) as (Answer & { input: string })[];

/** JSON with sorted keys: what two values have to share. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

/** What our reader makes of a document: its JSON, or undefined when it refuses it. Fails on any error but the clear one. */
function ours(document: string | Uint8Array): string | undefined {
  try {
    return canonical(readYaml(decodeFileText(Buffer.from(document)))?.value ?? null);
  } catch (error) {
    assert.ok(error instanceof AgentError, String(error));
    assert.match(error.code, /^Invalid(Yaml|Text)$/);
    return undefined;
  }
}

const theirs = ({ json, error }: Answer): string | undefined => (error === undefined ? canonical(json) : undefined);

/** What is not as upstream has it, in words. */
function difference(document: string | Uint8Array, answer: Answer): string | undefined {
  const [mine, upstream] = [ours(document), theirs(answer)];
  if (mine === upstream || answer.ambiguous === true) return undefined;
  return `${JSON.stringify(Buffer.from(document).toString())}: ${mine ?? 'refused'}, upstream ${upstream ?? `refuses it: ${answer.error}`}`;
}

describe('YAML as Kubernetes reads it', () => {
  test('the table of inputs is the one that upstream was asked about', () => {
    assert.deepEqual(
      recorded.map(({ input }) => input),
      inputs,
      'run node scripts/generate-yaml-table.ts',
    );
  });

  test('each input means what upstream makes of it, with the listed exceptions', () => {
    const found = recorded.flatMap((answer) => {
      const differs = difference(answer.input, answer);
      return differs === undefined || exceptions.some(({ input }) => input.test(answer.input)) ? [] : [differs];
    });
    assert.deepEqual(found, []);
  });

  test('each exception is still one', () => {
    const stale = exceptions.filter(
      ({ input }) => !recorded.some((answer) => input.test(answer.input) && difference(answer.input, answer) !== undefined),
    );
    assert.deepEqual(stale, []);
  });

  test('upstream says today what the table says, and agrees on random documents', { timeout: 240_000 }, async () => {
    // The same ones on every run, so that a run fails for its change alone; another number looks further.
    const seed = Number(process.env.KEELSON_YAML_SEED ?? 1);
    const random = fc.sample(documents, { numRuns: 6000, seed });
    const answers = await askUpstream([...inputs, ...random]);
    assert.deepEqual(
      answers.slice(0, inputs.length).map(theirs),
      recorded.map(theirs),
      'upstream has changed: run node scripts/generate-yaml-table.ts',
    );
    const read = random.flatMap((document, i) => {
      const answer = answers[inputs.length + i] ?? { error: 'no answer' };
      // What upstream refuses may have a meaning here.
      return answer.error === undefined ? [difference(document, answer)] : [];
    });
    assert.ok(read.length > random.length / 4, `only ${read.length} of ${random.length} documents can be read at all`);
    assert.deepEqual(
      read.filter((differs) => differs !== undefined),
      [],
      `seed ${seed}`,
    );
  });

  test('a JSON value that is written is read back as it was, by both readers', { timeout: 240_000 }, async () => {
    const values = fc.sample(fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue({ stringUnit: 'binary' })), {
      numRuns: 1500,
      seed: 7,
    });
    const words = [
      'yes',
      'n',
      '0777',
      '0o777',
      '12:30',
      '1_000',
      '.5_0',
      '0b-1',
      '<<',
      '',
      '~',
      '=',
      '1e3',
      ' a ',
      'a\n',
      '\n',
      '#',
      '- a',
      'a: b',
      '@a',
    ];
    values.push(...words.map((word) => ({ [word]: word, list: [word, { [word]: [word] }] })));
    const texts = values.map((value) => writeYaml(value));
    for (const [i, text] of texts.entries()) assert.equal(canonical(readYaml(text)?.value ?? {}), canonical(values[i]), text);
    const answers = await askUpstream(texts);
    for (const [i, answer] of answers.entries()) assert.equal(theirs(answer), canonical(values[i]), texts[i] ?? '');
  });

  test('no bytes throw anything but the clear error', () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 60 }), fc.string({ unit: 'binary' }), documents), (bytes) => void ours(bytes)),
      { numRuns: 5000 },
    );
    const bits = [
      'a',
      ': ',
      ':',
      ' ',
      '\n',
      '\n  ',
      '- ',
      '? ',
      '{',
      '}',
      '[',
      ']',
      ',',
      '&x ',
      '*x',
      '!!str ',
      '!',
      '|',
      '>',
      '#',
      '---\n',
      '"',
      "'",
      '\\',
      '\t',
      '<<: ',
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...bits), { maxLength: 30 }), (parts) => void ours(parts.join(''))),
      { numRuns: 5000 },
    );
  });
});

describe('YAML: bombs', () => {
  const refused = (text: string, says: RegExp): void => {
    const startedAt = process.hrtime.bigint();
    assert.throws(() => readYaml(text), { code: 'InvalidYaml', message: says });
    assert.ok(process.hrtime.bigint() - startedAt < 10_000_000_000n, 'took more than 10 s');
  };

  test('aliases of aliases', () => {
    const levels = Array.from({ length: 12 }, (_, i) => `a${i + 1}: &a${i + 1} [${Array(9).fill(`*a${i}`).join(', ')}]`);
    refused(`a0: &a0 [x, x, x]\n${levels.join('\n')}\n`, /excessive aliasing/);
    const merges = Array.from({ length: 30 }, (_, i) => `m${i + 1}: &m${i + 1} {a: *m${i}, b: *m${i}, <<: *m${i}}`);
    refused(`m0: &m0 {x: 1}\n${merges.join('\n')}\n`, /excessive aliasing/);
  });

  test('depth, whatever it is made of', () => {
    const many = 20_000;
    for (const text of [
      '['.repeat(many),
      '{a: '.repeat(many),
      '- '.repeat(many),
      `${'['.repeat(many)}${']'.repeat(many)}`,
      '? '.repeat(many),
    ])
      refused(text, /nested/);
    refused(Array.from({ length: 3000 }, (_, i) => `${' '.repeat(i)}a:\n`).join(''), /nested deeper than 500 levels/);
    refused(`{"a":`.repeat(many) + '1' + '}'.repeat(many), /nested/);
    const chain = Array.from({ length: 2000 }, (_, i) => `a${i + 1}: &a${i + 1} [*a${i}]`).join('\n');
    refused(`a0: &a0 x\n${chain}\n`, /nested|aliasing/);
  });

  test(`${maxDepth} levels are read`, () => {
    const inside = maxDepth - 1;
    let value = readYaml(`a: ${'['.repeat(inside)}${']'.repeat(inside)}`)?.value as unknown;
    value = (value as { a: unknown }).a;
    let depth = 0;
    for (; Array.isArray(value); value = value[0]) depth++;
    assert.equal(depth, inside);
  });

  test('size: ten thousand lines of every kind take no time to speak of', () => {
    const many = 10_000;
    const startedAt = process.hrtime.bigint();
    for (const line of ['a: b', '- a', '"a": "b"', '- {a: [1, 2]}', '- |\n  x', '# a', '', '- "a\nb"', '- [a,\nb]']) {
      try {
        readYaml(`${line}\n`.repeat(many));
      } catch (error) {
        assert.ok(error instanceof AgentError, String(error));
      }
    }
    assert.ok(process.hrtime.bigint() - startedAt < 20_000_000_000n);
  });
});

describe('YAML: documents and keys', () => {
  test('empty and comment-only documents are nothing', () => {
    assert.equal(readYaml(''), undefined);
    assert.equal(readYaml('---\n# nothing\n---\n...\n'), undefined);
    assert.deepEqual(readYaml('---\n---\n# License\n---\na: 1\n---\nb: 2\n')?.value, { a: 1 });
    assert.deepEqual(
      readAllYaml('---\n# c\n---\na: 1\n---\n---\nb: 2\n---\n').map(({ value }) => value),
      [{ a: 1 }, { b: 2 }],
    );
    assert.deepEqual(
      readAllYaml('a: [1,\n2]\n---\nb: "x\ny"\n').map(({ value }) => value),
      [{ a: [1, 2] }, { b: 'x y' }],
    );
  });

  test('what comes after the first document is not looked at', () => {
    assert.deepEqual(readYaml('a: 1\n---\nb: [\n')?.value, { a: 1 });
    assert.throws(() => readAllYaml('a: 1\n---\nb: [\n'), { code: 'InvalidYaml', message: /^line \d: / });
  });

  test('the last of two like keys counts, and each is told with line and place', () => {
    const text = 'spec:\n  containers:\n  - name: a\n    image: x\n    image: z\nspec2: {a: 1, "a": 2}\nspec2: 3\n';
    const { value, repeated } = readYaml(text) ?? assert.fail();
    assert.deepEqual(value, { spec: { containers: [{ name: 'a', image: 'z' }] }, spec2: 3 });
    assert.deepEqual(repeated, [
      { key: 'image', at: 'spec.containers[0]', line: 5 },
      { key: 'a', at: 'spec2', line: 6 },
      { key: 'spec2', at: '', line: 7 },
    ]);
    assert.deepEqual(repeated.map(describeRepeated)[0], 'line 5: the key "image" stands more than once in spec.containers[0]');
    assert.deepEqual(readYaml('{"a": {"b": [1, {"c": 1,\n"c": 2}]}}')?.repeated, [{ key: 'c', at: 'a.b[1]', line: 2 }]);
    assert.deepEqual(readYaml('base: &b {a: 1}\nm:\n  <<: *b\n  a: 2\n')?.repeated, []);
  });

  test('names that JavaScript knows are names like others', () => {
    const value = readYaml('__proto__: {a: 1}\nconstructor: 2\n')?.value as object;
    assert.deepEqual(Object.keys(value).sort(), ['__proto__', 'constructor']);
    assert.equal(Object.getPrototypeOf(value), Object.prototype);
  });

  test('an error names the line', () => {
    assert.throws(() => readYaml('a: 1\nb: [1\nc: 2\n'), { code: 'InvalidYaml', message: /^line \d: / });
    assert.throws(() => readYaml('a: 1\r\nb: *x\r\n'), { message: "line 2: unknown anchor 'x' referenced" });
    assert.throws(() => readYaml('a: 1\nb: \u0001\n'), { message: 'line 2: control characters are not allowed: U+0001' });
    assert.throws(() => readYaml('a: 1\nb:\n  c: .inf\n'), { message: 'line 3: unsupported value: .inf (JSON has no such number)' });
  });
});

describe('the text of a file', () => {
  const text = 'a: é😀\nb: 2\n';
  const wide = Buffer.from(text, 'utf16le');
  const swapped = Buffer.from(wide).swap16();

  test('UTF-8 and UTF-16 with its mark are read, as upstream does', async () => {
    const files = [
      Buffer.from(text),
      Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), Buffer.from(text)]),
      Buffer.concat([Buffer.from([0xff, 0xfe]), wide]),
      Buffer.concat([Buffer.from([0xfe, 0xff]), swapped]),
    ];
    for (const file of files) assert.equal(decodeFileText(file), text);
    for (const [i, answer] of (await askUpstream(files)).entries()) assert.equal(difference(files[i] ?? '', answer), undefined);
  });

  const cases: Record<string, { bytes: Uint8Array; says: RegExp }> = {
    'UTF-16 without its mark': { bytes: wide, says: /looks like UTF-16 without a byte order mark: save the file as UTF-8/ },
    'big-endian UTF-16 without its mark': { bytes: swapped, says: /UTF-16 without/ },
    'UTF-32': { bytes: Buffer.from([0xff, 0xfe, 0, 0, 0x61, 0, 0, 0]), says: /UTF-32/ },
    'half a character of UTF-16': { bytes: Buffer.from([0xff, 0xfe, 0x61, 0, 0x00]), says: /UTF-16LE with a broken character/ },
    'Latin-1': {
      bytes: Buffer.from('a: 1\nb: 2\nc: Zürich\n', 'latin1'),
      says: /the byte 0xfc in line 3 is no UTF-8 \(the file may be Latin-1/,
    },
    'a character cut off at the end': { bytes: Buffer.from('a: é').subarray(0, 4), says: /the byte 0xc3 in line 1/ },
    'a surrogate in UTF-8': { bytes: Buffer.from([0x61, 0x0a, 0xed, 0xa0, 0x80]), says: /the byte 0xed in line 2/ },
  };
  for (const [name, { bytes, says }] of Object.entries(cases))
    test(`${name} is named`, () => {
      assert.throws(() => decodeFileText(bytes), { code: 'InvalidText', message: says });
    });

  test('the byte that is named is the first that is wrong', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme' }),
        fc.constantFrom(0xe4, 0xff, 0x80, 0xc0),
        fc.string({ minLength: 1 }),
        (before, byte, after) => {
          const head = Buffer.from(`x${before}`);
          const line = head.filter((each) => each === 0x0a).length + 1;
          const bytes = Buffer.concat([head, Buffer.from([byte]), Buffer.from(`x${after}`)]);
          assert.throws(() => decodeFileText(bytes), { message: new RegExp(`the byte 0x${byte.toString(16)} in line ${line} `) });
        },
      ),
    );
  });
});
