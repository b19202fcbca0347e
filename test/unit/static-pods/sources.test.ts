import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { proxyAgentFor } from '../../../agent/drivers/kube/tunnel.ts';
import { configFirstSeenAnnotation } from '../../../agent/model/pod.ts';
import { startFileSource } from '../../../agent/pods/file-source.ts';
import { startHttpSource } from '../../../agent/pods/http-source.ts';
import type { PodSpecRow } from '../../../agent/pods/worker.ts';
import { startConnectProxy } from '../../fakes/connect-proxy.ts';

const manifest = (name: string, image = 'busybox:1'): string =>
  JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec: { containers: [{ name: 'app', image }] } });

/** Resolves when the table shows what is looked for; rejects after 5 s. */
async function until<T>(table: Table<PodSpecRow>, look: () => T | undefined | false): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const check = (): void => {
    const found = look();
    if (found !== undefined && found !== false) resolve(found);
  };
  using _rows = table.subscribe(check);
  using _synced = table.onSynced(check);
  using _late = systemClock.after(5000, () => reject(new Error(`the table has ${names(table).join(', ') || 'nothing'}`)));
  check();
  return await promise;
}

const names = (table: Table<PodSpecRow>): string[] => [...table.values()].map((row) => row.pod.metadata.name).sort();
const shows = (table: Table<PodSpecRow>, ...wanted: string[]): boolean => names(table).join() === wanted.join();
const imageOf = (table: Table<PodSpecRow>): string | undefined => [...table.values()][0]?.pod.spec.containers[0]?.image;

function startFiles(path: string, checkIntervalMs = 60_000) {
  const table = new Table<PodSpecRow>('files');
  const source = startFileSource({
    path,
    nodeName: 'n1',
    clock: systemClock,
    log: silentLog,
    signal: new AbortController().signal,
    table,
    checkIntervalMs,
    unknownFields: 'refuse',
    allowApiReferences: false,
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

test('a bad file leaves the others alone, and is out at the audit', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, 'a.json'), manifest('a'));
  writeFileSync(join(path, 'b.json'), manifest('b'));
  writeFileSync(join(path, 'bad.json'), '{');
  const { table, source } = startFiles(path, 300);
  await using _source = source;
  await until(table, () => table.synced && shows(table, 'a-n1', 'b-n1'));
  assert.deepEqual([...source.problems().keys()], [join(path, 'bad.json')]);
  const before = table.get([...table.keys()][0] ?? '');
  writeFileSync(join(path, 'b.json'), '{"half":');
  await until(table, () => shows(table, 'a-n1'));
  assert.equal(table.get([...table.keys()][0] ?? ''), before, 'the row of a pod that did not change stays the same');
  writeFileSync(join(path, 'b.json'), manifest('b'));
  await until(table, () => shows(table, 'a-n1', 'b-n1'));
  assert.equal(source.problems().size, 1);
});

test('what a file holds and does not run is told: a pod of a name that is taken, a second document', async (t) => {
  const path = folder(t);
  writeFileSync(join(path, 'a.json'), manifest('a'));
  writeFileSync(join(path, 'copy.json'), manifest('a', 'busybox:2'));
  writeFileSync(join(path, 'two.yaml'), `${manifest('b')}\n---\n${manifest('c')}`);
  const { table, source } = startFiles(path);
  await using _source = source;
  await until(table, () => table.synced && shows(table, 'a-n1', 'b-n1'));
  assert.match(
    source.problems().get(join(path, 'copy.json')) ?? '',
    /pod default\/a-n1 does not run, because .*a\.json has one of this name/,
  );
  assert.match(source.problems().get(join(path, 'two.yaml')) ?? '', /only the first YAML document is used/);
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
