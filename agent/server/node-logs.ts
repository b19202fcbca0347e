import type { Dirent, Stats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { constants, createGzip } from 'node:zlib';
import type { Clock } from '../base/clock.ts';
import { AgentError } from '../base/errors.ts';
import type { Call, RunJournalctl } from './contracts.ts';
import {
  journalArguments,
  journalUnits,
  logFilesOf,
  type NodeLogQuery,
  parseNodeLogQuery,
  patternCheckArguments,
  refusedPattern,
} from './node-log-query.ts';
import { sendText } from './reply.ts';

const queryDeadlineMs = 30_000;

/** Something below a folder that is held: what it is cannot be swapped any more (drivers/files/look.ts). */
interface LookedAt extends AsyncDisposable {
  readonly info: Stats;
  open(): Promise<FileHandle>;
  list(): Promise<Dirent[]>;
}

/** Looks at what lies at a path below `root`, or rejects with an AgentError that says why there is nothing to see. */
export type LookWithin = (root: string, path: string) => Promise<LookedAt>;

export interface NodeLogFolder {
  readonly folder: string;
  readonly within: LookWithin;
}

/** Answers `/logs/<path>` from a folder of the node: a file as it is, a folder as a list of links. Nothing outside the folder is shown, by no link either. */
export async function serveNodeLogs(
  { folder, within }: NodeLogFolder,
  path: string,
  response: ServerResponse,
  signal: AbortSignal,
): Promise<void> {
  const notFound = (): void => {
    response.writeHead(404, { 'content-type': 'text/plain; charset=utf-8', 'x-content-type-options': 'nosniff' });
    response.end('404 page not found\n');
  };
  await using found = await lookUp(within, folder, path);
  if (found === undefined) {
    notFound();
    return;
  }
  const { info } = found;
  if (info.isDirectory()) {
    const entries = (await found.list()).map((e) => (e.isDirectory() ? `${e.name}/` : e.name)).sort();
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
  await using file = await found.open();
  await pipeline(file.createReadStream({ autoClose: false }), response, { signal });
}

/** What lies at a path below the folder; undefined when there is nothing, or when it is elsewhere, by a link too. */
async function lookUp(within: LookWithin, folder: string, path: string): Promise<LookedAt | undefined> {
  if (path.includes('\0')) return undefined;
  try {
    return await within(folder, path);
  } catch (error) {
    if (error instanceof AgentError && absent.has(error.code)) return undefined;
    throw error;
  }
}

const absent: ReadonlySet<string> = new Set([
  'NotFound',
  'NotADirectory',
  'UnexpectedSymlink',
  'OutsideRoot',
  'NameTooLong',
  'ENAMETOOLONG',
]);

export interface QueriedLogs extends NodeLogFolder {
  readonly clock: Clock;
  readonly journalctl: RunJournalctl;
}

/**
 * Answers `/logs/` where the node's services may be asked for (`?query=kubelet&tailLines=3`): from the machine's journal, or, for services that do not
 * write to it, from their files in the folder. Without such parameters it is `serveNodeLogs`. Failures behind the first byte are told in the text.
 */
export async function serveQueriedLogs(logs: QueriedLogs, path: string, call: Call): Promise<void> {
  const { folder } = logs;
  const { response, signal } = call;
  const parsed = parseNodeLogQuery(call.query, path);
  if (parsed.kind === 'refused') {
    sendText(response, parsed.status, `${parsed.text}\n`);
    return;
  }
  if (parsed.kind === 'none') {
    await serveNodeLogs(logs, path, response, signal);
    return;
  }
  const { query } = parsed;
  const [file] = query.files;
  if (file !== undefined) {
    await using found = await lookUp(logs.within, folder, file);
    if (found === undefined) {
      sendText(response, 406, `query: Invalid value: ${JSON.stringify(query.files)}: no such file below ${folder}\n`);
      return;
    }
    await serveNodeLogs(logs, file, response, signal);
    return;
  }
  using deadline = logs.clock.deadline(signal, queryDeadlineMs);
  const { pattern } = query.options;
  const refusal =
    pattern === undefined ? undefined : refusedPattern(pattern, (await ask(logs, patternCheckArguments(pattern), deadline.signal)).text);
  if (refusal !== undefined) {
    sendText(response, refusal.status, `${refusal.text}\n`);
    return;
  }
  const gzipped = call.request.headers['accept-encoding'] === 'gzip';
  response.writeHead(200, { 'content-type': 'text/plain;charset=UTF-8', ...(gzipped ? { 'content-encoding': 'gzip' } : {}) });
  if (!gzipped) {
    await copyServices(logs, query, response, deadline.signal);
    response.end();
    return;
  }
  const gzip = createGzip({ level: constants.Z_BEST_SPEED });
  // Called off in the middle, it fails; the answer ends with it.
  gzip.on('error', () => response.destroy());
  gzip.pipe(response);
  await copyServices(logs, query, gzip, deadline.signal);
  gzip.end();
  await finished(response, { signal });
}

/** What journalctl answers, errors among it; the code is undefined when it is not there or was killed. */
async function ask(logs: QueriedLogs, args: readonly string[], signal: AbortSignal): Promise<{ code: number | undefined; text: string }> {
  const chunks: Buffer[] = [];
  const collect = new Writable({
    write(chunk: Buffer, _encoding, taken) {
      chunks.push(chunk);
      taken();
    },
  });
  const code = await logs.journalctl(args, collect, signal);
  return { code, text: Buffer.concat(chunks).toString('utf8') };
}

async function copyServices(logs: QueriedLogs, query: NodeLogQuery, out: Writable, signal: AbortSignal): Promise<void> {
  const { services, options } = query;
  const { code, text } = await ask(logs, journalUnits, signal);
  const known = new Set(code === 0 ? text.split('\n') : []);
  const journalled = services.filter((service) => known.has(`${service}.service`));
  const others = services.filter((service) => !journalled.includes(service));
  if (journalled.length > 0) {
    const ended = await logs.journalctl(journalArguments(journalled, options), out, signal);
    if (ended === undefined && (options.boot ?? 0) === 0) out.write('\nerror: journal output not available\n');
  }
  if (others.length > 0 && Object.keys(options).length > 0) {
    out.write(`\noptions present and query resolved to log files for [${others.join(' ')}]\ntry without specifying options\n`);
    return;
  }
  for (const service of others) await copyFile(logs, service, out, signal);
}

async function copyFile({ folder, within }: NodeLogFolder, service: string, out: Writable, signal: AbortSignal): Promise<void> {
  for (const name of logFilesOf(service)) {
    await using found = await lookUp(within, folder, name);
    if (found?.info.isFile() !== true) continue;
    await using file = await found.open();
    await pipeline(file.createReadStream({ autoClose: false }), out, { signal, end: false });
    return;
  }
  out.write(`\nlog not found for ${service}\n`);
}

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&#34;').replaceAll("'", '&#39;');
}
