import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AgentNode } from '../../../agent/model/pod.ts';
import { renewedLease } from '../../../agent/node/lease.ts';
import { initialNode, keepMetadata, reconcileNode } from '../../../agent/node/registration.ts';
import { config } from './fixtures.ts';

const status = { capacity: { cpu: '2', 'hugepages-2Mi': '0' }, allocatable: { cpu: '2', 'hugepages-2Mi': '0' } };

test('a new Node: labels, annotation, no spec to speak of', () => {
  assert.deepEqual(initialNode(config, status), {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: {
      name: 'n1',
      labels: {
        'kubernetes.io/hostname': 'n1',
        'kubernetes.io/os': 'linux',
        'kubernetes.io/arch': 'amd64',
        'beta.kubernetes.io/os': 'linux',
        'beta.kubernetes.io/arch': 'amd64',
      },
      annotations: { 'volumes.kubernetes.io/controller-managed-attach-detach': 'true' },
    },
    spec: {},
    status,
  });
});

test('labels of the flag win, taints, provider', () => {
  const node = initialNode(
    {
      ...config,
      nodeLabels: { 'kubernetes.io/hostname': 'other', zone: 'a' },
      registerWithTaints: [{ key: 'k', effect: 'NoSchedule' }],
      providerID: 'p://1',
      cloudProviderExternal: true,
      nodeIPs: ['10.0.0.1'],
      enableControllerAttachDetach: false,
    },
    status,
  );
  assert.equal(node.metadata.labels?.['kubernetes.io/hostname'], 'other');
  assert.equal(node.metadata.labels?.zone, 'a');
  assert.deepEqual(node.metadata.annotations, { 'alpha.kubernetes.io/provided-node-ip': '10.0.0.1' });
  assert.deepEqual(node.spec?.taints, [
    { key: 'k', effect: 'NoSchedule' },
    { key: 'node.cloudprovider.kubernetes.io/uninitialized', value: 'true', effect: 'NoSchedule' },
  ]);
  assert.equal(node.spec?.providerID, 'p://1');
});

test('an existing Node keeps what others gave it and takes back what is the node’s own', () => {
  const existing: AgentNode = {
    metadata: {
      name: 'n1',
      uid: 'u',
      labels: { 'kubernetes.io/arch': 'arm64', mine: 'yes' },
      annotations: { 'volumes.kubernetes.io/controller-managed-attach-detach': 'false', other: 'x' },
    },
    spec: { podCIDR: '10.1.0.0/24' },
    status: {
      capacity: { cpu: '8', 'hugepages-1Gi': '1Gi', 'example.com/gpu': '4' },
      allocatable: { cpu: '8', 'hugepages-1Gi': '1Gi', 'example.com/gpu': '4' },
    },
  };
  const wanted = initialNode({ ...config, nodeLabels: { fresh: 'no', 'topology.kubernetes.io/zone': 'z' } }, status);
  const node = reconcileNode(wanted, existing, true);
  assert.equal(node.metadata.labels?.['kubernetes.io/arch'], 'amd64');
  assert.equal(node.metadata.labels?.mine, 'yes');
  assert.equal(node.metadata.labels?.fresh, undefined);
  assert.equal(node.metadata.labels?.['topology.kubernetes.io/zone'], 'z');
  assert.deepEqual(node.metadata.annotations, { 'volumes.kubernetes.io/controller-managed-attach-detach': 'true', other: 'x' });
  assert.deepEqual(node.status?.capacity, { cpu: '8', 'example.com/gpu': '0', 'hugepages-2Mi': '0' });
  assert.equal(reconcileNode(wanted, existing, false).status?.capacity?.['example.com/gpu'], '4');
});

test('os and arch labels are kept while running', () => {
  const metadata = keepMetadata(config, {
    metadata: { name: 'n1', labels: { a: 'b' }, annotations: { 'alpha.kubernetes.io/provided-node-ip': 'x' } },
  });
  assert.deepEqual(metadata.labels, { a: 'b', 'kubernetes.io/os': 'linux', 'kubernetes.io/arch': 'amd64' });
  assert.deepEqual(metadata.annotations, {});
});

test('a lease is owned by its Node and renewed in place', () => {
  const first = renewedLease(undefined, { name: 'n1', uid: 'u1' }, 40, Date.UTC(2026, 0, 1, 0, 0, 0, 7));
  assert.deepEqual(first.metadata, {
    name: 'n1',
    namespace: 'kube-node-lease',
    ownerReferences: [{ apiVersion: 'v1', kind: 'Node', name: 'n1', uid: 'u1' }],
  });
  assert.deepEqual(first.spec, { holderIdentity: 'n1', leaseDurationSeconds: 40, renewTime: '2026-01-01T00:00:00.007000Z' });
  const again = renewedLease({ ...first, metadata: { ...first.metadata, resourceVersion: '5' } }, { name: 'n1', uid: 'u1' }, 60, 0);
  assert.equal(again.metadata?.resourceVersion, '5');
  assert.equal(again.spec?.leaseDurationSeconds, 60);
});
