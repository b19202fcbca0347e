// Whatever happens to an API server, restores of its etcd among it: in the end who watches it knows what it has.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { createObjects } from '../../../agent/drivers/kube/objects.ts';
import { reflect } from '../../../agent/drivers/kube/reflector.ts';
import type { ConfigMap } from '../../../agent/model/generated/api.ts';
import { type FakeKubeApi, startFakeKubeApi } from '../../fakes/kube-api.ts';
import { clientOf, signal } from './fixtures.ts';

const maps = '/api/v1/namespaces/ns/configmaps';
const names = ['a', 'b', 'c'];

type Step = { readonly do: 'put' | 'remove'; readonly name: string } | { readonly do: 'snapshot' | 'restore' | 'drop' | 'end' | 'settle' };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constantFrom('put' as const, 'remove' as const), name: fc.constantFrom(...names) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom('snapshot' as const, 'restore' as const, 'drop' as const, 'end' as const, 'settle' as const),
    }),
  },
);

const has = (api: FakeKubeApi): Record<string, string> =>
  Object.fromEntries(
    names.flatMap((name) => {
      const data = api.read(maps, 'ns', name)?.data as { v: string } | undefined;
      return data === undefined ? [] : [[name, data.v]];
    }),
  );

async function play(api: FakeKubeApi, steps: readonly Step[], settle: () => Promise<void>): Promise<void> {
  let last = api.snapshot();
  let value = 0;
  for (const one of steps) {
    switch (one.do) {
      case 'put':
        api.put(maps, { metadata: { name: one.name }, data: { v: `${++value}` } });
        break;
      case 'remove':
        api.remove(maps, 'ns', one.name);
        break;
      case 'snapshot':
        last = api.snapshot();
        break;
      case 'restore':
        await api.stop();
        api.restore(last);
        await api.resume();
        break;
      case 'drop':
        api.dropConnections();
        break;
      case 'end':
        api.endWatches();
        break;
      case 'settle':
        await settle();
    }
  }
  await settle();
}

/** Resolves when both are the same; fails after ten seconds. */
async function same(what: string, known: () => Record<string, string>, api: FakeKubeApi): Promise<void> {
  const end = systemClock.mono() + 10_000;
  for (;;) {
    try {
      assert.deepEqual(known(), has(api), what);
      return;
    } catch (error) {
      if (systemClock.mono() > end) throw error;
    }
    await systemClock.sleep(5, signal);
  }
}

const dataOf = (map: ConfigMap | undefined): string | undefined => map?.data?.v;
const asRecord = (entries: [string, string | undefined][]): Record<string, string> =>
  Object.fromEntries(entries.flatMap(([name, v]) => (v === undefined ? [] : [[name, v]])));

for (const narrowed of [false, true])
  test(`a reflector ends with what the server has: ${narrowed ? 'of a selection' : 'of a collection'}`, { timeout: 120_000 }, () =>
    fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 14 }), async (steps) => {
        await using api = await startFakeKubeApi();
        await using client = clientOf(api);
        const table = new Table<ConfigMap>('maps');
        const query = narrowed ? { query: { fieldSelector: 'metadata.namespace=ns' } } : {};
        await using _reflector = reflect<ConfigMap>({
          client,
          clock: systemClock,
          log: silentLog,
          path: maps,
          signal,
          table,
          random: () => 0,
          ...query,
        });
        const known = (): Record<string, string> => asRecord([...table.values()].map((map) => [map.metadata?.name ?? '', dataOf(map)]));
        await play(api, steps, async () => {
          // Of a whole collection the server is only asked how far it is: the rest is the lease's to tell.
          if (!narrowed) client.noteRestored();
          await same('the table', known, api);
        });
      }),
      { numRuns: 12 },
    ),
  );

test('objects in use end as the server has them', { timeout: 120_000 }, () =>
  fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 14 }), async (steps) => {
      await using api = await startFakeKubeApi();
      await using client = clientOf(api);
      await using objects = createObjects({ client, clock: systemClock, log: silentLog, resource: 'configmaps', signal });
      for (const name of names) objects.acquire('ns', name);
      const known = (): Record<string, string> => asRecord(names.map((name) => [name, dataOf(objects.peek('ns', name))]));
      await play(api, steps, () => same('the objects', known, api));
    }),
    { numRuns: 12 },
  ),
);
