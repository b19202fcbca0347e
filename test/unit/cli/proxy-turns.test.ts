import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { type PodReadiness, startProxyTurns } from '../../../agent/cli/wiring/proxy-turns.ts';
import type { Pod } from '../../../agent/model/generated/api.ts';
import { manualClock } from '../identity/manual-clock.ts';

const kubeProxy: Pod = {
  metadata: { namespace: 'kube-system', name: 'kube-proxy-x', uid: 'u', labels: { 'k8s-app': 'kube-proxy' } },
  spec: { hostNetwork: true, containers: [] },
};

const readiness = (status: 'True' | 'False'): PodReadiness => ({ status: { conditions: [{ type: 'Ready', status }] } });

function node(removals: (Error | undefined)[] = [], sharesNames = false) {
  const clock = manualClock(0);
  const statuses = new Table<PodReadiness>('statuses');
  statuses.set('u', readiness('True'));
  const nodes = new Table<object>('nodes');
  const specs = new Table<{ pod: Pod }>('specs');
  const said: string[] = [];
  const turns = startProxyTurns({
    nodeName: 'n1',
    nodes,
    specs,
    statuses,
    sharesNames,
    async start() {
      said.push('start');
      return {
        releasePorts: async () => void said.push('ports'),
        async [Symbol.asyncDispose]() {
          said.push('stop');
        },
      };
    },
    async removeRules() {
      const problem = removals.shift();
      said.push(problem === undefined ? 'remove' : 'fail');
      if (problem !== undefined) throw problem;
    },
    leave: ({ metadata }) => void said.push(`leave to ${metadata?.name}`),
    clock,
    log: silentLog,
    signal: new AbortController().signal,
  });
  /** What was said within the time that a kube-proxy has, and failures need. */
  const heard = async (ms = 15_000): Promise<string[]> => {
    for (let left = ms; left >= 0; left -= 500) await clock.advance(Math.min(500, left));
    return said.splice(0);
  };
  return { nodes, specs, statuses, turns, heard };
}

describe('turns of the service proxy', () => {
  test('a kube-proxy comes, goes and comes again', async () => {
    const { nodes, specs, turns, heard } = node();
    nodes.set('n1', {});
    specs.markSynced();
    assert.deepEqual(await heard(), ['start']);
    specs.set('u', { pod: kubeProxy });
    assert.deepEqual(await heard(), ['ports', 'leave to kube-proxy-x', 'stop', 'remove']);
    specs.delete('u');
    assert.deepEqual(await heard(), ['start']);
    specs.set('u', { pod: kubeProxy });
    assert.deepEqual(await heard(), ['ports', 'leave to kube-proxy-x', 'stop', 'remove']);
    await turns[Symbol.asyncDispose]();
    await turns[Symbol.asyncDispose]();
    assert.deepEqual(await heard(), []);
  });

  test('rules of a run before go when a kube-proxy has come meanwhile, whether or not the Node is known', async () => {
    const { specs, turns, heard } = node();
    specs.set('u', { pod: kubeProxy });
    specs.markSynced();
    assert.deepEqual(await heard(), ['leave to kube-proxy-x', 'remove']);
    specs.set('u', { pod: { ...kubeProxy } });
    assert.deepEqual(await heard(), []);
    await turns[Symbol.asyncDispose]();
  });

  test('rules that could not be removed are tried again until they are', async () => {
    const { specs, nodes, turns, heard } = node([new AgentError('NftFailed', 'busy')]);
    nodes.set('n1', {});
    specs.markSynced();
    assert.deepEqual(await heard(), ['start']);
    specs.set('u', { pod: kubeProxy });
    assert.deepEqual(await heard(), ['ports', 'leave to kube-proxy-x', 'stop', 'fail', 'remove']);
    await turns[Symbol.asyncDispose]();
  });

  test('where nft is not installed there are no rules to remove', async () => {
    const { specs, turns, heard } = node([new AgentError('NftMissing', 'nft is not installed')]);
    specs.set('u', { pod: kubeProxy });
    specs.markSynced();
    assert.deepEqual(await heard(), ['leave to kube-proxy-x', 'fail']);
    specs.set('u', { pod: { ...kubeProxy } });
    assert.deepEqual(await heard(), []);
    await turns[Symbol.asyncDispose]();
  });

  test('a Node that goes away for a while does not end it', async () => {
    const { nodes, specs, turns, heard } = node();
    nodes.set('n1', {});
    specs.markSynced();
    assert.deepEqual(await heard(), ['start']);
    nodes.delete('n1');
    nodes.set('n1', {});
    assert.deepEqual(await heard(), []);
    await turns[Symbol.asyncDispose]();
    assert.deepEqual(await heard(), ['stop']);
  });

  test('our rules serve until the kube-proxy is Ready and has had time to program its own', async () => {
    const { nodes, specs, statuses, turns, heard } = node();
    statuses.set('u', readiness('False'));
    nodes.set('n1', {});
    specs.markSynced();
    assert.deepEqual(await heard(), ['start']);
    specs.set('u', { pod: kubeProxy });
    // The ports at once: it may be one that ends when it cannot listen.
    assert.deepEqual(await heard(), ['ports']);
    statuses.set('u', readiness('True'));
    await heard(5000);
    statuses.set('u', readiness('False'));
    assert.ok(!(await heard()).includes('stop'));
    statuses.set('u', readiness('True'));
    assert.ok(!(await heard(9000)).includes('stop'));
    assert.deepEqual(await heard(1000), ['leave to kube-proxy-x', 'stop', 'remove']);
    await turns[Symbol.asyncDispose]();
  });

  test('rules with the names of its own are left to it at once', async () => {
    const { nodes, specs, statuses, turns, heard } = node([], true);
    statuses.set('u', readiness('False'));
    nodes.set('n1', {});
    specs.markSynced();
    assert.deepEqual(await heard(), ['start']);
    specs.set('u', { pod: kubeProxy });
    assert.deepEqual(await heard(), ['leave to kube-proxy-x', 'stop']);
    statuses.set('u', readiness('True'));
    assert.deepEqual(await heard(), ['remove']);
    await turns[Symbol.asyncDispose]();
  });
});
