import { Lexer } from 'yaml';

// YAML 1.2 wants every line of a flow collection and of a quoted text to be indented deeper than what it belongs to, and the library insists on it. go-yaml
// does not, and templates write such lines: what JSON prints over several lines ends up at the left margin. Such lines are indented here before the library
// sees them. Blanks at the begin of a line mean nothing in there, so no value changes, and no line number.

const doubleQuoted = /"[^"\\]*(?:\\[\s\S][^"\\]*)*"/y;
const singleQuoted = /'[^']*(?:''[^']*)*'/y;
// Marks of the lexer that are no part of the text: before a document, before a plain scalar, and where a flow collection ends for want of indentation.
const [documentMark, scalarMark, flowEnd] = ['\u0002', '\u001f', '\u0018'];
// Each repair reads the text again from its begin.
const readableCharacters = 5_000_000;

/** The text with flow collections and quoted texts indented as the library wants it; the same text when that is not what is wrong with it. */
export function indentFlows(text: string): string {
  let repaired = text;
  let before = -1;
  for (let budget = readableCharacters; budget > 0; budget -= repaired.length) {
    const start = firstUnindented(repaired);
    const end = start === undefined || start <= before ? undefined : endOf(repaired, start);
    if (start === undefined || end === undefined) return repaired;
    before = start;
    const margin = ' '.repeat(start - repaired.lastIndexOf('\n', start - 1));
    const inside = repaired.slice(start, end).replace(/\n(?!\n)/g, `\n${margin}`);
    repaired = repaired.slice(0, start) + inside + repaired.slice(end);
  }
  return repaired;
}

/** Where the first flow collection or quoted text begins that the lexer gives up. */
function firstUnindented(text: string): number | undefined {
  let at = 0;
  let depth = 0;
  let outermost = 0;
  let isPlain = false;
  for (const lexeme of new Lexer().lex(text)) {
    if (lexeme === flowEnd) return outermost;
    if (lexeme === documentMark || lexeme === scalarMark) {
      isPlain = lexeme === scalarMark;
      continue;
    }
    if (!isPlain) {
      if (lexeme === '[' || lexeme === '{') {
        if (depth === 0) outermost = at;
        depth++;
      } else if (lexeme === ']' || lexeme === '}') depth = Math.max(0, depth - 1);
      else if (/^["']/.test(lexeme) && quotedEnd(text, at) !== at + lexeme.length) return depth > 0 ? outermost : at;
    }
    isPlain = false;
    at += lexeme.length;
  }
  return undefined;
}

function quotedEnd(text: string, start: number): number | undefined {
  const quoted = text[start] === '"' ? doubleQuoted : singleQuoted;
  quoted.lastIndex = start;
  return quoted.test(text) ? quoted.lastIndex : undefined;
}

/** Behind the last character of what begins at `start`; undefined when it never ends. */
function endOf(text: string, start: number): number | undefined {
  if (/["']/.test(text[start] ?? '')) return quotedEnd(text, start);
  let depth = 0;
  let inPlain = false;
  for (let at = start; at < text.length; at++) {
    const character = text[at] ?? '';
    if (/[[{]/.test(character)) depth++;
    else if (/[\]}]/.test(character) && --depth === 0) return at + 1;
    if (/[[\]{},]/.test(character)) inPlain = false;
    else if (character === ':' && /[\s"']/.test(text[at + 1] ?? '')) inPlain = false;
    else if (character === '#' && /\s/.test(text[at - 1] ?? '')) at = text.indexOf('\n', at) < 0 ? text.length : text.indexOf('\n', at);
    else if (/["']/.test(character) && !inPlain) {
      const end = quotedEnd(text, at);
      if (end === undefined) return undefined;
      at = end - 1;
    } else if (!/\s/.test(character)) inPlain = true;
  }
  return undefined;
}
