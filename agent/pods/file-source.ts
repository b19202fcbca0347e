import { createHash } from 'node:crypto';
import { type FSWatcher, type Stats, watch } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Table } from '../base/table.ts';
import { decodeFileText } from '../model/file-text.ts';
import { type AgentPod, configFirstSeenAnnotation, podKey } from '../model/pod.ts';
import { isBlank, ownersOf } from './manifest-owners.ts';
import { type ManifestContext, parseManifest } from './static-pod.ts';
import type { PodSpecRow } from './worker.ts';

export interface FileSourceOptions {
  /** A file, or a folder whose files (without those that begin with a dot, and without folders) each hold a manifest. It may come into being later. */
  readonly path: string;
  /** The bytes of a regular file, at most so many, and when it was written (wall, ms). Rejects with AgentError: NotFound, TooLarge, NotAFile, …. */
  readonly readFile: (file: string, mostBytes: number) => Promise<{ readonly bytes: Uint8Array; readonly modifiedAt: number }>;
  readonly nodeName: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** By UID. */
  readonly table: Table<PodSpecRow>;
  /** fileCheckFrequency, ms: how often all is read anew beside the watch. */
  readonly checkIntervalMs: number;
  /** Told of a pod that does not run because another of the source has its name. */
  readonly duplicate?: ((pod: AgentPod, files: { readonly ignored: string; readonly owner: string }) => void) | undefined;
  /** What outlives the agent; without it a later agent chooses anew between files of one pod, and knows nothing of what a bad file held. */
  readonly memory?:
    | {
        entries(): Iterable<[string, ManifestMemory]>;
        get(key: string): ManifestMemory | undefined;
        set(key: string, value: ManifestMemory): void;
        delete(key: string): void;
      }
    | undefined;
  readonly unknownFields: ManifestContext['unknownFields'];
  readonly allowApiReferences: boolean;
}

export interface StaticSource extends AsyncDisposable {
  /** Stops watching and lets go of all pods, so that they end. */
  drain(): Promise<void>;
  /** What is wrong with manifests now, by file or URL. */
  problems(): ReadonlyMap<string, string>;
  /** What is no Pod and is passed over, by file or URL: a word for each. */
  passedOver(): ReadonlyMap<string, string>;
}

const maxManifestBytes = 10 * 1024 * 1024;
// An editor writes in several steps: read when it has paused.
const settleMs = 50;

// A file that is replaced may be gone for a moment; a copy beside it takes over its pod only after this time.
const takeoverDelayMs = 3_000;

/** What one file said when it was last read. */
interface FileState {
  readonly text: string;
  /** The last text that could be used, and what it holds. */
  readonly good: string | undefined;
  readonly pods: readonly AgentPod[];
  /** Wall time, ms. */
  readonly modifiedAt: number;
  readonly warnings: readonly string[];
  readonly passedOver: readonly string[];
  readonly error: string | undefined;
  /** When it was first found missing (mono, ms) while a copy beside it waits to take over. */
  readonly goneSince?: number;
}

/** What is remembered of a manifest over restarts of the agent. */
export interface ManifestMemory {
  readonly file: string;
  /** The last text that could be used. */
  readonly text: string;
  /** `namespace/name` of the pods that it has the name of. */
  readonly owns: readonly string[];
}

/**
 * Keeps the table at what the manifests say. A change is taken over at once; a file that turns bad or blank keeps its pods as long as it is there: who saves
 * half a file ends nothing, and a control plane does not go for a typing error. (A kubelet ends them at its next look.) Of several files with a pod of one
 * name the one that had it first keeps it. One bad file never touches another's pods.
 */
export function startFileSource(options: FileSourceOptions): StaticSource {
  const { clock, log, table, path } = options;
  const controller = new AbortController();
  const stop = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  else options.signal.addEventListener('abort', stop, { once: true });
  const { signal } = controller;
  let files = new Map<string, FileState>();
  let takeoverAt: number | undefined;
  let watched: { readonly watcher: FSWatcher; readonly inode: number } | undefined;
  let settling: Disposable | undefined;
  let wake: (() => void) | undefined;
  let changed = false;
  let folderProblem: string | undefined;
  // By file, what the watch has told since they were last read: how often the name came or went, and whether it was written to after that.
  let told = new Map<string, { moves: number; written: boolean }>();
  // Files with a pod that another file has already.
  const ignored = new Map<string, string>();
  let toldIgnored = new Set<string>();
  // By `namespace/name`: the file whose pod has the name.
  let owners = new Map<string, string>();
  const memory = options.memory;

  function onChange(event: string, name: string | null, target: string): void {
    // The folder itself was removed or moved (IN_DELETE_SELF): the watch is dead, also where a new one gets the same inode.
    if (event === 'rename' && name === basename(target)) {
      watched?.watcher.close();
      watched = undefined;
    } else if (name?.startsWith('.') === true || (name !== null && target !== path && name !== basename(path))) return;
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

  async function scan(): Promise<void> {
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
      const state = await readManifest(file, files.get(file), anew.has(file));
      if (state !== undefined) next.set(file, state);
      // Made again, and not whole yet: that it is new counts when it is.
      if (state?.error !== undefined && anew.delete(file)) told.set(file, { moves: 2, written: true });
    }
    if (signal.aborted) return;
    keepReplaced(next);
    files = next;
    publish(anew);
    remember();
    table.markSynced();
  }

  /** A file that is gone keeps its pods for a moment where a copy would take over: an editor may be about to put it back. */
  function keepReplaced(next: Map<string, FileState>): void {
    takeoverAt = undefined;
    const held = new Set([...next.values()].flatMap(({ pods }) => pods.map(podKey)));
    for (const [file, state] of files) {
      if (next.has(file) || !state.pods.some((pod) => held.has(podKey(pod)) && owners.get(podKey(pod)) === file)) continue;
      const goneSince = state.goneSince ?? clock.mono();
      const until = goneSince + takeoverDelayMs;
      if (clock.mono() >= until) continue;
      next.set(file, { ...state, goneSince });
      takeoverAt = Math.min(takeoverAt ?? until, until);
    }
  }

  /** `fresh`: it was removed and made again. */
  async function readManifest(file: string, before: FileState | undefined, fresh: boolean): Promise<FileState | undefined> {
    let text = before?.text ?? '';
    let modifiedAt = before?.modifiedAt ?? 0;
    try {
      const read = await readAtMost(file, options.readFile);
      if (read === undefined) return undefined;
      ({ modifiedAt } = read);
      if (!fresh && read.text === before?.text && before.error === undefined) {
        const { goneSince: _, ...state } = before;
        return { ...state, modifiedAt };
      }
      ({ text } = read);
      if (before !== undefined && before.pods.length > 0 && isBlank(text))
        throw new AgentError('InvalidManifest', `${file}: the file is blank`);
      const { pods, warnings, passedOver } = parse(file, text);
      for (const warning of warnings) log.warn({ path: file }, warning);
      for (const word of passedOver) log.info({ path: file }, word);
      return { text, good: text, pods, modifiedAt, warnings, passedOver, error: undefined };
    } catch (error) {
      const pods = before?.pods ?? [];
      const names = pods.map(podKey).join(', ');
      const message =
        messageOf(error) + (names === '' ? '' : `; what it held before runs on until the file is mended or removed: ${names}`);
      if (before?.error !== message) log.error({ path: file, err: message }, 'manifest cannot be used');
      return { text, good: before?.good, pods, modifiedAt, warnings: [], passedOver: [], error: message };
    }
  }

  function parse(origin: string, text: string): ReturnType<typeof parseManifest> {
    const { nodeName, unknownFields, allowApiReferences } = options;
    return parseManifest(text, { origin, source: 'file', nodeName, now: clock.wall(), unknownFields, allowApiReferences });
  }

  function publish(anew: ReadonlySet<string>): void {
    const claims = [...files].map(([file, { pods, modifiedAt }]) => ({ file, pods, modifiedAt }));
    const decided = ownersOf(claims, owners);
    owners = new Map(decided.owners);
    ignored.clear();
    const told = new Set<string>();
    for (const { file, pod, owner, same } of decided.ignored) {
      const key = podKey(pod);
      ignored.set(
        file,
        `${file}: pod ${key} does not run, because ${owner} has one of this ${same}: give it a metadata.${same} of its own`,
      );
      const once = `${file} ${owner} ${pod.metadata.uid}`;
      told.add(once);
      if (toldIgnored.has(once)) continue;
      log.warn({ path: file, pod: key, owner }, `pod ignored: another manifest had one of the same ${same} first`);
      if (same === 'name') options.duplicate?.(pod, { ignored: file, owner });
    }
    toldIgnored = told;
    const rows = new Map<string, PodSpecRow>();
    for (const [uid, pod] of decided.wanted) {
      const file = owners.get(podKey(pod));
      rows.set(uid, keepFirstSeen(file !== undefined && anew.has(file) ? undefined : table.get(uid), pod));
    }
    table.replace(rows);
  }

  /** Writes down what a later agent has to know: which file has which name, and what a file held that is bad by then. */
  function remember(): void {
    if (memory === undefined) return;
    const keys = new Set<string>();
    for (const [file, { good }] of files) {
      if (good === undefined) continue;
      const owns = [...owners].filter(([, owner]) => owner === file).map(([key]) => key);
      const key = memoryKey(file);
      keys.add(key);
      const known = memory.get(key);
      if (known?.text !== good || known.owns.join() !== owns.join()) memory.set(key, { file, text: good, owns });
    }
    for (const [key] of [...memory.entries()]) if (!keys.has(key)) memory.delete(key);
  }

  /** What an earlier agent has written down. */
  function recall(): void {
    for (const [, { file, text, owns }] of memory?.entries() ?? []) {
      try {
        const { pods } = parse(file, text);
        // No text that a file can have: it is read anew.
        files.set(file, { text: '\0', good: text, pods, modifiedAt: 0, warnings: [], passedOver: [], error: undefined });
        for (const key of owns) owners.set(key, file);
      } catch (error) {
        log.warn({ path: file, err: messageOf(error) }, 'what was remembered of a manifest is of no use any more');
      }
    }
  }

  async function run(): Promise<void> {
    let auditAt = clock.mono();
    recall();
    while (!signal.aborted) {
      await watchPath().catch((error: unknown) =>
        log.warn({ path, err: messageOf(error) }, 'cannot watch the manifests; they are read periodically'),
      );
      const audit = clock.mono() >= auditAt;
      if (audit) auditAt = clock.mono() + options.checkIntervalMs;
      changed = false;
      await scan();
      if (changed) continue;
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      using _timer = clock.after(Math.max(Math.min(auditAt, takeoverAt ?? auditAt) - clock.mono(), 0), resolve);
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
    passedOver: () =>
      new Map([...files].flatMap(([file, state]) => (state.passedOver.length > 0 ? [[file, state.passedOver.join('; ')] as const] : []))),
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
    let info: Stats | undefined;
    try {
      info = await statIfThere(file);
    } catch {
      // A link to itself, or no permission: reading it tells what is wrong with this file alone.
      files.push(file);
      continue;
    }
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

/** A name that a journal takes. */
function memoryKey(file: string): string {
  return createHash('sha256').update(file).digest('hex').slice(0, 32);
}

/** The text of a file and when it was written; undefined when it has gone. */
async function readAtMost(
  file: string,
  read: FileSourceOptions['readFile'],
): Promise<{ readonly text: string; readonly modifiedAt: number } | undefined> {
  try {
    const { bytes, modifiedAt } = await read(file, maxManifestBytes);
    return { text: decodeFileText(bytes), modifiedAt };
  } catch (error) {
    if (hasCode(error, 'NotFound')) return undefined;
    throw error;
  }
}
