// The authority of the node's clients is replaced under a running node: the API server, which keeps its connections to the node, is refused on them at once,
// and let in again when its authority is back.
import assert from 'node:assert/strict';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Node } from '../../agent/model/generated/api.ts';
import { makeCa } from '../fakes/certs.ts';
import { api } from '../testbed/control-plane.ts';
import { openLab, startLab, stopLab } from '../testbed/lab.ts';
import { labPaths } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';

const name = `clientca-${process.pid}`;
const nodeName = (): string => openLab(name).nodes[0]?.name ?? '';
const nodePath = (): string => `/api/v1/nodes/${nodeName()}`;

/** What the node answers to the API server: its text, or the error's. */
async function asked(): Promise<string> {
  try {
    await api(openLab(name), `${nodePath()}/proxy/configz`);
    return 'let in';
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

before(() => startLab({ name, agent: 'keelson', nodes: 1 }));
after(() => stopLab(name));

test('clientCAFile is replaced under a running node', { timeout: 300_000 }, async (t) => {
  const file = join(labPaths(name).node('n1').home, 'etc-kubernetes', 'pki', 'ca.crt');
  const theirs = readFileSync(file, 'utf8');
  using other = makeCa('other');
  const put = (text: string): void => {
    writeFileSync(`${file}.new`, text);
    renameSync(`${file}.new`, file);
  };
  assert.equal(await asked(), 'let in');
  put(other.cert);
  // Asked all the time, so that the API server's connection never falls idle. The file is looked at every ten seconds.
  const since = performance.now();
  const answers = new Set<string>();
  const refusal = await waitFor('the API server to be refused', 30_000, async () => {
    const answer = await asked();
    answers.add(answer);
    return answer === 'let in' ? undefined : answer;
  });
  t.diagnostic(`refused after ${Math.round(performance.now() - since)} ms: ${refusal}`);
  assert.match(refusal, /401|Unauthorized|asked for the client to provide credentials/i);
  const ready = (await api<Node>(openLab(name), nodePath())).status?.conditions?.find(({ type }) => type === 'Ready');
  assert.equal(ready?.status, 'True', 'the node itself is not touched by it');
  // Both, as while authorities are rotated.
  put(other.cert + theirs);
  await waitFor('the API server to be let in again', 30_000, async () => ((await asked()) === 'let in' ? true : undefined));
});
