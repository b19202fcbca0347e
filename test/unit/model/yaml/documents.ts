// YAML as people, editors and templates write it, made at random: every style of every node, comments, anchors, merges, line breaks, and now and then a slip
// of the finger.
import fc from 'fast-check';

/** Scalars as they stand in a file. Much of it looks like something else than it is. */
const scalars = [
  '02:42:ac:11:00:02',
  '12:30:45',
  '2222:22',
  '0777',
  '0o777',
  '0b11',
  '0b-1',
  '0x1F',
  '1_000',
  '-12',
  '+7',
  '08',
  '0',
  '1.10',
  '1e3',
  '1e999',
  '.5',
  '.5_0',
  '-0.0',
  '9223372036854775808',
  '18446744073709551616',
  '123456789.123',
  '0.00001',
  'yes',
  'No',
  'on',
  'y',
  'n',
  'True',
  '~',
  'null',
  '',
  '2001-12-14t21:59:43.10-05:00',
  '2001-12-14',
  '=',
  '-a',
  ':a',
  'http://h:1/p#q',
  'two words',
  'a,b',
  "it's",
  'say "x"',
  'é😀',
  'back\\slash',
  '--flag=value',
  '*.example.com',
  '&amp',
  '!x',
  '%d',
  '@x',
  '`x`',
  '{{ .Values.x }}',
  '[x',
  '# x',
  'x # y',
  'x#y',
  'key: value',
  'v1.36.1',
  '10Mi',
  '100m',
  '<<',
  ' padded ',
  'a\ttab',
  'two\nlines',
  'two\n\nparagraphs\n',
  'ends\n\n\n',
  '  indented\nless\n',
  '\nleading',
  '.inf',
  '-.INF',
  '.nan',
] as const;

const tags = [
  '!!str ',
  '!!int ',
  '!!float ',
  '!!bool ',
  '!!null ',
  '!!binary ',
  '!!timestamp ',
  '!local ',
  '! ',
  '!!map ',
  '!!seq ',
  '!!omap ',
];

type Shape = { kind: 'scalar'; text: string } | { kind: 'map'; entries: [string, Shape][] } | { kind: 'seq'; items: Shape[] };

const shapes = fc.letrec<{ value: Shape; scalar: Shape; map: Shape; seq: Shape }>((tie) => ({
  value: fc.oneof({ maxDepth: 4 }, tie('scalar'), tie('scalar'), tie('map'), tie('seq')),
  scalar: fc.record({ kind: fc.constant('scalar' as const), text: fc.constantFrom(...scalars) }),
  map: fc.record({
    kind: fc.constant('map' as const),
    entries: fc.array(fc.tuple(fc.oneof(fc.constantFrom('a', 'b', 'c', 'name'), fc.constantFrom(...scalars)), tie('value')), {
      minLength: 1,
      maxLength: 4,
    }),
  }),
  seq: fc.record({ kind: fc.constant('seq' as const), items: fc.array(tie('value'), { minLength: 1, maxLength: 4 }) }),
}));

/** Draws what the writer of a document decides as it goes. */
class Choices {
  readonly #numbers: readonly number[];
  #at = 0;
  readonly anchors: string[] = [];

  constructor(numbers: readonly number[]) {
    this.#numbers = numbers;
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  below(count: number): number {
    return (this.#numbers[this.#at++ % this.#numbers.length] ?? 0) % count;
  }

  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
}

const pad = (indent: number): string => ' '.repeat(indent);

function properties(choices: Choices): string {
  let text = '';
  if (choices.once(12)) {
    const name = choices.of(['x', 'base', 'a-1']);
    choices.anchors.push(name);
    text += `&${name} `;
  }
  if (choices.once(16)) text += choices.of(tags);
  return text;
}

function quoted(text: string, choices: Choices): string {
  if (choices.once(2)) return `'${text.replaceAll("'", "''").replaceAll('\n', '\n\n')}'`;
  return JSON.stringify(text);
}

function flowScalar(text: string, choices: Choices): string {
  const isPlain = !/[\n,[\]{}#]|^[-?:&*!|>'"%@`]|^ | $|: |:$/.test(text) && text !== '';
  return isPlain && !choices.once(5) ? text : quoted(text, choices).replaceAll('\n', ' ');
}

function flow(shape: Shape, choices: Choices): string {
  const before = properties(choices);
  if (choices.anchors.length > 0 && choices.once(20)) return `*${choices.of(choices.anchors)}`;
  const gap = choices.of(['', ' ', '  ']);
  const comma = choices.of([',', ', ', ' , ']);
  switch (shape.kind) {
    case 'scalar':
      return before + flowScalar(shape.text, choices);
    case 'seq':
      return `${before}[${gap}${shape.items.map((item) => flow(item, choices)).join(comma)}${choices.once(6) ? ',' : ''}${gap}]`;
    case 'map':
      return `${before}{${gap}${shape.entries.map(([key, value]) => `${flowScalar(key, choices)}: ${flow(value, choices)}`).join(comma)}${gap}}`;
  }
}

function ending(choices: Choices): string {
  return `${choices.of(['', '', '', '', ' ', '  # a comment', ' #', '\t'])}\n${choices.once(12) ? choices.of(['\n', '  \n', '# comment\n', '   # comment\n', '\n\n']) : ''}`;
}

/** A scalar after `key:` or `-`, its line end included. */
function blockScalar(text: string, indent: number, choices: Choices): string {
  const inner = pad(indent + choices.of([1, 2, 4]));
  if (text.includes('\n') || choices.once(10)) {
    const header = choices.of(['|', '>', '|-', '>-', '|+', '>+']);
    // Text that begins with a blank has to say how far it is indented.
    const says = /^[ \n]/.test(text) ? String(inner.length - Math.max(indent, 0)) : '';
    const lines = text.split('\n').map((line) => (line === '' ? choices.of(['', inner]) : inner + line));
    return ` ${header}${says}\n${lines.join('\n')}\n`;
  }
  const isPlain = !/^[-?:] |^[&*!|>'"%@`#[\]{},]|^ | $|: |:$| #/.test(text) && text !== '-';
  if (!isPlain || choices.once(5)) return ` ${quoted(text, choices)}${ending(choices)}`;
  if (text.includes(' ') && choices.once(2)) return ` ${text.replace(' ', `\n${inner}`)}${ending(choices)}`;
  return ` ${text}${ending(choices)}`;
}

/** A value after `key:` or `-`, at the indent of its parent. */
function block(shape: Shape, indent: number, choices: Choices, inList: boolean): string {
  if (choices.anchors.length > 0 && choices.once(15)) return ` *${choices.of(choices.anchors)}${ending(choices)}`;
  if (choices.once(5)) return ` ${flow(shape, choices)}${ending(choices)}`;
  const before = properties(choices).trimEnd();
  const start = before === '' ? '' : ` ${before}`;
  switch (shape.kind) {
    case 'scalar':
      return start + blockScalar(shape.text, indent, choices);
    case 'seq': {
      const at = indent + (inList ? choices.of([1, 2]) : choices.of([0, 0, 2]));
      return `${start}${ending(choices)}${list(shape.items, Math.max(at, 0), choices)}`;
    }
    case 'map': {
      const at = indent + choices.of([1, 2, 2, 4]);
      const text = mapping(shape.entries, at, choices);
      if (inList && before === '' && choices.once(2)) return pad(at - indent - 1) + text.slice(at);
      return `${start}${ending(choices)}${text}`;
    }
  }
}

function list(items: readonly Shape[], indent: number, choices: Choices): string {
  return items.map((item) => `${pad(indent)}-${block(item, indent, choices, true)}`).join('');
}

function mapping(entries: readonly [string, Shape][], indent: number, choices: Choices): string {
  return entries
    .map(([key, value]) => {
      if (choices.anchors.length > 0 && choices.once(8))
        return `${pad(indent)}<<: ${choices.once(3) ? `[*${choices.of(choices.anchors)}, {a: 1}]` : `*${choices.of(choices.anchors)}`}\n`;
      const isPlain = !/[\n]|^[-?:] |^[&*!|>'"%@`#[\]{},]|^ | $|: |:$| #/.test(key) && key !== '';
      const name = isPlain && !choices.once(6) ? key : JSON.stringify(key);
      return `${pad(indent)}${name}${choices.once(15) ? ' ' : ''}:${block(value, indent, choices, false)}`;
    })
    .join('');
}

/** A whole file whose first document is a mapping. */
export const documents: fc.Arbitrary<string> = fc
  .tuple(
    fc.array(fc.tuple(fc.constantFrom('a', 'b', 'kind', 'spec', ...scalars.filter((text) => !text.includes('\n'))), shapes.value), {
      minLength: 1,
      maxLength: 4,
    }),
    fc.array(fc.nat({ max: 1e6 }), { minLength: 40, maxLength: 120 }),
    fc.constantFrom('', '', '', '---\n', '# License\n---\n', '\n', '\ufeff'),
    fc.constantFrom('', '', '', '---\n', '...\n', '# end', '\n\n', '---\nkind: Other\n'),
    fc.constantFrom('\n', '\n', '\n', '\r\n', '\r'),
    fc.option(
      fc.tuple(fc.nat(), fc.constantFrom(' ', '  ', '\t', '\n', ':', '-', '"', "'", '#', '{', ']', ',', '|', '&x', '*x', '!', '')),
      { freq: 1 },
    ),
    fc.boolean(),
  )
  .map(([entries, numbers, before, after, lineBreak, slip, cut]) => {
    let text = before + mapping(entries, 0, new Choices(numbers)) + after;
    if (cut && after === '') text = text.replace(/\n$/, '');
    if (slip !== null) {
      const at = slip[0] % (text.length + 1);
      text = text.slice(0, at) + slip[1] + text.slice(slip[1] === '' ? at + 1 : at);
    }
    return lineBreak === '\n' ? text : text.replaceAll('\n', lineBreak);
  });
