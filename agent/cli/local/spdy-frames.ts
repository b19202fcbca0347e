import { constants, createDeflate } from 'node:zlib';

/**
 * Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00), as far as Kubernetes' streams need them. Flow control is not part of it: the library on the other side
 * (moby/spdystream) neither gives nor takes windows.
 */
export const frameType = { synStream: 1, synReply: 2, rstStream: 3, settings: 4, ping: 6, goAway: 7, headers: 8, windowUpdate: 9 } as const;

const version = 3;
const finFlag = 1;
const headBytes = 8;
// No control frame of a streaming server is near it; a bound on what is kept of one that is not whole yet.
const longestControlFrame = 64 * 1024;

// The draft's dictionary (2.6.10.1): names of headers, each behind its length, and a text of common values.
const names =
  'options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization cache-control connection ' +
  'content-base content-encoding content-language content-length content-location content-md5 content-range content-type date etag expect expires from host ' +
  'if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization ' +
  'range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version ' +
  'HTTP/1.1 url public set-cookie keep-alive origin';
const values =
  '100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content' +
  '301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable' +
  'Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,' +
  'application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.';
export const headerDictionary: Buffer = Buffer.concat([
  ...names.split(' ').map((name) => prefixed(name.replace('_', ' '))),
  Buffer.from(values, 'latin1'),
]);

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function prefixed(text: string): Buffer {
  return Buffer.concat([uint32(Buffer.byteLength(text)), Buffer.from(text)]);
}

/** Frames that open the streams, in their order: the compression of headers goes on from one frame to the next. */
export async function openingFrames(
  streams: readonly { readonly id: number; readonly headers: Readonly<Record<string, string>> }[],
): Promise<Buffer> {
  const deflate = createDeflate({ dictionary: headerDictionary });
  const { promise: failed, reject } = Promise.withResolvers<never>();
  deflate.on('error', reject);
  const frames: Buffer[] = [];
  for (const { id, headers } of streams) {
    const fields = Object.entries(headers);
    deflate.write(Buffer.concat([uint32(fields.length), ...fields.flat().map(prefixed)]));
    const flushed = new Promise<void>((resolve) => deflate.flush(constants.Z_SYNC_FLUSH, resolve));
    await Promise.race([flushed, failed]);
    const block: Buffer[] = [];
    // One read gives one piece of what is there.
    for (let piece: Buffer | null = deflate.read(); piece !== null; piece = deflate.read()) block.push(piece);
    // Associated with no stream, of the highest priority.
    frames.push(controlFrame(frameType.synStream, Buffer.concat([uint32(id), uint32(0), Buffer.alloc(2), ...block])));
  }
  deflate.destroy();
  return Buffer.concat(frames);
}

export function controlFrame(type: number, payload: Buffer): Buffer {
  return Buffer.concat([Buffer.of(0x80, version, 0, type), uint32(payload.length), payload]);
}

/** The head of a data frame; its data come right behind it. At most 2^24 - 1 bytes; `fin` ends the stream's side. */
export function dataHead(stream: number, length: number, fin: boolean): Buffer {
  return Buffer.concat([uint32(stream), uint32((fin ? finFlag << 24 : 0) + length)]);
}

export type Frame =
  /** A part of a data frame; `fin`: the last of its stream. */
  | { readonly kind: 'data'; readonly stream: number; readonly data: Buffer; readonly fin: boolean }
  | { readonly kind: 'control'; readonly type: number; readonly payload: Buffer };

/** Makes frames of bytes as they come. Data is passed on as soon as it is there; control frames when they are whole. Throws when that cannot be SPDY. */
export function createFrameReader(): (chunk: Buffer) => Frame[] {
  let kept: Buffer = Buffer.alloc(0);
  let data: { stream: number; left: number; fin: boolean } | undefined;
  return (chunk) => {
    const frames: Frame[] = [];
    let bytes = kept.length === 0 ? chunk : Buffer.concat([kept, chunk]);
    for (;;) {
      if (data !== undefined) {
        const part = bytes.subarray(0, data.left);
        bytes = bytes.subarray(part.length);
        data.left -= part.length;
        const isLast = data.left === 0;
        if (part.length > 0 || isLast) frames.push({ kind: 'data', stream: data.stream, data: part, fin: data.fin && isLast });
        if (!isLast) break;
        data = undefined;
      }
      if (bytes.length < headBytes) break;
      const first = bytes.readUInt32BE(0);
      const length = bytes.readUIntBE(5, 3);
      if (first < 0x80000000) {
        data = { stream: first, left: length, fin: ((bytes[4] ?? 0) & finFlag) !== 0 };
        bytes = bytes.subarray(headBytes);
        continue;
      }
      if (((first >>> 16) & 0x7fff) !== version) throw new Error('what came is no SPDY/3.1');
      if (length > longestControlFrame) throw new Error(`a control frame of ${length} bytes`);
      if (bytes.length < headBytes + length) break;
      frames.push({ kind: 'control', type: first & 0xffff, payload: bytes.subarray(headBytes, headBytes + length) });
      bytes = bytes.subarray(headBytes + length);
    }
    kept = bytes;
    return frames;
  };
}
