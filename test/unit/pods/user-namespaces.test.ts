import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerConfig } from '../../../agent/pods/container-config.ts';
import { containerSecurity } from '../../../agent/pods/security.ts';
import {
  formatMappings,
  freeRange,
  idPool,
  parseMappings,
  reachedRanges,
  unsupportedUserNamespaces,
  userNamespace,
} from '../../../agent/pods/user-namespaces.ts';
import { container, pod } from './build.ts';

const perPod = 65_536;
const none = { passwd: 'root:x:0:0:::\n', subuid: '', subgid: '' };
const kubelet = (range: string, gids = range) => ({
  passwd: 'root:x:0:0:::\nkubelet:x:990:990::/:/bin/false\n',
  subuid: `kubelet:${range}\n`,
  subgid: `kubelet:${gids}\n`,
});

test('pool: all but the first range where there is no user kubelet, else what the files give it', () => {
  assert.deepEqual(idPool(perPod, 110, none), { first: perPod, length: 2 ** 32 - perPod, perPod });
  assert.deepEqual(idPool(perPod, 110, { ...kubelet('0:0'), subuid: 'ann:100000:65536\n', subgid: '' }), idPool(perPod, 110, none));
  const byNumber = `990:131072:${perPod * 110}\n`;
  assert.deepEqual(idPool(perPod, 110, { ...kubelet('0:0'), subuid: byNumber, subgid: byNumber }), {
    first: 131_072,
    length: perPod * 110,
    perPod,
  });
  assert.deepEqual(idPool(perPod, 110, kubelet(`131072:${perPod * 110}`)), { first: 131_072, length: perPod * 110, perPod });
});

const wrong: { name: string; files: ReturnType<typeof kubelet>; message: RegExp }[] = [
  { name: 'too few', files: kubelet(`65536:${perPod * 3}`), message: /not enough for 110 pods/ },
  { name: 'not aligned', files: kubelet('65537:65536'), message: /must be a multiple/ },
  { name: 'root’s own', files: kubelet('0:65536'), message: /and not 0/ },
  { name: 'no numbers', files: kubelet('a:b'), message: /"a:b" is no range/ },
  { name: 'users only', files: { ...kubelet('65536:65536'), subgid: '' }, message: /the same for users and groups/ },
  { name: 'users and groups differ', files: kubelet('65536:65536', '131072:65536'), message: /the same for users and groups/ },
];
for (const { name, files, message } of wrong) test(`pool: ${name}`, () => assert.throws(() => idPool(perPod, 110, files), message));

test('ranges: the first that is free, none when all are taken', () => {
  const pool = { first: perPod, length: perPod * 2, perPod };
  assert.equal(freeRange(pool, new Set(), 0), perPod);
  assert.equal(freeRange(pool, new Set([perPod]), 0), perPod * 2);
  assert.equal(freeRange(pool, new Set(), 0.999), perPod * 2);
  assert.equal(freeRange(pool, new Set([perPod * 2]), 0.999), perPod);
  assert.equal(freeRange(pool, new Set([perPod, perPod * 2]), 0.5), undefined);
});

test('what is remembered is read again; what is not a range of this node is refused', () => {
  const pool = idPool(perPod, 110, none);
  assert.equal(parseMappings(formatMappings(perPod * 7, perPod), pool), perPod * 7);
  for (const text of ['', '{}', formatMappings(perPod + 1, perPod), formatMappings(perPod, 1000), formatMappings(0, perPod)]) {
    assert.throws(() => parseMappings(text, pool), /invalid user namespace configuration/);
  }
});

const reached: [string, string, number[]][] = [
  ['a range of this node', formatMappings(perPod * 3, perPod), [perPod * 3, perPod * 3]],
  ['twice as long', formatMappings(perPod * 3, perPod * 2).split(',"gid')[0] ?? '', [perPod * 3, perPod * 4]],
  ['neither at a start nor at an end', '[{"hostId": 65539, "containerId": 0, "length": 65536}]', [perPod, perPod * 2]],
  ['the end of the pool', `{"hostId":${perPod * 9},"containerId":0,"length":${perPod * 5}}`, [perPod * 9, perPod * 10]],
  ['before the pool', '{"hostId":0,"containerId":0,"length":100}', []],
  ['no mapping', 'null', []],
];
for (const [name, text, want] of reached)
  test(`what a remembered mapping reaches into: ${name}`, () =>
    assert.deepEqual(reachedRanges(text, { first: perPod, length: perPod * 10, perPod }), want));

test('the runtime is told the range, and every mount is moved into it', () => {
  const p = pod({ hostUsers: false });
  const users = userNamespace(perPod, perPod);
  const options = { seccompRoot: '/', seccompDefault: false, thermalThrottles: [] };
  const security = containerSecurity(p, container('a'), { uid: 0, username: '' }, options, users);
  assert.equal(security.namespace_options?.userns_options?.mode, 'POD');
  const inputs = {
    attempt: 0,
    imageRef: 'r',
    command: [],
    args: [],
    envs: [],
    devices: [],
    cdiDevices: [],
    deviceAnnotations: {},
    resources: {},
    targetContainerId: undefined,
    stopSignals: false,
  };
  const config = containerConfig(p, container('a', { lifecycle: { stopSignal: 'SIGUSR1' } }), {
    ...inputs,
    mounts: [{ host_path: '/x' }],
    security,
  });
  assert.deepEqual(config.mounts?.[0]?.uidMappings, [{ host_id: perPod, container_id: 0, length: perPod }]);
  assert.equal(config.stop_signal, undefined, 'the gate is off');
});

test('a runtime without them: refused with the field and the way out', () => {
  assert.match(
    unsupportedUserNamespaces('').message,
    /spec\.hostUsers: false.*runtime does not support user namespaces.*leave spec\.hostUsers out/,
  );
  assert.match(unsupportedUserNamespaces('kata').message, /RuntimeClass handler "kata"/);
});
