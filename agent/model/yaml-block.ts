// Block scalars as libyaml takes them. The library forgets lines of nothing but blanks, and ends a text at the end of the file with a line break that is not
// there.

/**
 * The text of the block scalar whose header is at `start`, in a mapping or list that is indented by `parentIndent` (-1: in none). Undefined when a tab stands
 * where a blank should.
 */
export function blockText(text: string, start: number, parentIndent: number): string | undefined {
  const header = /[|>]([-+]?)([1-9]?)([-+]?)[^\n]*\n?/y;
  header.lastIndex = start;
  const [whole = '', before = '', digit = '', after = ''] = header.exec(text) ?? [];
  const isLiteral = whole.startsWith('|');
  const chomping = before === '' ? after : before;
  let indent = digit === '' ? 0 : Math.max(parentIndent, 0) + Number(digit);
  let at = start + whole.length;
  let column = 0;
  let hasTab = false;

  /** Passes over blank lines and the indentation of the next line; the first one says how deep that is. */
  const lineBreaks = (): string => {
    let deepest = 0;
    let count = 0;
    for (;;) {
      for (; (indent === 0 || column < indent) && text[at] === ' '; at++) column++;
      deepest = Math.max(deepest, column);
      hasTab ||= (indent === 0 || column < indent) && text[at] === '\t';
      if (text[at] !== '\n') break;
      count++;
      at++;
      column = 0;
    }
    if (indent === 0) indent = Math.max(deepest, parentIndent + 1, 1);
    return '\n'.repeat(count);
  };

  const parts: string[] = [];
  let ownBreak = '';
  let wasIndented = false;
  let blankLines = lineBreaks();
  while (column === indent && at < text.length) {
    const isIndented = /[ \t]/.test(text[at] ?? '');
    // Two lines that begin with no blank are one, with a blank between them.
    const folds = !isLiteral && ownBreak !== '' && !wasIndented && !isIndented;
    parts.push(folds ? (blankLines === '' ? ' ' : '') : ownBreak, blankLines);
    wasIndented = isIndented;
    const end = text.indexOf('\n', at);
    parts.push(text.slice(at, end < 0 ? text.length : end));
    ownBreak = end < 0 ? '' : '\n';
    at = end < 0 ? text.length : end + 1;
    column = 0;
    blankLines = lineBreaks();
  }
  if (hasTab) return undefined;
  return parts.join('') + (chomping === '-' ? '' : ownBreak) + (chomping === '+' ? blankLines : '');
}
