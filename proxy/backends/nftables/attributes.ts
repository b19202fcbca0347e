// Attributes of netlink messages: written into one buffer, and read in order.

export const NLA_F_NESTED = 0x8000;
const typeMask = 0x3fff;

/** Writes attributes into one buffer, for lists of many elements. */
export class Writer {
  readonly #bytes = Buffer.alloc(64 * 1024);
  length = 0;

  open(type: number): number {
    const at = this.length;
    this.#bytes.writeUInt16LE(type, at + 2);
    this.length += 4;
    return at;
  }

  close(at: number): void {
    this.#bytes.writeUInt16LE(this.length - at, at);
    while (this.length % 4 !== 0) this.u8(0);
  }

  attribute(type: number, write: () => void): void {
    const at = this.open(type);
    write();
    this.close(at);
  }

  u8(value: number): void {
    this.#bytes[this.length++] = value;
  }

  u16(value: number): void {
    this.length = this.#bytes.writeUInt16BE(value, this.length);
  }

  i32(value: number): void {
    this.length = this.#bytes.writeInt32BE(value, this.length);
  }

  /** In this machine's order, which is little-endian wherever keelson runs. */
  hostU32(value: number): void {
    this.length = this.#bytes.writeUInt32LE(value, this.length);
  }

  bytes(value: Uint8Array): void {
    this.#bytes.set(value, this.length);
    this.length += value.length;
  }

  take(): Buffer {
    const taken = Buffer.from(this.#bytes.subarray(0, this.length));
    this.length = 0;
    return taken;
  }
}

/** Attributes in order, types without their flags. A malformed end is left out. */
export function* attributesOf(bytes: Buffer): Generator<[type: number, value: Buffer]> {
  let at = 0;
  while (at + 4 <= bytes.length) {
    const length = bytes.readUInt16LE(at);
    if (length < 4 || at + length > bytes.length) return;
    yield [bytes.readUInt16LE(at + 2) & typeMask, bytes.subarray(at + 4, at + length)];
    at += (length + 3) & ~3;
  }
}

/** The first attribute of a type; empty where there is none. */
export function find(bytes: Buffer, wanted: number): Buffer {
  for (const [type, value] of attributesOf(bytes)) if (type === wanted) return value;
  return nothing;
}

const nothing = Buffer.alloc(0);

export function nulEnded(name: string): Buffer {
  return Buffer.from(`${name}\0`);
}

/** What stands before the NUL. */
export function textOf(bytes: Buffer): string {
  return bytes.toString('latin1').replace(/\0.*$/s, '');
}
