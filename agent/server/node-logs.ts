import { createReadStream } from 'node:fs';
import { readdir, realpath, stat } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { join, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';

/** Answers `/logs/<path>` from a folder of the node: a file as it is, a folder as a list of links. Nothing outside the folder is shown, by no link either. */
export async function serveNodeLogs(folder: string, path: string, response: ServerResponse, signal: AbortSignal): Promise<void> {
  const notFound = (): void => {
    response.writeHead(404, { 'content-type': 'text/plain; charset=utf-8', 'x-content-type-options': 'nosniff' });
    response.end('404 page not found\n');
  };
  if (path.includes('\0')) {
    notFound();
    return;
  }
  const absent = (error: NodeJS.ErrnoException): undefined => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR' || error.code === 'ELOOP') return undefined;
    throw error;
  };
  const root = await realpath(folder).catch(absent);
  const real = await realpath(join(folder, path)).catch(absent);
  if (root === undefined || real === undefined || (real !== root && !real.startsWith(root + sep))) {
    notFound();
    return;
  }
  const info = await stat(real);
  if (info.isDirectory()) {
    const entries = (await readdir(real, { withFileTypes: true })).map((e) => (e.isDirectory() ? `${e.name}/` : e.name)).sort();
    const links = entries.map(
      (name) => `<a href="${encodeURI(name).replaceAll('?', '%3F').replaceAll('#', '%23')}">${escapeHtml(name)}</a>\n`,
    );
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' });
    response.end(`<!doctype html>\n<meta name="viewport" content="width=device-width">\n<pre>\n${links.join('')}</pre>\n`);
    return;
  }
  // A FIFO or device would hold one of the few threads that do file I/O, perhaps for ever.
  if (!info.isFile()) {
    notFound();
    return;
  }
  response.writeHead(200, {
    'content-type': 'text/plain; charset=utf-8',
    'x-content-type-options': 'nosniff',
    'last-modified': info.mtime.toUTCString(),
  });
  await pipeline(createReadStream(real), response, { signal });
}

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&#34;').replaceAll("'", '&#39;');
}
