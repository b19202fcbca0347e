import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { openUserNamespaces } from '../../../agent/cli/wiring/user-namespaces.ts';
import { formatMappings } from '../../../agent/pods/user-namespaces.ts';
import { pod } from '../pods/build.ts';

const idsPerPod = 65_536;

test('a pod keeps its range over a restart; one whose range is of other settings keeps it too, and is told why it cannot start', async () => {
  const podsDir = mkdtempSync(join(tmpdir(), 'user-namespaces-'));
  try {
    for (const uid of ['new', 'old', 'other']) mkdirSync(join(podsDir, uid));
    const mappings = (uid: string): string => join(podsDir, uid, 'userns');
    writeFileSync(mappings('old'), formatMappings(idsPerPod * 7, idsPerPod));
    const otherSettings = formatMappings(idsPerPod * 8, idsPerPod * 2);
    writeFileSync(mappings('other'), otherSettings);
    const wants = (uid: string) => pod({ hostUsers: false }, { uid });
    const given = await openUserNamespaces({ podsDir, idsPerPod, maxPods: 110, supported: () => true, log: silentLog });
    assert.equal((await given.of(wants('old'), ''))?.uids?.[0]?.host_id, idsPerPod * 7);
    await assert.rejects(
      given.of(wants('other'), ''),
      (error) => hasCode(error, 'FailedCreatePodSandBox') && /its length is 131072.*idsPerPod/.test(error.message),
    );
    assert.equal(readFileSync(mappings('other'), 'utf8'), otherSettings);
    const first = (await given.of(wants('new'), ''))?.uids?.[0]?.host_id ?? 0;
    assert.equal(readFileSync(mappings('new'), 'utf8'), formatMappings(first, idsPerPod));
    assert.equal(await given.of(pod({}, { uid: 'host' }), ''), undefined);
  } finally {
    rmSync(podsDir, { recursive: true });
  }
});
