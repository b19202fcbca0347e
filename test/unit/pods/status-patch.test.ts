import assert from 'node:assert/strict';
import { test } from 'node:test';
import { alreadyShown, statusPatch } from '../../../agent/pods/status-patch.ts';
import { pod } from './build.ts';

const status = {
  phase: 'Running',
  podIP: '10.0.0.5',
  podIPs: [{ ip: '10.0.0.5' }],
  conditions: [
    { type: 'Ready', status: 'True', lastTransitionTime: '2027-01-01T00:00:00Z' },
    { type: 'example.com/theirs', status: 'True' },
  ],
  containerStatuses: [
    { name: 'a', image: 'a:1', imageID: 'i', ready: true, restartCount: 0, state: { running: { startedAt: 't' } }, lastState: {} },
  ],
};

test('the patch is bound to the UID, replaces addresses, and leaves others’ conditions alone', () => {
  const patch = statusPatch(pod(), status);
  assert.equal(patch.metadata.uid, 'u1');
  assert.deepEqual(patch.status.podIPs, [{ ip: '10.0.0.5' }, { $patch: 'replace' }]);
  const conditions = patch.status.conditions as { type: string; $patch?: string }[];
  assert.deepEqual(
    conditions.filter((c) => c.$patch === undefined).map((c) => c.type),
    ['Ready'],
  );
});

test('a condition of ours that has gone is deleted, once', () => {
  const resizing = { type: 'PodResizeInProgress', status: 'True' };
  const shown = pod({}, {}, { ...status, conditions: [...(status.conditions ?? []), resizing] });
  const patch = statusPatch(shown, status);
  assert.ok((patch.status.conditions as object[]).some((c) => 'type' in c && c.type === resizing.type && '$patch' in c));
  assert.equal(alreadyShown(shown, patch), false);
  assert.equal(alreadyShown(pod({}, {}, status), patch), true);
});

test('fields that are gone are removed', () => {
  const patch = statusPatch(pod({}, {}, { reason: 'Evicted', initContainerStatuses: [] }), { phase: 'Running' });
  assert.equal(patch.status.reason, null);
  assert.equal(patch.status.initContainerStatuses, null);
});

test('a resource that the pod no longer has is taken out of the map', () => {
  const before = pod({}, {}, { ...status, allocatedResources: { cpu: '1', memory: '1Gi' }, resources: { limits: { cpu: '2' } } });
  const patch = statusPatch(before, { ...status, allocatedResources: { cpu: '2' }, resources: { requests: { cpu: '2' }, limits: {} } });
  assert.deepEqual(patch.status.allocatedResources, { cpu: '2', memory: null });
  assert.deepEqual(patch.status.resources, { requests: { cpu: '2' }, limits: { cpu: null } });
});

test('what the API shows already needs no patch', () => {
  const shown = pod({}, {}, status);
  assert.equal(alreadyShown(shown, statusPatch(shown, status)), true);
  assert.equal(alreadyShown(shown, statusPatch(shown, { ...status, phase: 'Failed' })), false);
  assert.equal(alreadyShown(shown, statusPatch(shown, { ...status, podIPs: [{ ip: '10.0.0.6' }] })), false);
  const notReady = { ...status, containerStatuses: status.containerStatuses.map((c) => ({ ...c, ready: false })) };
  assert.equal(alreadyShown(shown, statusPatch(shown, notReady)), false);
});
