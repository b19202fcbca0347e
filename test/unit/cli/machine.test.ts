import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { runtimeNameOf } from '../../../agent/cli/wiring/machine.ts';
import type { CriClient } from '../../../agent/drivers/cri/client.ts';

test('a runtime that is not there yet is waited for; one without CRI is told how to be mended', async () => {
  const ask = async (code: string): Promise<object[]> => {
    const stop = new AbortController();
    const told: object[] = [];
    const log = {
      ...silentLog,
      warn: (fields: object) => {
        told.push(fields);
        stop.abort(new AgentError('Closed', 'enough'));
      },
    };
    const cri = { version: () => Promise.reject(new AgentError(code, `Version: ${code}`)) } as unknown as CriClient;
    await assert.rejects(runtimeNameOf(cri, log, stop.signal), { code: 'Closed' });
    return told;
  };
  assert.deepEqual(await ask('Unavailable'), [{ err: 'Version: Unavailable' }]);
  const [fields] = await ask('Unimplemented');
  assert.match((fields as { fix: string }).fix, /disabled_plugins in \/etc\/containerd\/config\.toml/);
});
