/** One member of an archive. Folders end with a slash; links name their target. */
export interface TarEntry {
  readonly name: string;
  readonly mode: number;
  readonly content?: Buffer | string | undefined;
  readonly linkTo?: string | undefined;
}

const block = 512;

/** A POSIX ustar archive, the same bytes for the same entries: owner root, no times. Names are at most 100 bytes. */
export function writeTar(entries: readonly TarEntry[]): Buffer {
  const parts: Buffer[] = [];
  for (const entry of entries) {
    const content = Buffer.from(entry.content ?? '');
    parts.push(header(entry, content.length), content, Buffer.alloc((block - (content.length % block)) % block));
  }
  parts.push(Buffer.alloc(2 * block));
  return Buffer.concat(parts);
}

function header({ name, mode, linkTo }: TarEntry, size: number): Buffer {
  if (Buffer.byteLength(name) > 100 || Buffer.byteLength(linkTo ?? '') > 100)
    throw new RangeError(`name too long for a tar archive: ${name}`);
  const head = Buffer.alloc(block);
  const octal = (value: number, at: number, length: number): void =>
    void head.write(value.toString(8).padStart(length - 1, '0'), at, 'latin1');
  head.write(name, 0);
  octal(mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(size, 124, 12);
  octal(0, 136, 12);
  head.write(linkTo !== undefined ? '2' : name.endsWith('/') ? '5' : '0', 156);
  head.write(linkTo ?? '', 157);
  head.write('ustar\x0000', 257, 'latin1');
  // The checksum is taken with its own field full of spaces.
  head.fill(' ', 148, 156);
  const sum = head.reduce((total, byte) => total + byte, 0);
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return head;
}
