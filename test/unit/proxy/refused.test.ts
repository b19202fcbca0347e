// Services that the kernel refuses, and what they may cost others: nothing.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { house } from '../../fakes/running-proxy.ts';
import { aService } from '../../fakes/services.ts';

const named = (name: string, ip: string) => aService({ name, spec: { clusterIP: ip } });

describe('Services that are refused', () => {
  test('those whom the kernel refuses keep nobody else waiting, however many they are and whoever comes first', async () => {
    const h = house();
    for (let index = 0; index < 20; index++) {
      h.backend.refuses.add(`default/a${index}`);
      h.service(named(`a${index}`, `10.96.1.${index}`));
    }
    for (let index = 0; index < 20; index++) h.service(named(`b${index}`, `10.96.2.${index}`));
    await h.synced();
    await h.clock.advance(60_000);
    assert.equal([...h.backend.kernel.keys()].filter((key) => key.includes('10.96.2.')).length, 20);
    assert.equal(h.proxy.health('ip')?.synced, true);
  });

  test('a Service that was refused and has lost its address to an older one costs nothing more', async () => {
    const h = house();
    await h.synced();
    h.backend.refuses.add('default/bad');
    h.service(named('bad', '10.96.1.1'));
    await h.clock.advance(0);
    assert.equal(h.proxy.describe('default/bad').families[0]?.frontends[0]?.state, 'refused');
    h.service(aService({ name: 'older', created: '2025-01-01T00:00:00Z', spec: { clusterIP: '10.96.1.1' } }));
    await h.clock.advance(0);
    let steps = 0;
    const mono = h.clock.mono;
    h.clock.mono = () => {
      steps++;
      return mono();
    };
    await h.clock.advance(20_000);
    assert.ok(steps < 200, `looked at the clock ${steps} times`);
  });

  test('a conflict is told once, and again of a Service that was deleted and made anew', async () => {
    const h = house();
    await h.synced();
    const older = aService({ name: 'older', created: '2025-01-01T00:00:00Z', spec: { clusterIP: '10.96.1.1' } });
    h.service(older);
    const conflicts = (): number => h.events.filter(({ reason }) => reason === 'FrontendConflict').length;
    for (const expected of [1, 1]) {
      h.service(named('other', '10.96.1.1'));
      await h.clock.advance(0);
      assert.equal(conflicts(), expected);
    }
    h.services.delete('default/other');
    await h.clock.advance(0);
    h.service(named('other', '10.96.1.1'));
    await h.clock.advance(0);
    assert.equal(conflicts(), 2);
  });
});
