// Static pods in a real cluster: the mirror on the API follows the manifest, and the pod follows the manifest whether there is an API server or not.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { stringify } from 'yaml';
import type { Pod } from '../../agent/model/generated/api.ts';
import { ensureBinaries } from '../testbed/binaries.ts';
import { api, kubectl as runKubectl, waitForApiserver } from '../testbed/control-plane.ts';
import { openLab, restartAgent, startAgain, startLab, stopComponent, stopLab } from '../testbed/lab.ts';
import { labPaths } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';

const name = 'static';
const mirrorName = `web-${name}-n1`;
const image = 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1';
const { home } = labPaths(name).node('n1');
const manifests = join(home, 'etc-kubernetes', 'manifests');
const podLogs = join(home, 'pod-logs');
let binary: string;

const kubectl = (...args: string[]): Promise<string> => runKubectl(openLab(name), binary, args);
const mirrors = async (): Promise<Pod[]> => (await api<{ items: Pod[] }>(openLab(name), '/api/v1/namespaces/default/pods')).items;
const hashOf = (pod: Pod | undefined): string | undefined => pod?.metadata?.annotations?.['kubernetes.io/config.mirror'];

/** As a careful editor does it: the manifest appears at once and whole. */
function write(text: string): void {
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'web', labels: { app: 'web' } },
    spec: {
      terminationGracePeriodSeconds: 2,
      containers: [{ name: 'main', image, command: ['/bin/sh', '-c', `echo ${text}; trap 'exit 0' TERM; while :; do sleep 0.1; done`] }],
    },
  };
  writeFileSync(join(manifests, '.new'), stringify(pod));
  renameSync(join(manifests, '.new'), join(manifests, 'web.yaml'));
}

/** What the pods called web have written, by UID, as it lies on the node. */
function written(): Map<string, string> {
  const found = new Map<string, string>();
  for (const folder of readdirSync(podLogs)) {
    if (!folder.startsWith(`default_${mirrorName}_`)) continue;
    const file = join(podLogs, folder, 'main', '0.log');
    found.set(folder.split('_')[2] ?? '', existsSync(file) ? readFileSync(file, 'utf8') : '');
  }
  return found;
}
const saysLocally = (text: string): Promise<string> =>
  waitFor(`a local pod that says ${text} alone`, 20_000, () => {
    const logs = [...written()];
    return logs.length === 1 && logs[0]?.[1].includes(` ${text}\n`) ? logs[0][0] : undefined;
  });
/** The mirror that shows this hash, Running and Ready. */
const shown = (hash: string): Promise<Pod> =>
  waitFor(`the mirror of ${hash} to be ready`, 60_000, async () => {
    const all = await mirrors();
    const ready = all[0]?.status?.conditions?.find((c) => c.type === 'Ready')?.status;
    return all.length === 1 && hashOf(all[0]) === hash && ready === 'True' ? all[0] : undefined;
  });

before(async () => {
  binary = (await ensureBinaries(['kubectl'])).kubectl;
  await startLab({ name, registry: false, images: ['busybox'] });
});
after(() => stopLab(name));

describe('static pods', () => {
  let hash: string;

  test('a manifest runs, and its mirror shows it', async () => {
    write('one');
    hash = await saysLocally('one');
    const pod = await shown(hash);
    assert.equal(pod.metadata?.name, mirrorName);
    assert.equal(pod.metadata?.annotations?.['kubernetes.io/config.source'], 'file');
    assert.deepEqual(
      pod.metadata?.ownerReferences?.map(({ kind, name: owner, controller }) => ({ kind, owner, controller })),
      [{ kind: 'Node', owner: `${name}-n1`, controller: true }],
    );
    assert.equal(pod.status?.phase, 'Running');
    assert.match(pod.status?.podIP ?? '', /^10\.244\./);
  });

  test('logs, exec and events by the name of the mirror', async () => {
    assert.equal(await kubectl('logs', mirrorName), 'one\n');
    assert.equal(await kubectl('exec', mirrorName, '--', 'echo', 'inside'), 'inside\n');
    await waitFor('the events', 10_000, async () => {
      const text = await kubectl('describe', 'pod', mirrorName);
      return /Normal\s+Started\s.*Container started/.test(text) ? true : undefined;
    });
  });

  test('a mirror that is deleted comes back with its status; the pod runs on', async () => {
    const [before] = await mirrors();
    await kubectl('delete', 'pod', mirrorName, '--wait=false');
    const again = await waitFor('another mirror', 20_000, async () => {
      const pod = await shown(hash);
      return pod.metadata?.uid === before?.metadata?.uid ? undefined : pod;
    });
    assert.deepEqual(again.status?.containerStatuses, before?.status?.containerStatuses);
    assert.equal(again.status?.podIP, before?.status?.podIP);
    assert.equal([...written().keys()].join(), hash);
  });

  test('an edit replaces the pod and its mirror', async () => {
    write('two');
    const next = await saysLocally('two');
    assert.notEqual(next, hash);
    hash = next;
    await shown(hash);
    assert.equal(await kubectl('logs', mirrorName), 'two\n');
  });

  test('an agent that is killed keeps pod and mirror', async () => {
    const [before] = await mirrors();
    await restartAgent(name, { signal: 'SIGKILL' });
    await waitFor('the agent to answer', 30_000, async () => ((await kubectl('logs', mirrorName)) === 'two\n' ? true : undefined));
    const [pod] = await mirrors();
    assert.equal(pod?.metadata?.uid, before?.metadata?.uid);
    assert.deepEqual(pod?.status, before?.status);
  });

  test('without an API server the pod follows the manifest all the same, and the mirror catches up', async () => {
    await stopComponent(name, 'apiserver');
    write('three');
    hash = await saysLocally('three');
    rmSync(join(manifests, 'web.yaml'));
    await waitFor('the pod to be gone', 20_000, () => (written().size === 0 ? true : undefined));
    write('four');
    await restartAgent(name, { signal: 'SIGKILL' });
    hash = await saysLocally('four');
    await startAgain(name, 'apiserver');
    await waitForApiserver(openLab(name));
    const pod = await shown(hash);
    assert.equal(pod.status?.containerStatuses?.[0]?.restartCount, 0);
  });

  test('a manifest that goes takes pod and mirror along', async () => {
    rmSync(join(manifests, 'web.yaml'));
    await waitFor('pod and mirror to be gone', 20_000, async () =>
      (await mirrors()).length === 0 && written().size === 0 ? true : undefined,
    );
  });
});
