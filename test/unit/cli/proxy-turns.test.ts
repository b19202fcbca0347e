import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { startProxyTurns } from '../../../agent/cli/wiring/proxy-turns.ts';
import type { Pod } from '../../../agent/model/generated/api.ts';

const kubeProxy: Pod = {
  metadata: { namespace: 'kube-system', name: 'kube-proxy-x', labels: { 'k8s-app': 'kube-proxy' } },
  spec: { hostNetwork: true, containers: [] },
};

function node(removals: (Error | undefined)[] = []) {
  const nodes = new Table<object>('nodes');
  const specs = new Table<{ pod: Pod }>('specs');
  const said: string[] = [];
  const turns = startProxyTurns({
    nodeName: 'n1',
    nodes,
    specs,
    async start() {
      said.push('start');
      return {
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
    clock: systemClock,
    log: silentLog,
    signal: new AbortController().signal,
  });
  /** Waits until so much was said. */
  const until = async (count: number): Promise<string[]> => {
    while (said.length < count) await setImmediate();
    await setImmediate();
    return said.splice(0);
  };
  return { nodes, specs, said, turns, until };
}

describe('turns of the service proxy', () => {
  test('a kube-proxy comes, goes and comes again', async () => {
    const { nodes, specs, turns, until } = node();
    nodes.set('n1', {});
    specs.markSynced();
    assert.deepEqual(await until(1), ['start']);
    specs.set('u', { pod: kubeProxy });
    assert.deepEqual(await until(3), ['leave to kube-proxy-x', 'stop', 'remove']);
    specs.delete('u');
    assert.deepEqual(await until(1), ['start']);
    specs.set('u', { pod: kubeProxy });
    assert.deepEqual(await until(3), ['leave to kube-proxy-x', 'stop', 'remove']);
    await turns[Symbol.asyncDispose]();
    await turns[Symbol.asyncDispose]();
    assert.deepEqual(await until(0), []);
  });

  test('rules of a run before go when a kube-proxy has come meanwhile, whether or not the Node is known', async () => {
    const { specs, turns, until } = node();
    specs.set('u', { pod: kubeProxy });
    specs.markSynced();
    assert.deepEqual(await until(2), ['leave to kube-proxy-x', 'remove']);
    specs.set('u', { pod: { ...kubeProxy } });
    assert.deepEqual(await until(0), []);
    await turns[Symbol.asyncDispose]();
  });

  test('rules that could not be removed are tried again until they are', async () => {
    const { specs, nodes, turns, until } = node([new AgentError('NftFailed', 'busy')]);
    nodes.set('n1', {});
    specs.markSynced();
    assert.deepEqual(await until(1), ['start']);
    specs.set('u', { pod: kubeProxy });
    assert.deepEqual(await until(4), ['leave to kube-proxy-x', 'stop', 'fail', 'remove']);
    await turns[Symbol.asyncDispose]();
  });

  test('where nft is not installed there are no rules to remove', async () => {
    const { specs, turns, until } = node([new AgentError('NftMissing', 'nft is not installed')]);
    specs.set('u', { pod: kubeProxy });
    specs.markSynced();
    assert.deepEqual(await until(2), ['leave to kube-proxy-x', 'fail']);
    specs.set('u', { pod: { ...kubeProxy } });
    assert.deepEqual(await until(0), []);
    await turns[Symbol.asyncDispose]();
  });

  test('a Node that goes away for a while does not end it', async () => {
    const { nodes, specs, turns, until } = node();
    nodes.set('n1', {});
    specs.markSynced();
    assert.deepEqual(await until(1), ['start']);
    nodes.delete('n1');
    nodes.set('n1', {});
    assert.deepEqual(await until(0), []);
    await turns[Symbol.asyncDispose]();
    assert.deepEqual(await until(1), ['stop']);
  });
});
