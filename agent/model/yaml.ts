import {
  type Alias,
  Composer,
  type CST,
  Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type ParsedNode,
  Parser,
  type Scalar,
  visit,
  type YAMLMap,
} from 'yaml';
import { AgentError } from '../base/errors.ts';
import { readJson } from './json-text.ts';
import type { RepeatedKey } from './repeated-key.ts';
import { blockText } from './yaml-block.ts';
import { indentFlows } from './yaml-indent.ts';
import { keyText, resolveScalar } from './yaml-scalar.ts';

// The one reader and writer of YAML. It follows Kubernetes' own, sigs.k8s.io/yaml over go-yaml v2, which the writers of manifests and configurations tried
// their files with. The library tells the structure; what scalars, keys, merges and aliases mean is decided here. test/unit/model/yaml.test.ts compares it
// with upstream's.

/** A document that holds something. */
export interface YamlDocument {
  /** What JSON can say: nothing is undefined, no number is infinite. */
  readonly value: unknown;
  readonly repeated: readonly RepeatedKey[];
}

/** Nothing that people write comes near; deeper values would end the stack of whoever walks them. */
export const maxDepth = 500;

/** The first document that holds something; undefined when none does. What comes after it is not read. Throws AgentError `InvalidYaml`. */
export function readYaml(text: string): YamlDocument | undefined {
  for (const document of documentsOf(text)) return document;
  return undefined;
}

/** Every document that holds something. Throws AgentError `InvalidYaml` when one of them cannot be read. */
export function readAllYaml(text: string): YamlDocument[] {
  return [...documentsOf(text)];
}

function invalid(problem: string, cause?: unknown): AgentError {
  return new AgentError('InvalidYaml', problem, { cause });
}

function* documentsOf(text: string): Generator<YamlDocument, void> {
  const json = readJson(text, maxDepth);
  if (json !== undefined) {
    yield json;
    return;
  }
  const clean = readable(text);
  let found = 0;
  try {
    for (const document of compose(clean)) {
      found++;
      yield document;
    }
  } catch (error) {
    const mended = indentFlows(clean);
    if (mended === clean) throw error;
    for (const document of compose(mended)) if (found-- <= 0) yield document;
  }
}

function* compose(text: string): Generator<YamlDocument, void> {
  const lines = new LineCounter();
  const lineAt = (offset: number): number => Math.max(1, lines.linePos(offset).line);
  try {
    const composer = new Composer<ParsedNode>({
      schema: 'failsafe',
      resolveKnownTags: false,
      uniqueKeys: false,
      strict: false,
      keepSourceTokens: true,
      logLevel: 'silent',
      prettyErrors: false,
    });
    for (const document of composer.compose(shallow(new Parser(lines.addNewLine).parse(text), lineAt), false, text.length)) {
      const { contents } = document;
      const problem = document.errors.find((error) => !forgiven(error.message));
      if (problem !== undefined) throw invalid(`line ${lineAt(problem.pos[0])}: ${problem.message}`);
      if (contents === null || isNothing(contents)) continue;
      const read = new Reading(text, lineAt).read(contents);
      if (read.value !== null) yield read;
    }
  } catch (error) {
    if (error instanceof AgentError) throw error;
    throw invalid(error instanceof RangeError ? 'nested too deeply' : `cannot be read: ${String(error)}`, error);
  }
}

function isNothing(node: Node): boolean {
  return isScalar(node) && node.source === '' && node.type === 'PLAIN' && node.tag === undefined;
}

/** What the library calls an error in a document that it has understood as go-yaml does. */
function forgiven(message: string): boolean {
  return /^Comments must be separated/.test(message);
}

/**
 * The text with one kind of line break. A lone CR and NEL are breaks too (libyaml's is_break). Throws AgentError InvalidYaml for characters that no
 * document may have.
 */
function readable(text: string): string {
  // Control characters but for tab and line breaks, halves of surrogate pairs, and what is no character.
  const refused = /(?![\t\n\r\u0085])\p{Cc}|\p{Cs}|[\ufffe\uffff]/u.exec(text);
  const broken = text.replace(/\r\n?|\x85/g, '\n');
  if (refused === null) return broken.startsWith('\ufeff') ? broken.slice(1) : broken;
  const line = text
    .slice(0, refused.index)
    .replace(/\r\n?|\x85/g, '\n')
    .split('\n').length;
  const code = refused[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, '0');
  throw invalid(`line ${line}: control characters are not allowed: U+${code}`);
}

/** Passes tokens on that are not nested too deeply: whoever walks them calls itself once a level. */
function* shallow(tokens: Iterable<CST.Token>, lineAt: (offset: number) => number): Generator<CST.Token, void> {
  for (const token of tokens) {
    // The library passes over what it does not know, and the document with it.
    if (token.type === 'directive' && !/^%(YAML|TAG)[ \t]/.test(token.source))
      throw invalid(`line ${lineAt(token.offset)}: found unknown directive ${token.source.trim()}`);
    const open: { token: CST.Token; depth: number }[] = [{ token, depth: 0 }];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      const { depth } = next;
      if (depth > maxDepth) throw invalid(`line ${lineAt(next.token.offset)}: nested deeper than ${maxDepth} levels`);
      if ('items' in next.token)
        for (const { key, value } of next.token.items) {
          if (key) open.push({ token: key, depth: depth + 1 });
          if (value) open.push({ token: value, depth: depth + 1 });
        }
      if (next.token.type === 'document' && next.token.value) open.push({ token: next.token.value, depth });
    }
    yield token;
  }
}

// go-yaml v2 decode.go allowedAliasRatio: what aliases may add to a document, so that a few lines do not become gigabytes.
const [smallDocument, largeDocument] = [400_000, 4_000_000];

function allowedAliasRatio(decoded: number): number {
  if (decoded <= smallDocument) return 0.99;
  if (decoded >= largeDocument) return 0.1;
  return 0.99 - 0.89 * ((decoded - smallDocument) / (largeDocument - smallDocument));
}

/** Stands for what JSON cannot say. It is an error only when it is still there at the end: what stands later in a file may replace it. */
class Unsayable {
  readonly error: AgentError;

  constructor(error: AgentError) {
    this.error = error;
  }
}

/** One document on its way to a value. */
class Reading {
  readonly #source: string;
  readonly #lineAt: (offset: number) => number;
  readonly #repeated: RepeatedKey[] = [];
  readonly #targets = new Map<Alias, Node>();
  readonly #expanding = new Set<Alias>();
  #hasUnsayable = false;
  #decoded = 1;
  #fromAliases = 0;

  constructor(text: string, lineAt: (offset: number) => number) {
    this.#source = text;
    this.#lineAt = lineAt;
  }

  read(contents: Node): YamlDocument {
    // An alias means the last anchor of its name before it, as the document is written.
    const anchors = new Map<string, Node>();
    visit(contents, {
      Node: (_, node) => {
        const name = isAlias(node) ? node.source : node.anchor;
        if (name !== undefined && !/^[-\w]+$/.test(name))
          throw this.#invalid(node, `the name of an anchor has letters, digits, - and _ only: ${JSON.stringify(name)}`);
        if (isAlias(node)) {
          const target = anchors.get(node.source);
          if (target === undefined) throw this.#invalid(node, `unknown anchor '${node.source}' referenced`);
          this.#targets.set(node, target);
        } else if (node.anchor !== undefined) anchors.set(node.anchor, node);
      },
    });
    const value = this.#value(contents, '');
    if (this.#hasUnsayable) refuseUnsayable(value);
    return { value, repeated: this.#repeated };
  }

  #unsayable(node: Node, problem: string): Unsayable {
    this.#hasUnsayable = true;
    return new Unsayable(this.#invalid(node, problem));
  }

  #invalid(node: Node, problem: string): AgentError {
    return invalid(`line ${this.#lineAt(node.range?.[0] ?? 0)}: ${problem}`);
  }

  /** Counts what is decoded as go-yaml counts it. */
  #count(): void {
    this.#decoded++;
    if (this.#expanding.size > 0) this.#fromAliases++;
    if (this.#fromAliases > 100 && this.#decoded > 1000 && this.#fromAliases / this.#decoded > allowedAliasRatio(this.#decoded))
      throw invalid('document contains excessive aliasing');
  }

  #value(node: Node | null, at: string): unknown {
    this.#count();
    if (node === null) return null;
    if (isAlias(node)) return this.#through(node, (target) => this.#value(target, at));
    if (isScalar(node)) return this.#scalar(node);
    if (isSeq<Node | null>(node)) return node.items.map((item, i) => this.#value(item, `${at}[${i}]`));
    if (!isMap<Node, Node | null>(node)) throw this.#invalid(node, 'neither a mapping nor a list nor a scalar');
    const entries = new Map<string | symbol, unknown>();
    this.#mapping(node, entries, at);
    return Object.fromEntries(entries);
  }

  #through<T>(alias: Alias, use: (target: Node) => T): T {
    const target = this.#targets.get(alias);
    if (target === undefined || this.#expanding.has(alias)) throw this.#invalid(alias, `anchor '${alias.source}' value contains itself`);
    // A value inside itself by way of several aliases is as deep as it is long.
    if (this.#expanding.size >= maxDepth) throw this.#invalid(alias, `nested deeper than ${maxDepth} levels`);
    this.#expanding.add(alias);
    try {
      return use(target);
    } finally {
      this.#expanding.delete(alias);
    }
  }

  #mapping(node: YAMLMap<Node, Node | null>, entries: Map<string | symbol, unknown>, at: string): void {
    const own = new Set<string>();
    for (const { key, value } of node.items) {
      if (isMergeKey(key)) {
        this.#merge(value, entries, at, node);
        continue;
      }
      // libyaml takes the colon of `{a:}` and `[a:]` for a part of the text.
      if (node.flow === true && /^:[,\]}]/.test(this.#source.slice(key.range?.[1] ?? 0, (key.range?.[1] ?? 0) + 2)) && isPlain(key))
        throw this.#invalid(key, 'a colon needs a space behind it');
      const name = this.#key(key);
      if (typeof name !== 'string') {
        entries.set(Symbol(), name);
        this.#value(value, at);
        continue;
      }
      if (own.has(name)) this.#repeated.push({ key: name, at, line: this.#lineAt(key.range?.[0] ?? 0) });
      own.add(name);
      entries.set(name, this.#value(value, at === '' ? name : `${at}.${name}`));
    }
  }

  /** What `<<` brings replaces what stands before it, and what comes after it replaces that; of several mappings the first counts. */
  #merge(value: Node | null, entries: Map<string | symbol, unknown>, at: string, parent: Node): void {
    const wrong = (): AgentError => this.#invalid(value ?? parent, 'map merge requires map or sequence of maps as the value');
    const from = (source: Node | null): void => {
      this.#count();
      if (isMap<Node, Node | null>(source)) this.#mapping(source, entries, at);
      else if (isAlias(source))
        this.#through(source, (target) => {
          this.#count();
          if (!isMap<Node, Node | null>(target)) throw wrong();
          this.#mapping(target, entries, at);
        });
      else throw wrong();
    };
    if (isSeq<Node | null>(value)) for (const source of value.items.toReversed()) from(source);
    else from(value);
  }

  #key(node: Node | null): string | Unsayable {
    this.#count();
    if (isAlias(node)) return this.#through(node, (target) => this.#key(target));
    if (node === null) throw invalid('a mapping has a key that is empty');
    if (!isScalar(node)) throw this.#invalid(node, 'invalid map key: a key must be text, a number or a boolean');
    return keyText(this.#resolve(node)) ?? this.#unsayable(node, `unsupported map key: ${textOf(node) || 'it is empty'}`);
  }

  /** What the library reads otherwise than libyaml, which takes the character for a part of what is before it. */
  #refuseUnspaced(node: Scalar): void {
    const next = this.#source[node.range?.[1] ?? 0] ?? '';
    if (node.tag !== undefined && isPlain(node) && node.source === '' && /[,[\]{}]/.test(next))
      throw this.#invalid(node, `a tag needs a space before ${next}`);
  }

  #scalar(node: Scalar): unknown {
    const found = this.#resolve(node);
    switch (found.kind) {
      case 'null':
        return null;
      case 'int':
        return Number(found.value);
      case 'float':
        return Number.isFinite(found.value)
          ? found.value
          : this.#unsayable(node, `unsupported value: ${textOf(node)} (JSON has no such number)`);
      default:
        return found.value;
    }
  }

  #resolve(node: Scalar): Exclude<ReturnType<typeof resolveScalar>, string> {
    this.#refuseUnspaced(node);
    const text = this.#text(node);
    if (!text.isWellFormed()) throw this.#invalid(node, 'invalid Unicode character escape code');
    const found = resolveScalar({ text, plain: node.type === 'PLAIN' || node.type === undefined, tag: node.tag ?? '' });
    if (typeof found === 'string') throw this.#invalid(node, `cannot decode ${found}`);
    return found;
  }

  #text(node: Scalar): string {
    const token = node.srcToken;
    if (token?.type !== 'block-scalar') return textOf(node);
    const text = blockText(this.#source, token.offset, token.indent);
    if (text === undefined) throw this.#invalid(node, 'found a tab character where an indentation space is expected');
    return text;
  }
}

function refuseUnsayable(value: unknown): void {
  if (value instanceof Unsayable) throw value.error;
  if (Array.isArray(value)) for (const item of value) refuseUnsayable(item);
  else if (typeof value === 'object' && value !== null)
    for (const key of Reflect.ownKeys(value)) refuseUnsayable((value as Record<string | symbol, unknown>)[key]);
}

function textOf(node: Scalar): string {
  return typeof node.value === 'string' ? node.value : (node.source ?? '');
}

function isPlain(node: Node): boolean {
  return isScalar(node) && node.type === 'PLAIN';
}

function isMergeKey(node: Node | null): boolean {
  return (
    isScalar(node) && node.value === '<<' && (node.tag === 'tag:yaml.org,2002:merge' || (node.tag === undefined && node.type === 'PLAIN'))
  );
}

/**
 * A value as YAML that Kubernetes' reader and this one read back as it was: text that looks like something else is quoted. Keys without a value are left out.
 */
export function writeYaml(value: unknown, options: { readonly sortKeys?: boolean } = {}): string {
  const document = new Document(value, { version: '1.2', aliasDuplicateObjects: false, sortMapEntries: options.sortKeys === true });
  // Characters that libyaml's reader refuses, and breaks of its own: in quotes they can be escaped.
  const odd = /[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g;
  visit(document, {
    Scalar: (_, node) => {
      if (typeof node.value !== 'string') return;
      const plain = resolveScalar({ text: node.value, plain: true, tag: '' });
      if (typeof plain === 'string' || plain.kind !== 'text' || node.value === '<<' || odd.test(node.value)) node.type = 'QUOTE_DOUBLE';
      odd.lastIndex = 0;
    },
  });
  return document.toString({ lineWidth: 0 }).replace(odd, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
