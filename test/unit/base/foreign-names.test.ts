// Whoever names a container, a label, a variable, a key, an image or a resource may call it what every object's prototype has, too.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ownValue, setOwn } from '../../../agent/base/own.ts';
import { decodePodResources, encodePodResources } from '../../../agent/drivers/journal/pod-resources.ts';
import { wantedAnnotations } from '../../../agent/images/providers.ts';
import { judgeAccess, mergePulled } from '../../../agent/images/records.ts';
import { podRequests } from '../../../agent/model/resources.ts';
import { nodePatch, sameStatus } from '../../../agent/node/patch.ts';
import { allocationOf, heldPod, resizeOf, sameResources, withAllocation } from '../../../agent/pods/allocation.ts';
import { makeEnvironment } from '../../../agent/pods/env.ts';
import { objectFieldValue } from '../../../agent/pods/env-field-ref.ts';
import { computeStatus } from '../../../agent/pods/status.ts';
import { withoutReserved } from '../../../agent/resources/pod-values.ts';
import { configMapPayload, secretPayload } from '../../../agent/volumes/payload.ts';
import { container, instance, pod, runtimePod, syncing } from '../pods/build.ts';

const foreign = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'valueOf', '__defineGetter__', 'prototype', 'then', 'length'];
const name = fc.oneof(fc.constantFrom(...foreign), fc.stringMatching(/^[a-zA-Z][-a-zA-Z0-9_]{0,8}$/));
const names = fc.uniqueArray(name, { minLength: 1, maxLength: 8 });
const record = <T>(keys: readonly string[], value: (key: string, i: number) => T): Record<string, T> =>
  Object.fromEntries(keys.map((key, i) => [key, value(key, i)]));
/** As JSON brings it: `__proto__` is an entry like any other. */
const wire = <T>(value: T): T => JSON.parse(JSON.stringify(value));
const verifying = { kind: 'AlwaysVerify', allowlist: [] } as const;
const check = (predicate: (keys: string[]) => void): void => fc.assert(fc.property(names, predicate), { numRuns: 200 });

describe('names that objects have of themselves', () => {
  test('an entry is there when somebody set it', () =>
    check((keys) => {
      const map: Record<string, number> = {};
      for (const key of foreign) assert.equal(ownValue(map, key), undefined);
      for (const [i, key] of keys.entries()) setOwn(map, key, i);
      for (const [i, key] of keys.entries()) assert.equal(ownValue(map, key), i);
      assert.deepEqual(Object.keys(map).sort(), [...keys].sort());
      assert.equal(Object.getPrototypeOf(map), Object.prototype);
    }));

  test('containers: what is allocated, and what a resize does', () =>
    check((keys) => {
      const containers = keys.map((key, i) => container(key, { resources: { requests: { cpu: `${i + 1}` } } }));
      const asked = pod({ containers });
      const allocation = wire(allocationOf(asked));
      assert.deepEqual(withAllocation(asked, allocation), asked);
      const bare = pod({ containers: keys.map((key) => container(key)) });
      assert.deepEqual(podRequests(withAllocation(bare, allocation)), podRequests(asked));
      const running = runtimePod(
        undefined,
        keys.map((key) => instance(key)),
      );
      // An allocation that names none of them says nothing of them.
      const none = { containers: {}, pod: undefined };
      assert.deepEqual(resizeOf(asked, none, undefined, running).containers, []);
      assert.deepEqual(heldPod(asked, none, running), asked);
      assert.equal(resizeOf(bare, allocation, undefined, running).containers.length, keys.length);
      const [[, back] = []] = decodePodResources(encodePodResources([['__proto__', { ...allocation, pod: undefined }]]));
      assert.deepEqual(back?.containers, allocation.containers);
    }));

  test('containers: their status', () =>
    check((keys) => {
      const own = pod({ containers: keys.map((key) => container(key)) });
      const status = computeStatus({
        pod: own,
        previous: {},
        runtime: runtimePod(
          undefined,
          keys.map((key) => instance(key)),
        ),
        runtimeName: 'containerd',
        lifecycle: syncing,
        recursiveReadOnly: () => true,
        waiting: new Map(),
        starting: new Set(),
        verdicts: () => ({}),
        volumesMounted: true,
        hostIps: [],
        now: 0,
        actuated: { containers: {}, pod: undefined },
        podSize: undefined,
      });
      assert.deepEqual(status.containerStatuses?.map((s) => s.name).sort(), [...keys].sort());
      for (const { resources } of status.containerStatuses ?? []) assert.ok(resources === undefined || typeof resources === 'object');
    }));

  test('resources: sums, sameness, what is left', () =>
    check((keys) => {
      const requests = record(keys, (_, i) => `${i + 1}`);
      const twice = pod({
        containers: [container('a', { resources: wire({ requests }) }), container('b', { resources: wire({ requests }) })],
      });
      assert.deepEqual(
        podRequests(twice),
        record(keys, (_, i) => `${2 * (i + 1)}`),
      );
      assert.equal(sameResources({ requests }, wire({ requests })), true);
      const other = record(['x', ...keys.slice(1)], (_, i) => `${i + 1}`);
      assert.equal(sameResources({ requests }, { requests: other }), keys[0] === 'x');
      assert.deepEqual(
        withoutReserved(wire(requests), {}),
        record(keys, (_, i) => `${i + 1}`),
      );
    }));

  test('environment: variables, and keys of ConfigMaps and Secrets', () =>
    check((any) => {
      // `R` is the pod's own here, and wins over a key of that name.
      const keys = any.filter((key) => key !== 'R');
      const data = wire(record(keys, (key) => `v-${key}`));
      const own = container('c', {
        envFrom: [{ configMapRef: { name: 'cm' } }],
        env: [
          ...foreign.map((key) => ({ name: `O_${key}`, valueFrom: { configMapKeyRef: { name: 'cm', key, optional: true } } })),
          ...foreign.map((key) => ({ name: `S_${key}`, valueFrom: { secretKeyRef: { name: 's', key, optional: true } } })),
          { name: 'R', value: '$(toString) $(none)' },
        ],
      });
      const found = new Map(
        makeEnvironment({
          pod: pod({ containers: [own] }),
          container: own,
          facts: { nodeName: 'n', podIPs: [], hostIPs: [] },
          services: [],
          objects: {
            configMap: () => ({ data }),
            secret: () => ({ data: record(keys, (key) => Buffer.from(`s-${key}`).toString('base64')) }),
          },
          allocatable: {},
          envFile: () => undefined,
        }).map((e) => [e.name, e.value]),
      );
      for (const key of keys) assert.equal(found.get(key), `v-${key}`);
      for (const key of foreign) {
        assert.equal(found.get(`O_${key}`), keys.includes(key) ? `v-${key}` : undefined);
        assert.equal(found.get(`S_${key}`), keys.includes(key) ? `s-${key}` : undefined);
      }
      assert.equal(found.get('R'), `${keys.includes('toString') ? 'v-toString' : '$(toString)'} $(none)`);
    }));

  test('labels and annotations', () =>
    check((keys) => {
      const labels = wire(record(keys, (key) => key.toUpperCase()));
      const own = pod({}, { labels, annotations: labels });
      for (const key of ['constructor', 'toString', 'hasOwnProperty', 'valueOf'])
        for (const where of ['labels', 'annotations'])
          assert.equal(objectFieldValue(own, `metadata.${where}['${key}']`), keys.includes(key) ? key.toUpperCase() : '');
      const lines = objectFieldValue(own, 'metadata.labels').split('\n');
      assert.deepEqual(
        lines,
        [...keys].sort().map((key) => `${key}="${key.toUpperCase()}"`),
      );
      const tokens = { audience: 'a', cacheType: 'Token', requireServiceAccount: true, optionalAnnotations: foreign } as const;
      const wanted = (required: string[]) =>
        wantedAnnotations({ ...tokens, requiredAnnotations: required }, { metadata: { annotations: labels } });
      assert.deepEqual(Object.keys(wanted(keys) ?? {}).sort(), [...keys].sort());
      for (const key of foreign) if (!keys.includes(key)) assert.equal(wanted([key]), undefined);
    }));

  test('volumes: files of ConfigMaps and Secrets', () =>
    check((keys) => {
      const data = wire(record(keys, (key) => key));
      assert.deepEqual(
        [...configMapPayload({ kind: 'found', value: { data } }, 'cm', undefined, undefined, false).keys()],
        Object.keys(data),
      );
      assert.deepEqual([...secretPayload({ kind: 'found', value: { data } }, 's', undefined, undefined, false).keys()], Object.keys(data));
      for (const key of foreign) {
        const items = [{ key, path: 'f' }];
        const payload = configMapPayload({ kind: 'found', value: { data } }, 'cm', items, undefined, true);
        assert.equal(payload.size, keys.includes(key) ? 1 : 0);
      }
    }));

  test('images: who may use what was pulled', () =>
    check((keys) => {
      const record = keys.reduce<ReturnType<typeof mergePulled>>(
        (all, key) => mergePulled(all, 'sha256:1', `example.com/${key.toLowerCase()}`, { nodePodsAccessible: true }, 0) ?? all,
        undefined,
      );
      // Others are no names of images.
      for (const key of [...keys, ...foreign].filter((k) => /^[a-zA-Z0-9]+$/.test(k))) {
        const known = keys.some((k) => k.toLowerCase() === key.toLowerCase());
        const verdict = judgeAccess(verifying, `example.com/${key.toLowerCase()}`, record, false);
        assert.equal(verdict, known ? 'allowed' : 'mustPull', key);
      }
      for (const image of ['constructor', 'valueof'])
        assert.equal(judgeAccess(verifying, image, { imageRef: 'i', lastUpdatedTime: '', credentialMapping: {} }, false), 'mustPull');
    }));

  test('the status of the Node: what changed is sent', () =>
    check((keys) => {
      const capacity = wire(record(keys, (_, i) => `${i + 1}`));
      assert.equal(sameStatus({ capacity: {} }, { capacity }), false);
      assert.equal(sameStatus({ capacity }, wire({ capacity })), true);
      assert.deepEqual(
        (nodePatch({ metadata: { labels: {} } }, { metadata: { labels: capacity } })?.metadata as { labels?: object } | undefined)?.labels,
        capacity,
      );
    }));
});
