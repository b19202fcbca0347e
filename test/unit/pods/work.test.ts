import assert from 'node:assert/strict';
import { test } from 'node:test';
import { forgetGone, freshWork } from '../../../agent/pods/work.ts';
import { instance, runtimePod, sandbox } from './build.ts';

test('of containers and sandboxes that are gone nothing stays known', () => {
  const work = freshWork();
  const failureCounts = new Map([
    ['stopContainer:gone', 3],
    ['stopContainer:a-0', 1],
    ['pullImage:gone', 2],
  ]);
  const failure = { reason: 'x', message: 'y', retryAt: 0, tries: 1 };
  for (const id of ['gone', 'a-0', 's0']) {
    work.preStopped.add(id);
    work.comeBack.add(id);
    work.released.add(id);
    work.stopSince.set(id, 1);
    work.stuck.set(id, failure);
  }
  forgetGone(work, failureCounts, runtimePod([sandbox()], [instance('a')]));
  for (const known of [work.preStopped, work.comeBack, work.released, work.stopSince, work.stuck])
    assert.deepEqual([...known.keys()], ['a-0', 's0']);
  assert.deepEqual([...failureCounts.keys()], ['stopContainer:a-0', 'pullImage:gone']);
});
