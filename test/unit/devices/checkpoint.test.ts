// The two texts were written by upstream's own package (pkg/kubelet/cm/devicemanager/checkpoint, v1.36.1).
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import {
  type DeviceState,
  decodeDeviceState,
  encodeDeviceState,
  openDeviceCheckpoint,
} from '../../../agent/drivers/journal/device-checkpoint.ts';

const upstreams =
  '{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ContainerName":"main","ResourceName":"v.example/gpu","DeviceIDs":{"-1":["g2"],"0":["g0","g1"]},"AllocResp":"CggKA0dQVRIBMBIKCgIvYxICL2gYARoUCgYvZGV2L2ESBi9kZXYvYhoCcnciBgoBaxIBdioRCg92LmV4YW1wbGUvZ3B1PTA="},{"PodUID":"u2","ContainerName":"side","ResourceName":"v.example/nic","DeviceIDs":{"-1":["n0"]},"AllocResp":""}],"RegisteredDevices":{"v.example/gpu":["g0","g1","g2"],"v.example/nic":[]}},"Checksum":3590184982}';
const upstreamsEmpty = '{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":3467439661}';

test("a kubelet's checkpoint is read", () => {
  const { grants, resources } = decodeDeviceState(upstreams);
  assert.deepEqual(resources, { 'v.example/gpu': ['g0', 'g1', 'g2'], 'v.example/nic': [] });
  assert.deepEqual([...grants.keys()], ['u1', 'u2']);
  const [gpu] = grants.get('u1') ?? [];
  assert.deepEqual(gpu?.devices, { '-1': ['g2'], '0': ['g0', 'g1'] });
  assert.deepEqual(gpu?.response.envs, { GPU: '0' });
  assert.deepEqual(gpu?.response.mounts, [{ container_path: '/c', host_path: '/h', read_only: true }]);
  assert.deepEqual(gpu?.response.devices, [{ container_path: '/dev/a', host_path: '/dev/b', permissions: 'rw' }]);
  assert.deepEqual(gpu?.response.cdi_devices, [{ name: 'v.example/gpu=0' }]);
});

for (const [name, text] of [
  ['with devices', upstreams],
  ['empty', upstreamsEmpty],
] as const)
  test(`what is read is written as a kubelet would, checksum and all: ${name}`, () => {
    const written = JSON.parse(encodeDeviceState(decodeDeviceState(text))) as object;
    // Our protobuf library writes fields that hold nothing; a kubelet reads both.
    if (name === 'empty') assert.deepEqual(written, JSON.parse(text));
    assert.deepEqual(decodeDeviceState(JSON.stringify(written)), decodeDeviceState(text));
  });

test('a checksum that is wrong, and what is no checkpoint', () => {
  assert.throws(() => decodeDeviceState(upstreams.replace('"g2"', '"g3"')), /checksum is wrong/);
  assert.throws(() => decodeDeviceState('{}'), /no data/);
  assert.throws(() => decodeDeviceState('not JSON'));
});

test('the file: absent, followed, read back, and put aside when it is broken', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'devices-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'device-plugins', 'kubelet_internal_checkpoint');
  const state: DeviceState = { ...decodeDeviceState(upstreams) };
  {
    await using file = await openDeviceCheckpoint(path, () => state, systemClock, silentLog);
    assert.equal(file.found, undefined);
    file.touch();
    await file.written();
    assert.deepEqual(decodeDeviceState(readFileSync(path, 'utf8')), state);
  }
  {
    await using file = await openDeviceCheckpoint(path, () => state, systemClock, silentLog);
    assert.deepEqual(file.found, { grants: state.grants, resources: ['v.example/gpu', 'v.example/nic'] });
  }
  writeFileSync(path, upstreams.slice(0, 99));
  await using file = await openDeviceCheckpoint(path, () => state, systemClock, silentLog);
  // There was a node before, so its Node is not taken for an old one.
  assert.deepEqual(file.found, { grants: new Map(), resources: [] });
  assert.deepEqual(readdirSync(join(folder, 'device-plugins')), ['kubelet_internal_checkpoint.broken']);
});
