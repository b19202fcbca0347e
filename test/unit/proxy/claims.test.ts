import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type Claims, createClaims } from '../../../proxy/model/claims.ts';
import { type Frontend, type FrontendKind, frontendKey } from '../../../proxy/model/frontend.ts';

function aFrontend(service: string, kind: FrontendKind, address: string | undefined, port: number): Frontend {
  const place = { family: 'ip', address, protocol: 'tcp', port } as const;
  const unused = { cluster: undefined, local: undefined, closed: undefined, affinitySeconds: undefined, sources: undefined };
  return { key: frontendKey(place), kind, ...place, service, portName: '', policy: 'Cluster', ...unused };
}

type Ask = readonly [service: string, createdMs: number, kind: FrontendKind, address: string | undefined, port: number];

function ask(claims: Claims, [service, createdMs, kind, address, port]: Ask): void {
  claims.set({ key: service, createdMs, uid: `uid-${service}` }, [aFrontend(service, kind, address, port)]);
}

describe('who owns a frontend', () => {
  const cases: Record<string, { asks: Ask[]; key: string; owner: string; waiting: string[] }> = {
    'nobody else asks': { asks: [['a', 1, 'clusterIP', '10.96.0.1', 80]], key: 'ip|10.96.0.1|tcp|80', owner: 'a', waiting: [] },
    'the older Service has a shared load balancer address': {
      asks: [
        ['young', 2, 'loadBalancerIP', '192.0.2.80', 443],
        ['old', 1, 'loadBalancerIP', '192.0.2.80', 443],
      ],
      key: 'ip|192.0.2.80|tcp|443',
      owner: 'old',
      waiting: ['young'],
    },
    'of one age: by UID': {
      asks: [
        ['b', 1, 'nodePort', undefined, 30080],
        ['a', 1, 'nodePort', undefined, 30080],
      ],
      key: 'ip|nodeport|tcp|30080',
      owner: 'a',
      waiting: ['b'],
    },
    'a cluster IP beats an older external IP': {
      asks: [
        ['old', 1, 'externalIP', '10.96.0.1', 80],
        ['young', 2, 'clusterIP', '10.96.0.1', 80],
      ],
      key: 'ip|10.96.0.1|tcp|80',
      owner: 'young',
      waiting: ['old'],
    },
    'an external IP and a load balancer address: by age': {
      asks: [
        ['young', 3, 'loadBalancerIP', '192.0.2.80', 443],
        ['old', 2, 'externalIP', '192.0.2.80', 443],
      ],
      key: 'ip|192.0.2.80|tcp|443',
      owner: 'old',
      waiting: ['young'],
    },
  };
  for (const [name, { asks, key, owner, waiting }] of Object.entries(cases))
    test(name, () => {
      const claims = createClaims();
      for (const each of asks) ask(claims, each);
      assert.equal(claims.owner(key)?.service, owner);
      assert.deepEqual(
        claims.waiting(key).map(({ frontend }) => frontend.service),
        waiting,
      );
      assert.ok(claims.waiting(key).every((conflict) => conflict.owner === owner));
    });

  test('the next in line takes over when the owner goes', () => {
    const claims = createClaims();
    for (const [index, service] of ['a', 'b', 'c'].entries()) ask(claims, [service, index, 'nodePort', undefined, 30080]);
    const touched = claims.set({ key: 'a', createdMs: 0, uid: 'uid-a' }, []);
    assert.deepEqual([...touched], ['ip|nodeport|tcp|30080']);
    assert.equal(claims.owner('ip|nodeport|tcp|30080')?.service, 'b');
    assert.deepEqual(
      claims.waiting('ip|nodeport|tcp|30080').map(({ frontend }) => frontend.service),
      ['c'],
    );
  });

  test('what a Service asked for before and asks for now is told', () => {
    const claims = createClaims();
    ask(claims, ['a', 1, 'clusterIP', '10.96.0.1', 80]);
    const touched = claims.set({ key: 'a', createdMs: 1, uid: 'uid-a' }, [aFrontend('a', 'clusterIP', '10.96.0.1', 81)]);
    assert.deepEqual([...touched].sort(), ['ip|10.96.0.1|tcp|80', 'ip|10.96.0.1|tcp|81']);
    assert.equal(claims.owner('ip|10.96.0.1|tcp|80'), undefined);
    assert.equal(claims.size, 1);
    assert.deepEqual(
      claims.of('a').map(({ port }) => port),
      [81],
    );
  });

  test('property: owners depend on what is asked for at last, not on the order of events', () => {
    const service = fc.constantFrom('a', 'b', 'c');
    const anAsk = fc.record({
      service,
      ports: fc.uniqueArray(fc.integer({ min: 1, max: 4 })),
      kind: fc.constantFrom<FrontendKind>('clusterIP', 'externalIP'),
    });
    const ages: Record<string, number> = { a: 3, b: 1, c: 1 };
    fc.assert(
      fc.property(fc.array(anAsk, { maxLength: 12 }), (asks) => {
        const lived = createClaims();
        const last = new Map<string, Frontend[]>();
        const set = (claims: Claims, key: string, frontends: Frontend[]) =>
          claims.set({ key, createdMs: ages[key] ?? 0, uid: key }, frontends);
        for (const { service: key, ports, kind } of asks) {
          const frontends = ports.map((port) => aFrontend(key, kind, '10.96.0.1', port));
          set(lived, key, frontends);
          last.set(key, frontends);
        }
        const fresh = createClaims();
        for (const key of ['c', 'b', 'a']) set(fresh, key, last.get(key) ?? []);
        assert.deepEqual([...lived.keys()].sort(), [...fresh.keys()].sort());
        for (const key of fresh.keys()) {
          assert.equal(lived.owner(key)?.service, fresh.owner(key)?.service);
          assert.deepEqual(lived.waiting(key), fresh.waiting(key));
        }
      }),
    );
  });
});
