// What `nft list table` prints, read back. Its elements are spelled as we spell them.

export interface Listing {
  /** Sets and maps by name: key → value, undefined in sets. */
  readonly sets: ReadonlyMap<string, ReadonlyMap<string, string | undefined>>;
  /** Chains by name: the lines of their rules, as nft words them. */
  readonly chains: ReadonlyMap<string, string>;
}

export function parseListing(text: string): Listing {
  const sets = new Map<string, Map<string, string | undefined>>();
  const chains = new Map<string, string>();
  // Blocks are indented by one tab and end with a brace so indented.
  for (const [, kind, name = '', body = ''] of text.matchAll(/^\t(set|map|chain) (\S+) \{\n([\s\S]*?)^\t\}$/gm)) {
    if (kind === 'chain') chains.set(name, body);
    else sets.set(name, elementsIn(body));
  }
  return { sets, chains };
}

function elementsIn(body: string): Map<string, string | undefined> {
  const elements = new Map<string, string | undefined>();
  const list = /^\t\telements = \{([\s\S]*)\}/m.exec(body)?.[1];
  if (list === undefined) return elements;
  for (const text of list.split(',')) {
    const [left = '', value] = text.trim().split(' : ');
    // Timeouts and comments stand between key and value.
    const key = left.replace(/ (timeout|expires|counter|comment) .*$/, '');
    if (key !== '') elements.set(key, value?.trim());
  }
  return elements;
}
