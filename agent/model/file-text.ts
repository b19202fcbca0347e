import { AgentError } from '../base/errors.ts';

/**
 * The text of a file that a person wrote: UTF-8, or UTF-16 that says so by its byte order mark, as go-yaml reads files. The mark itself is no part of the
 * text. Throws AgentError `InvalidText`, naming the encoding and what to do.
 */
export function decodeFileText(bytes: Uint8Array): string {
  const [a, b, c, d] = bytes;
  if ((a === 0xff && b === 0xfe && c === 0 && d === 0) || (a === 0 && b === 0 && c === 0xfe && d === 0xff))
    throw wrongEncoding('it is UTF-32');
  if (a === 0xff && b === 0xfe) return decodeWide(bytes.subarray(2), 'utf-16le');
  if (a === 0xfe && b === 0xff) return decodeWide(bytes.subarray(2), 'utf-16be');
  // Text begins with an ASCII character in every file that we read.
  if (bytes.length > 1 && (a === 0) !== (b === 0)) throw wrongEncoding('it looks like UTF-16 without a byte order mark');
  const marked = a === 0xef && b === 0xbb && c === 0xbf;
  const body = marked ? bytes.subarray(3) : bytes;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body);
  } catch {
    const at = firstInvalid(body);
    const line = body.subarray(0, at).reduce((lines, byte) => lines + Number(byte === 0x0a), 1);
    throw wrongEncoding(`the byte 0x${(body[at] ?? 0).toString(16)} in line ${line} is no UTF-8 (the file may be Latin-1 or Windows-1252)`);
  }
}

function wrongEncoding(what: string): AgentError {
  return new AgentError('InvalidText', `${what}: save the file as UTF-8`);
}

function decodeWide(bytes: Uint8Array, encoding: 'utf-16le' | 'utf-16be'): string {
  try {
    return new TextDecoder(encoding, { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw wrongEncoding(`it is ${encoding.toUpperCase()} with a broken character`);
  }
}

/** The offset of the first byte that begins no UTF-8 character. */
function firstInvalid(bytes: Uint8Array): number {
  let at = 0;
  for (let length = 1; length > 0; at += length) length = utf8Length(bytes, at);
  return at;
}

/** How many bytes the UTF-8 character at `at` has; 0 where there is none (Unicode 16, table 3-7). */
export function utf8Length(bytes: Uint8Array, at: number): number {
  const lead = bytes[at] ?? 0x80;
  const next = bytes[at + 1] ?? 0;
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  // What may follow some leads is less than what may follow all: no detours, no surrogates, nothing beyond U+10FFFF.
  const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  if (next < low || next > high) return 0;
  const length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  for (let i = 2; i < length; i++) if (((bytes[at + i] ?? 0) & 0xc0) !== 0x80) return 0;
  return length;
}
