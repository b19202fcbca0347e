import { type FSWatcher, type Stats, watch } from 'node:fs';
import { open, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Table } from '../base/table.ts';
import { type AgentPod, configFirstSeenAnnotation, podKey } from '../model/pod.ts';
import { type ManifestContext, parseManifest } from './static-pod.ts';
import type { PodSpecRow } from './worker.ts';

export interface FileSourceOptions {
  /** A file, or a folder whose files (without those that begin with a dot, and without folders) each hold a manifest. It may come into being later. */
  readonly path: string;
  readonly nodeName: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** By UID. */
  readonly table: Table<PodSpecRow>;
  /** fileCheckFrequency, ms: how often all is read anew beside the watch. */
  readonly checkIntervalMs: number;
  /** Told of a pod that does not run because another of the source has its name. */
  readonly duplicate?: ((pod: AgentPod) => void) | undefined;
  readonly unknownFields: ManifestContext['unknownFields'];
  readonly allowApiReferences: boolean;
}

export interface StaticSource extends AsyncDisposable {
  /** Stops watching and lets go of all pods, so that they end. */
  drain(): Promise<void>;
  /** What is wrong with manifests now, by file or URL. */
  problems(): ReadonlyMap<string, string>;
}

const maxManifestBytes = 10 * 1024 * 1024;
// An editor writes in several steps: read when it has paused.
const settleMs = 50;

/** What one file said when it was last read. */
interface FileState {
  readonly text: string;
  /** What the last text that could be used holds. */
  readonly pods: readonly AgentPod[];
  readonly warnings: readonly string[];
  readonly error: string | undefined;
}

/**
 * Keeps the table at what the manifests say. A change is taken over at once; a file that turns bad keeps its pods until the next audit finds it still bad,
 * as with the kubelet: saving half a file ends nothing. One bad file never touches another's pods.
 */
export function startFileSource(options: FileSourceOptions): StaticSource {
  const { clock, log, table, path } = options;
  const controller = new AbortController();
  const stop = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  else options.signal.addEventListener('abort', stop, { once: true });
  const { signal } = controller;
  let files = new Map<string, FileState>();
  let watched: { readonly watcher: FSWatcher; readonly inode: number } | undefined;
  let settling: Disposable | undefined;
  let wake: (() => void) | undefined;
  let changed = false;
  let folderProblem: string | undefined;
  // By file, what the watch has told since they were last read: how often the name came or went, and whether it was written to after that.
  let told = new Map<string, { moves: number; written: boolean }>();
  // Files with a pod that another file has already.
  const ignored = new Map<string, string>();

  function onChange(event: string, name: string | null, target: string): void {
    if (name?.startsWith('.') === true || (name !== null && target !== path && name !== basename(path))) return;
    if (name !== null) {
      const file = join(target, name);
      const { moves, written } = told.get(file) ?? { moves: 0, written: false };
      told.set(file, event === 'rename' ? { moves: moves + 1, written: false } : { moves, written: moves > 0 || written });
    }
    settling?.[Symbol.dispose]();
    settling = clock.after(settleMs, () => {
      changed = true;
      wake?.();
    });
  }

  /** A file is watched through its folder: editors put a new file in its place. A folder that was made anew is watched anew. */
  async function watchPath(): Promise<void> {
    const at = await statIfThere(path);
    const target = at?.isFile() === true ? dirname(path) : path;
    const inode = target === path ? at?.ino : (await statIfThere(target))?.ino;
    if (watched?.inode === inode) return;
    watched?.watcher.close();
    watched = undefined;
    if (inode === undefined || signal.aborted) return;
    const watcher = watch(target, { persistent: false }, (event, name) => onChange(event, name, target));
    const mine = { watcher, inode };
    watched = mine;
    watcher.on('error', (error) => {
      log.warn({ path: target, err: messageOf(error) }, 'watch of the manifests ended; they are read periodically');
      watcher.close();
      if (watched === mine) watched = undefined;
    });
  }

  async function scan(audit: boolean): Promise<void> {
    let found: string[] | undefined;
    try {
      found = await listManifests(path, log);
      folderProblem = undefined;
    } catch (error) {
      const text = messageOf(error);
      if (text !== folderProblem) log.error({ path, err: text }, 'cannot read the manifests');
      folderProblem = text;
      // What is not known to be gone stays.
      return;
    }
    if (found === undefined) {
      folderProblem = `${path} does not exist`;
      found = [];
    }
    const next = new Map<string, FileState>();
    // A name that went and came and then was written to is a file that was removed and made again: its pods end, and begin anew. A new file that is put
    // in the place of an old one comes once, and whole.
    const anew = new Set([...told].filter(([, { moves, written }]) => moves > 1 && written).map(([file]) => file));
    told = new Map();
    for (const file of found) {
      const state = await readManifest(file, anew.has(file) ? undefined : files.get(file), audit);
      if (state !== undefined) next.set(file, state);
    }
    if (signal.aborted) return;
    files = next;
    publish(anew);
    table.markSynced();
  }

  async function readManifest(file: string, before: FileState | undefined, audit: boolean): Promise<FileState | undefined> {
    let text = before?.text ?? '';
    try {
      const read = await readAtMost(file);
      if (read === undefined) return undefined;
      // Unchanged, and nothing that an audit would have to end.
      if (read === before?.text && (before.error === undefined || !audit)) return before;
      text = read;
      const { nodeName, unknownFields, allowApiReferences } = options;
      const { pods, warnings } = parseManifest(text, {
        origin: file,
        source: 'file',
        nodeName,
        now: clock.wall(),
        unknownFields,
        allowApiReferences,
      });
      for (const warning of warnings) log.warn({ path: file }, warning);
      return { text, pods, warnings, error: undefined };
    } catch (error) {
      const message = messageOf(error);
      if (before?.error !== message) log.error({ path: file, err: message }, 'manifest cannot be used');
      return { text, pods: audit ? [] : (before?.pods ?? []), warnings: [], error: message };
    }
  }

  function publish(anew: ReadonlySet<string>): void {
    const rows = new Map<string, PodSpecRow>();
    const names = new Map<string, string>();
    ignored.clear();
    for (const [file, { pods }] of files)
      for (const pod of pods) {
        const owner = names.get(podKey(pod));
        if (owner !== undefined) {
          log.warn({ path: file, pod: podKey(pod), owner }, 'pod ignored: another manifest has one of the same name');
          options.duplicate?.(pod);
          ignored.set(
            file,
            `${file}: pod ${podKey(pod)} does not run, because ${owner} has one of this name: give it a metadata.name of its own`,
          );
          continue;
        }
        names.set(podKey(pod), file);
        const { uid } = pod.metadata;
        rows.set(uid, keepFirstSeen(anew.has(file) ? undefined : table.get(uid), pod));
      }
    table.replace(rows);
  }

  async function run(): Promise<void> {
    let auditAt = clock.mono();
    while (!signal.aborted) {
      await watchPath().catch((error: unknown) =>
        log.warn({ path, err: messageOf(error) }, 'cannot watch the manifests; they are read periodically'),
      );
      const audit = clock.mono() >= auditAt;
      if (audit) auditAt = clock.mono() + options.checkIntervalMs;
      changed = false;
      await scan(audit);
      if (changed) continue;
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      using _timer = clock.after(Math.max(auditAt - clock.mono(), 0), resolve);
      if (!signal.aborted) await promise;
    }
  }

  const running = run();
  const close = async (): Promise<void> => {
    controller.abort(new AgentError('Closed', 'the manifests are no longer watched'));
    options.signal.removeEventListener('abort', stop);
    settling?.[Symbol.dispose]();
    watched?.watcher.close();
    wake?.();
    await running;
  };
  return {
    async drain() {
      await close();
      table.replace([]);
    },
    problems() {
      const found = new Map<string, string>();
      if (folderProblem !== undefined) found.set(path, folderProblem);
      for (const [file, { error, warnings }] of files) {
        const told = error ?? ignored.get(file) ?? warnings[0];
        if (told !== undefined) found.set(file, told);
      }
      return found;
    },
    [Symbol.asyncDispose]: close,
  };
}

/** The row for a pod: the present one when nothing changed, else one that remembers when the pod was first seen. */
export function keepFirstSeen(present: PodSpecRow | undefined, pod: AgentPod): PodSpecRow {
  const source = pod.metadata.annotations?.['kubernetes.io/config.source'] === 'http' ? 'http' : 'file';
  const seen = present?.pod.metadata.annotations?.[configFirstSeenAnnotation];
  if (present === undefined || seen === undefined) return { pod, source };
  const same: AgentPod = {
    ...pod,
    metadata: { ...pod.metadata, annotations: { ...pod.metadata.annotations, [configFirstSeenAnnotation]: seen } },
  };
  return JSON.stringify(same) === JSON.stringify(present.pod) ? present : { pod: same, source };
}

/** The files to read, in order of name; undefined when there is no such path. */
async function listManifests(path: string, log: Log): Promise<string[] | undefined> {
  const at = await statIfThere(path);
  if (at === undefined) return undefined;
  if (at.isFile()) return [path];
  if (!at.isDirectory()) throw new AgentError('InvalidManifest', `${path} is neither a folder nor a file`);
  const files: string[] = [];
  for (const name of (await readdir(path)).sort()) {
    if (name.startsWith('.')) continue;
    const file = join(path, name);
    const info = await statIfThere(file);
    if (info?.isFile() === true) files.push(file);
    else if (info !== undefined) log.debug({ path: file }, 'no manifest: not a file');
  }
  return files;
}

async function statIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

/** The text of a file; undefined when it has gone. */
async function readAtMost(file: string): Promise<string | undefined> {
  try {
    await using handle = await open(file, 'r');
    const { size } = await handle.stat();
    if (size > maxManifestBytes) throw new AgentError('InvalidManifest', `${file}: larger than ${maxManifestBytes} bytes`);
    return await handle.readFile('utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}
