import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { checkMachine, type MachineTraits, runtimeNameOf } from '../../../agent/cli/wiring/machine.ts';
import { loadConfig } from '../../../agent/config/config.ts';
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

const cgroupV2: MachineTraits = { cgroupVersion: 2, swapBytes: 0, hasSystemBus: true };
const byPriority = [{ priority: 0, shutdownGracePeriodSeconds: 10 }];
const machines: {
  name: string;
  asks?: object;
  traits?: Partial<MachineTraits>;
  refuses?: RegExp;
  warns?: RegExp;
}[] = [
  { name: 'an ordinary one' },
  { name: 'cgroup v1', traits: { cgroupVersion: 1 }, refuses: /not run on a host using cgroup v1/ },
  { name: 'cgroup v1, allowed', asks: { failCgroupV1: false }, traits: { cgroupVersion: 1 } },
  { name: 'swap', traits: { swapBytes: 4096 }, refuses: /swapoff/ },
  { name: 'swap, allowed', asks: { failSwapOn: false }, traits: { swapBytes: 4096 } },
  { name: 'graceful shutdown where it could work', asks: { shutdownGracePeriod: 30_000 }, refuses: /shutdownGracePeriod .*yet/ },
  {
    name: 'graceful shutdown without a bus',
    asks: { shutdownGracePeriod: 30_000 },
    traits: { hasSystemBus: false },
    warns: /no system bus/,
  },
  { name: 'the same by priority', asks: { shutdownGracePeriodByPodPriority: byPriority }, refuses: /ByPodPriority .*yet/ },
];
for (const { name, asks, traits, refuses, warns } of machines)
  test(`a machine: ${name}`, async () => {
    const { kubelet, ...rest } = await loadConfig([], { readFile: fail, listFiles: fail });
    const check = (): string[] => checkMachine({ ...rest, kubelet: { ...kubelet, ...asks } }, { ...cgroupV2, ...traits });
    if (refuses !== undefined) assert.throws(check, refuses);
    else if (warns === undefined) assert.deepEqual(check(), []);
    else assert.match(check().join(), warns);
  });

function fail(): Promise<never> {
  throw new Error('no file is read');
}
