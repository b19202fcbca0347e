import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { operations } from '../../../agent/drivers/mounts/operations.ts';

// Kubelet makes what is not there; of what is there, or cannot be, its mount tells: "failed to prepare subPath", not "failed to create".
test('a subPath is made where nothing is, and left to the mount where something is in its way', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sub-path-'));
  try {
    const base = join(folder, 'volume');
    mkdirSync(join(folder, 'outside'));
    mkdirSync(base);
    writeFileSync(join(base, 'file'), '');
    symlinkSync(join(folder, 'outside'), join(base, 'out'));
    await operations.makeSubPathDirectory({ base, subPath: 'file/below' });
    await operations.makeSubPathDirectory({ base, subPath: 'out' });
    assert.equal(statSync(join(base, 'file')).isFile(), true);
    await operations.makeSubPathDirectory({ base, subPath: 'new/deep' });
    assert.equal(existsSync(join(base, 'new', 'deep')), true);
    await assert.rejects(operations.makeSubPathDirectory({ base, subPath: 'out/new' }), /leads outside of its volume/);
    assert.equal(existsSync(join(folder, 'outside', 'new')), false);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
