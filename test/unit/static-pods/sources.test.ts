import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { readDated } from '../../../agent/drivers/files/look.ts';
import { proxyAgentFor } from '../../../agent/drivers/kube/tunnel.ts';
import { configFirstSeenAnnotation } from '../../../agent/model/pod.ts';
import { type FileSourceOptions, type ManifestMemory, startFileSource } from '../../../agent/pods/file-source.ts';
import { startHttpSource } from '../../../agent/pods/http-source.ts';
import type { PodSpecRow } from '../../../agent/pods/worker.ts';
import { startConnectProxy } from '../../fakes/connect-proxy.ts';

const manifest = (name: string, image = 'busybox:1'): string =>
  JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec: { containers: [{ name: 'app', image }] } });

/** Resolves when the table shows what is looked for, or what else is asked for does; rejects after 5 s. */
async function until<T>(table: Table<PodSpecRow> | object, look: () => T | undefined | false): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const check = (): void => {
    const found = look();
    if (found !== undefined && found !== false) resolve(found);
  };
  using stack = new DisposableStack();
  if (table instanceof Table) {
    stack.use(table.subscribe(check));
    stack.use(table.onSynced(check));
  } else {
    const ticking = setInterval(check, 10);
    stack.defer(() => clearInterval(ticking));
  }
  stack.use(
    systemClock.after(5000, () =>
      reject(new Error(`the table has ${table instanceof Table ? names(table).join(', ') : 'something else'}`)),
    ),
  );
  check();
  return await promise;
}

const names = (table: Table<PodSpecRow>): string[] => [...table.values()].map((row) => row.pod.metadata.name).sort();
const shows = (table: Table<PodSpecRow>, ...wanted: string[]): boolean => names(table).join() === wanted.join();
const imageOf = (table: Table<PodSpecRow>): string | undefined => [...table.values()][0]?.pod.spec.containers[0]?.image;

function startFiles(path: string, checkIntervalMs = 60_000, more: Partial<FileSourceOptions> = {}) {
  const table = new Table<PodSpecRow>('files');
  const source = startFileSource({
    readFile: readDated,
    path,
    nodeName: 'n1',
    clock: systemClock,
    log: silentLog,
    signal: new AbortController().signal,
    table,
    checkIntervalMs,
    unknownFields: 'refuse',
    allowApiReferences: false,
    ...more,
  });
  return { table, source };
}

function folder(t: { after(fn: () => void): void }): string {
  const made = mkdtempSync(join(tmpdir(), 'manifests-'));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

test('a folder: files come, change, move in and go; dotfiles and folders are no manifests', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, 'a.json'), manifest('a'));
  writeFileSync(join(path, '.b.json'), manifest('hidden'));
  mkdirSync(join(path, 'sub'));
  const { table, source } = startFiles(path);
  await using _source = source;
  await until(table, () => table.synced && shows(table, 'a-n1'));
  const first = [...table.keys()][0];

  writeFileSync(join(path, 'a.json'), manifest('a', 'busybox:2'));
  await until(table, () => imageOf(table) === 'busybox:2');
  assert.ok(!table.has(first ?? ''), 'an edit is another pod');

  renameSync(join(path, '.b.json'), join(path, 'b.json'));
  await until(table, () => shows(table, 'a-n1', 'hidden-n1'));
  rmSync(join(path, 'a.json'));
  await until(table, () => shows(table, 'hidden-n1'));
});

test('a bad file leaves the others alone, and what it held before runs on', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, 'a.json'), manifest('a'));
  writeFileSync(join(path, 'b.json'), manifest('b'));
  writeFileSync(join(path, 'bad.json'), '{');
  const { table, source } = startFiles(path, 300);
  await using _source = source;
  await until(table, () => table.synced && shows(table, 'a-n1', 'b-n1'));
  assert.deepEqual([...source.problems().keys()], [join(path, 'bad.json')]);
  const before = table.get([...table.keys()][0] ?? '');
  for (const [text, why] of [
    ['{"half":', /not YAML|YAML|JSON/],
    ['', /blank/],
    ['# all of it is a comment now\n', /blank/],
    ['{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}', /containers/],
  ] as const) {
    writeFileSync(join(path, 'b.json'), text);
    // Longer than an audit.
    await until(source, () => why.test(source.problems().get(join(path, 'b.json')) ?? ''));
    await systemClock.sleep(400, new AbortController().signal);
    assert.ok(shows(table, 'a-n1', 'b-n1'), text);
    assert.match(
      source.problems().get(join(path, 'b.json')) ?? '',
      /what it held before runs on until the file is mended or removed: default\/b-n1/,
    );
  }
  assert.equal(table.get([...table.keys()][0] ?? ''), before, 'the row of a pod that did not change stays the same');
  writeFileSync(join(path, 'b.json'), manifest('b', 'busybox:2'));
  await until(table, () => [...table.values()].some(({ pod }) => pod.spec.containers[0]?.image === 'busybox:2'));
  assert.ok(shows(table, 'a-n1', 'b-n1'));
  assert.equal(source.problems().size, 1);
  writeFileSync(join(path, 'b.json'), '{');
  rmSync(join(path, 'b.json'));
  await until(table, () => shows(table, 'a-n1'));
});

test('what a file holds and does not run is told: a pod of a name that is taken, a Service, a file that is no manifest', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, 'a.json'), manifest('a'));
  writeFileSync(join(path, 'copy.json'), manifest('a', 'busybox:2'));
  writeFileSync(join(path, 'two.yaml'), `${manifest('b')}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n---\n${manifest('c')}`);
  writeFileSync(join(path, 'README'), 'How to: run it\n');
  writeFileSync(join(path, 'latin.yaml'), Buffer.from('a: 1\nb: Zürich\n', 'latin1'));
  const { table, source } = startFiles(path);
  await using _source = source;
  await until(table, () => table.synced && shows(table, 'a-n1', 'b-n1', 'c-n1'));
  assert.match(
    source.problems().get(join(path, 'copy.json')) ?? '',
    /pod default\/a-n1 does not run, because .*a\.json has one of this name/,
  );
  assert.match(source.problems().get(join(path, 'latin.yaml')) ?? '', /the byte 0xfc in line 2 is no UTF-8/);
  assert.equal(source.problems().size, 2);
  assert.deepEqual([...source.passedOver()].map(([, word]) => word.replace(path, '')).sort(), [
    '/README is passed over: it is no manifest',
    '/two.yaml: document 2: Service s is passed over: without a cluster only Pods run',
  ]);
});

test('half a file saved ends nothing before the audit', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, 'a.json'), manifest('a'));
  const { table, source } = startFiles(path);
  await using _source = source;
  await until(table, () => shows(table, 'a-n1'));
  writeFileSync(join(path, 'a.json'), '{"half":');
  // A second file shows that the first has been read again.
  writeFileSync(join(path, 'c.json'), manifest('c'));
  await until(table, () => shows(table, 'a-n1', 'c-n1'));
  assert.match(source.problems().get(join(path, 'a.json')) ?? '', /a\.json/);
});

test('of two pods of one name the first file has it', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, '1.json'), manifest('a', 'first:1'));
  writeFileSync(join(path, '2.json'), manifest('a', 'second:1'));
  const { table, source } = startFiles(path);
  await using _source = source;
  await until(table, () => table.synced);
  assert.equal(table.size, 1);
  assert.equal(imageOf(table), 'first:1');
});

test('one file as path, replaced by rename; and a folder that comes later', async (t) => {
  const path = folder(t);
  const file = join(path, 'pod.json');
  writeFileSync(file, manifest('a'));
  const { table, source } = startFiles(file);
  await using _source = source;
  await until(table, () => shows(table, 'a-n1'));
  writeFileSync(join(path, 'next'), manifest('a', 'busybox:2'));
  renameSync(join(path, 'next'), file);
  await until(table, () => imageOf(table) === 'busybox:2');

  const later = startFiles(join(path, 'later'), 100);
  await using _later = later.source;
  await until(later.table, () => later.table.synced && later.table.size === 0);
  mkdirSync(join(path, 'later'));
  writeFileSync(join(path, 'later', 'b.json'), manifest('b'));
  await until(later.table, () => shows(later.table, 'b-n1'));
});

test('a folder that is removed and made again is watched again: file systems give out its inode number a second time', async (t) => {
  const path = join(folder(t), 'manifests');
  mkdirSync(path);
  writeFileSync(join(path, 'a.json'), manifest('a'));
  const { table, source } = startFiles(path);
  await using _source = source;
  await until(table, () => shows(table, 'a-n1'));
  const { ino } = statSync(path);
  // ext4 takes the lowest free number of its group: until it is the same one.
  for (let tries = 0; tries < 100; tries++) {
    rmSync(path, { recursive: true });
    mkdirSync(path);
    if (statSync(path).ino === ino) break;
  }
  if (statSync(path).ino !== ino) t.diagnostic('this file system gives out no inode number twice');
  await until(table, () => table.size === 0);
  writeFileSync(join(path, 'b.json'), manifest('b'));
  await until(table, () => shows(table, 'b-n1'));
});

test('a file that is removed and made again is seen anew, one that is replaced by the same is not', async (t) => {
  const path = folder(t);
  const [file, other] = [join(path, 'a.json'), join(path, '.new')];
  writeFileSync(file, manifest('a'));
  const { table, source } = startFiles(path);
  await using _source = source;
  await until(table, () => table.synced && shows(table, 'a-n1'));
  const [uid, before] = [...table.entries()][0] ?? [];

  writeFileSync(other, manifest('a'));
  renameSync(other, file);
  writeFileSync(join(path, 'b.json'), manifest('b'));
  await until(table, () => shows(table, 'a-n1', 'b-n1'));
  assert.equal(table.get(uid ?? ''), before);

  rmSync(file);
  writeFileSync(file, manifest('a'));
  await until(table, () => table.get(uid ?? '') !== before);
  const row = table.get(uid ?? '');
  assert.notEqual(
    row?.pod.metadata.annotations?.[configFirstSeenAnnotation],
    before?.pod.metadata.annotations?.[configFirstSeenAnnotation],
  );
});

test('draining lets go of every pod and watches no more', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, 'a.json'), manifest('a'));
  const { table, source } = startFiles(path, 50);
  await until(table, () => shows(table, 'a-n1'));
  await source.drain();
  assert.equal(table.size, 0);
  assert.ok(table.synced);
});

test('a URL is asked with its headers; what cannot be used changes nothing', async (t) => {
  let answer: { status: number; text: string } = { status: 500, text: 'no' };
  const seen: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    seen.push(request.headers['x-cluster'] as string | undefined);
    response.writeHead(answer.status).end(answer.text);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const table = new Table<PodSpecRow>('url');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/pods`;
  await using source = startHttpSource({
    url,
    headers: { 'X-Cluster': ['a'] },
    nodeName: 'n1',
    clock: systemClock,
    log: silentLog,
    signal: new AbortController().signal,
    table,
    checkIntervalMs: 20,
    unknownFields: 'refuse',
    allowApiReferences: false,
  });
  while (source.problems().size === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.match(source.problems().get(url) ?? '', /HTTP status 500/);
  assert.ok(!table.synced, 'nothing is known yet');
  answer = { status: 200, text: manifest('a') };
  await until(table, () => table.synced && shows(table, 'a-n1'));
  assert.equal([...table.values()][0]?.source, 'http');
  assert.equal(seen[0], 'a');
  answer = { status: 200, text: '{' };
  while (source.problems().size === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.ok(shows(table, 'a-n1'));
});

test('a URL is asked for through the proxy that the environment names', async (t) => {
  const server = createServer((_request, response) => void response.end(manifest('a')));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  await using proxy = await startConnectProxy((server.address() as AddressInfo).port);
  const url = 'http://manifests.example/pods';
  assert.equal(proxyAgentFor(url, { HTTP_PROXY: proxy.url, NO_PROXY: '.example' }), undefined);
  const dispatcher = proxyAgentFor(url, { HTTP_PROXY: proxy.url });
  t.after(() => dispatcher?.destroy());
  const table = new Table<PodSpecRow>('url');
  await using _source = startHttpSource({
    url,
    headers: {},
    dispatcher,
    nodeName: 'n1',
    clock: systemClock,
    log: silentLog,
    signal: new AbortController().signal,
    table,
    checkIntervalMs: 20,
    unknownFields: 'refuse',
    allowApiReferences: false,
  });
  await until(table, () => table.synced && shows(table, 'a-n1'));
  assert.equal(proxy.asked[0], `GET ${url}`);
});

for (const copy of ['etcd-backup.yaml', 'etcd.yaml~', 'etcd.yaml.bak', '0-etcd.yaml', '.#etcd.yaml'])
  test(`a copy beside the manifest takes nothing over: ${copy}`, async (t) => {
    const path = folder(t);
    const original = join(path, 'etcd.yaml');
    writeFileSync(original, manifest('etcd', 'etcd:1'));
    const memory = new Map<string, ManifestMemory>();
    const told: string[] = [];
    const more = {
      memory,
      duplicate: (_: unknown, { ignored, owner }: { ignored: string; owner: string }) => void told.push(`${ignored} ${owner}`),
    };
    const first = startFiles(path, 200, more);
    await until(first.table, () => imageOf(first.table) === 'etcd:1');
    writeFileSync(join(path, copy), manifest('etcd', 'etcd:1'));
    // A second file shows that the folder has been read again.
    writeFileSync(join(path, 'z.yaml'), manifest('z'));
    await until(first.table, () => first.table.size === 2);
    assert.deepEqual(images(first.table), ['busybox:1', 'etcd:1']);
    writeFileSync(original, manifest('etcd', 'etcd:2'));
    await until(first.table, () => images(first.table).includes('etcd:2'));
    assert.equal(first.table.size, 2);
    if (copy.startsWith('.')) assert.deepEqual(told, []);
    else {
      assert.deepEqual(told, [`${join(path, copy)} ${original}`]);
      assert.match(first.source.problems().get(join(path, copy)) ?? '', /etcd-n1 does not run, because .*etcd\.yaml has one of this name/);
    }
    // Half of an edit, and a restart of the agent in the middle of it.
    writeFileSync(original, '{"half":');
    await until(first.source, () => first.source.problems().has(original));
    await first.source[Symbol.asyncDispose]();
    const second = startFiles(path, 200, more);
    await using _second = second.source;
    await until(second.table, () => second.table.synced);
    assert.deepEqual(images(second.table), ['busybox:1', 'etcd:2']);
    assert.deepEqual([...second.table.keys()].sort(), [...first.table.keys()].sort(), 'they are the same pods');
    writeFileSync(original, manifest('etcd', 'etcd:3'));
    await until(second.table, () => images(second.table).includes('etcd:3'));
    assert.equal(second.table.size, 2);
  });

const images = (table: Table<PodSpecRow>): string[] => [...table.values()].map((row) => row.pod.spec.containers[0]?.image ?? '').sort();

test('a copy takes over when the manifest has gone for good, and not while an editor puts it back', async (t) => {
  const path = folder(t);
  const original = join(path, 'etcd.yaml');
  writeFileSync(original, manifest('etcd', 'etcd:1'));
  const { table, source } = startFiles(path, 200);
  await using _source = source;
  await until(table, () => imageOf(table) === 'etcd:1');
  const seen: (string | undefined)[] = [];
  using _rows = table.subscribe(() => seen.push(imageOf(table)));
  // As vim does it, slowly: the original becomes the copy, then there is a new one.
  renameSync(original, `${original}~`);
  await systemClock.sleep(500, new AbortController().signal);
  assert.equal(imageOf(table), 'etcd:1');
  writeFileSync(original, manifest('etcd', 'etcd:2'));
  await until(table, () => imageOf(table) === 'etcd:2');
  rmSync(original);
  await until(table, () => imageOf(table) === 'etcd:1');
  const changes = seen.filter((image) => image !== undefined);
  assert.deepEqual(
    changes.filter((image, i) => image !== changes[i - 1]),
    ['etcd:2', 'etcd:1'],
  );
});

test('what is remembered of manifests goes with them', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, 'a.yaml'), manifest('a'));
  const memory = new Map<string, ManifestMemory>();
  const { table, source } = startFiles(path, 200, { memory });
  await using _source = source;
  await until(table, () => shows(table, 'a-n1'));
  await until(memory, () => memory.size === 1);
  rmSync(join(path, 'a.yaml'));
  await until(table, () => table.size === 0);
  await until(memory, () => memory.size === 0);
});
