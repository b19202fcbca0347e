// Users and their tools search for kubelet's words: whatever reason upstream records an event with, we do, or a data file says why not.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isNamed, recordedReasons } from './emitted.ts';
import { type EventCatalogue, readEventCatalogue } from './upstream.ts';

const version = '1.36.1';
const read = <T>(name: string): T => JSON.parse(readFileSync(join(import.meta.dirname, name), 'utf8')) as T;
const upstream = read<EventCatalogue>(`kubelet-${version}.json`);
/** `absent`: reasons of upstream's that we never record; `own`: reasons that upstream has not. Each with its why. */
const { absent, own } = read<{ absent: Record<string, string>; own: Record<string, string> }>('differences.json');

/** The folder of upstream's source, where a lab has been built on this machine. */
function upstreamFolder(): string | undefined {
  const caches = [process.env.GOMODCACHE, join(process.env.GOPATH ?? join(homedir(), 'go'), 'pkg/mod')];
  try {
    caches.push(execFileSync('go', ['env', 'GOMODCACHE'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim());
  } catch {
    // No Go on this machine.
  }
  return caches
    .filter((cache) => cache !== undefined && cache !== '')
    .map((cache) => join(cache ?? '', `k8s.io/kubernetes@v${version}`))
    .find((folder) => existsSync(folder));
}

test('the fixture has every reason that upstream’s source has', (t) => {
  const folder = upstreamFolder();
  if (folder === undefined) return t.skip('upstream’s source is not on this machine: the fixture stands for it');
  assert.deepEqual(readEventCatalogue(folder), upstream);
});

test('every reason of upstream’s is recorded here, or is absent for a reason that is written down', () => {
  assert.deepEqual(
    Object.keys(upstream).filter((reason) => !(reason in absent) && !isNamed(reason)),
    [],
    'upstream records these: record them too, or say in test/unit/events/differences.json why not',
  );
});

test('what is called absent is upstream’s, and is absent', () => {
  assert.deepEqual(
    Object.keys(absent).filter((reason) => !(reason in upstream) || isNamed(reason)),
    [],
    'these are recorded now (or are no words of upstream): take their lines out of test/unit/events/differences.json',
  );
});

test('a reason of our own is one that upstream has no word for', () => {
  const recorded = recordedReasons();
  assert.deepEqual(
    [...recorded].filter(([reason]) => !(reason in upstream) && !(reason in own)),
    [],
  );
  assert.deepEqual(
    Object.keys(own).filter((reason) => reason in upstream || !recorded.has(reason)),
    [],
  );
});

test('each difference has a why', () => {
  for (const why of [...Object.values(absent), ...Object.values(own)]) assert.match(why, /^[A-Z].{20,}\.$/);
});
