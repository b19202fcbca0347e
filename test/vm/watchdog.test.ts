// The agent as a unit of systemd: it says when it is ready, that it lives, and is started anew when it hangs. Pods do not notice.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startVm, type Vm } from '../testbed/vm.ts';
import { waitFor } from '../testbed/wait.ts';
import {
  busybox,
  isReady,
  nodeConfig,
  patience,
  restartsOf,
  runningContainers,
  setManifests,
  startAgent,
  startRuntime,
  waitForPod,
  waitForRestart,
} from './guest-node.ts';

let vm: Vm;
before(async () => {
  vm = await startVm(`wd-${process.pid}`);
  await startRuntime(vm, 'containerd-2');
});
after(async () => {
  await vm?.[Symbol.asyncDispose]();
});

const show = async (property: string): Promise<string> => (await vm.run(`systemctl show -P ${property} keelson.service`)).trim();

test('ready, watched, and started anew when it hangs', async () => {
  await setManifests(vm, {
    plain: { containers: [{ name: 'main', image: busybox, command: ['sh', '-c', 'sleep 1000000'] }], terminationGracePeriodSeconds: 1 },
  });
  // The start of a unit of Type=notify ends with READY=1, and not before.
  await startAgent(vm, 'keelson', nodeConfig());
  assert.equal(await show('ActiveState'), 'active');
  await waitForPod(vm, 'plain', 'ready', isReady);
  const held = await runningContainers(vm);
  assert.equal(held.size, 1);

  const heard = Number(await show('WatchdogTimestampMonotonic'));
  await waitFor('the next sign of life', patience, async () => Number(await show('WatchdogTimestampMonotonic')) > heard || undefined, 5000);
  const before = await restartsOf(vm);
  assert.equal(before, 0);
  await vm.run('systemctl kill --signal=STOP --kill-whom=main keelson.service');
  await waitForRestart(vm, before);
  assert.match(await vm.run('journalctl -u keelson.service --no-pager -o cat'), /Watchdog timeout/);
  await waitForPod(vm, 'plain', 'ready', (pod) => isReady(pod) && pod.status?.containerStatuses?.[0]?.restartCount === 0);
  assert.deepEqual(await runningContainers(vm), held);
});
