// Addresses as the kernel has them.
import { type Family, parseAddress } from './address.ts';

/** The address in network order; expects text of `parseAddress`. */
export function addressBytes(family: Family, text: string): Buffer {
  if (family === 'ip') return Buffer.from(text.split('.').map(Number));
  // RFC 5952 text: at most one `::`, and no dotted part but for mapped addresses, which are IPv4 here.
  const [head = '', tail] = text.split('::');
  const groups = (part: string): number[] => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)));
  const [first, last] = [groups(head), groups(tail ?? '')];
  const all = [...first, ...Array.from({ length: 8 - first.length - last.length }, () => 0), ...last];
  const bytes = Buffer.alloc(16);
  all.forEach((group, i) => void bytes.writeUInt16BE(group, 2 * i));
  return bytes;
}

/** The one spelling of an address of 4 or 16 bytes. */
export function addressOfBytes(bytes: Buffer): string {
  if (bytes.length === 4) return [...bytes].join('.');
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
  return parseAddress(groups.join(':'))?.text ?? groups.join(':');
}
