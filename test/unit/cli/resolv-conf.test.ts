import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openResolvConf } from '../../../agent/cli/wiring/resolv-conf.ts';

const cases: { name: string; text: string | undefined; told: RegExp | undefined }[] = [
  { name: 'in order', text: 'nameserver 1.1.1.1\nsearch a b\n', told: undefined },
  { name: 'too many domains beside the cluster’s', text: `search ${'x '.repeat(30)}\n`, told: /more than 29 domains/ },
  { name: 'a nameserver line without an address', text: 'nameserver\n', told: /nameserver list is empty/ },
  { name: 'not there', text: undefined, told: /no such file/ },
];
for (const { name, text, told } of cases) {
  test(`the node’s resolv.conf is looked at once: ${name}`, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'resolv-conf-'));
    try {
      const path = join(folder, 'resolv.conf');
      if (text !== undefined) writeFileSync(path, text);
      const events: string[] = [];
      const read = await openResolvConf(path, 'cluster.local', (_type, reason, message) => events.push(`${reason}: ${message}`));
      assert.equal(events.length, told === undefined ? 0 : 1);
      if (told !== undefined) assert.match(events[0] ?? '', new RegExp(`^CheckLimitsForResolvConf: .*${told.source}`));
      // Whatever it was at the start, it is read anew.
      writeFileSync(path, 'nameserver 9.9.9.9\n');
      assert.deepEqual(await read(), { nameservers: ['9.9.9.9'], searches: [], options: [] });
      assert.equal(events.length, told === undefined ? 0 : 1);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

test('no resolv.conf is asked for', async () => {
  const read = await openResolvConf('', 'cluster.local', () => assert.fail('nothing is wrong'));
  assert.equal(await read(), undefined);
});
