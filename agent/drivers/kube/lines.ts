/** Splits a stream of chunks at line breaks, each byte looked at once however the chunks fall. Empty lines are left out. */
export interface LineSplitter {
  push(chunk: Buffer): void;
}

/** Makes a splitter that hands each complete line, without its line break, to `onLine`; what follows the last line break is kept for the next chunk. */
export function createLineSplitter(onLine: (line: Buffer) => void): LineSplitter {
  let pending: Buffer[] = [];
  return {
    push(chunk) {
      let start = 0;
      for (;;) {
        const end = chunk.indexOf(0x0a, start);
        if (end === -1) break;
        const last = chunk.subarray(start, end);
        start = end + 1;
        if (pending.length === 0) {
          if (last.length > 0) onLine(last);
        } else {
          pending.push(last);
          const line = Buffer.concat(pending);
          pending = [];
          if (line.length > 0) onLine(line);
        }
      }
      if (start < chunk.length) pending.push(chunk.subarray(start));
    },
  };
}
