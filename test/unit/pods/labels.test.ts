import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerAnnotations, containerHash, containerLabels, sandboxLabels } from '../../../agent/pods/labels.ts';
import { container, pod } from './build.ts';

// Read off containers that a kubelet 1.36.1 had made.
const hashes: [name: string, image: string, hash: string][] = [
  ['webserver', 'registry.k8s.io/e2e-test-images/agnhost:2.63.0', 'c74fa14'],
  ['ipv6ipv4clusterip', 'registry.k8s.io/e2e-test-images/agnhost:2.63.0', '1ce37778'],
  ['c1', 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1', 'd5267408'],
  ['c2', 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1', '5934bbca'],
  ['c3', 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1', '85c275'],
  ['c1-init', 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1', '1e6f2ed9'],
];
for (const [name, image, hash] of hashes) test(`hash as kubelet's: ${name}`, () => assert.equal(containerHash({ name, image }), hash));

test('a sandbox carries the pod’s labels and its identity, a container the identity alone', () => {
  const labelled = pod({}, { labels: { app: 'x' } });
  assert.deepEqual(sandboxLabels(labelled), {
    app: 'x',
    'io.kubernetes.pod.name': 'web',
    'io.kubernetes.pod.namespace': 'default',
    'io.kubernetes.pod.uid': 'u1',
  });
  assert.equal(containerLabels(labelled, container('a'))['io.kubernetes.container.name'], 'a');
  assert.equal('app' in containerLabels(labelled, container('a')), false);
});

test('a container carries what stops it decently when its spec is gone', () => {
  const annotations = containerAnnotations(
    pod({ terminationGracePeriodSeconds: 7 }, { deletionGracePeriodSeconds: 3 }),
    container('a', { lifecycle: { preStop: { sleep: { seconds: 1 } } }, ports: [{ containerPort: 80 }], terminationMessagePath: '/dev/t' }),
    2,
  );
  assert.deepEqual(annotations, {
    'io.kubernetes.container.hash': containerHash({ name: 'a', image: 'a:1' }),
    'io.kubernetes.container.restartCount': '2',
    'io.kubernetes.container.terminationMessagePath': '/dev/t',
    'io.kubernetes.container.terminationMessagePolicy': '',
    'io.kubernetes.pod.deletionGracePeriod': '3',
    'io.kubernetes.pod.terminationGracePeriod': '7',
    'io.kubernetes.container.preStopHandler': '{"sleep":{"seconds":1}}',
    'io.kubernetes.container.ports': '[{"containerPort":80}]',
  });
});
