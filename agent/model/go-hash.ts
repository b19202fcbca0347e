/** FNV-1a, 32 bits, of the UTF-8 bytes: what upstream's checksums and hashes are made with (pkg/util/hash DeepHashObject), over a text that spew printed. */
export function fnv1a32(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text, 'utf8')) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}
