import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import { factsOf, upstreamGoDescriptor, upstreamProto } from './upstream.ts';

const contracts: { file: string; upstream: () => PackageDefinition; leftOut: RegExp }[] = [
  {
    file: 'cri.proto',
    upstream: () => upstreamProto('k8s.io/cri-api', 'v0.36.1', 'pkg/apis/runtime/v1/api.proto'),
    // Fields of messages we do have, that a Linux node neither sends nor reads.
    leftOut: /\.windows$/,
  },
  {
    file: 'health.proto',
    upstream: () => upstreamGoDescriptor('google.golang.org/grpc', 'v1.79.3', 'health/grpc_health_v1/health.pb.go'),
    leftOut: /^$/,
  },
  {
    file: 'device-plugin.proto',
    upstream: () => upstreamProto('k8s.io/kubelet', 'v0.36.1', 'pkg/apis/deviceplugin/v1beta1/api.proto'),
    leftOut: /^$/,
  },
  {
    file: 'plugin-registration.proto',
    upstream: () => upstreamProto('k8s.io/kubelet', 'v0.36.1', 'pkg/apis/pluginregistration/v1/api.proto'),
    leftOut: /^$/,
  },
];

for (const { file, upstream, leftOut } of contracts) {
  test(`${file} says what upstream's descriptors say`, () => {
    const ours = factsOf(loadSync(join(import.meta.dirname, '../../../cri-protos', file), { keepCase: true }));
    const theirs = factsOf(upstream());
    const wrong = [...ours].filter(([name, fact]) => theirs.get(name) !== fact);
    assert.deepEqual(
      wrong.map(([name, fact]) => `${name}: ours ${fact}, upstream's ${theirs.get(name)}`),
      [],
    );
    assert.ok(ours.size > 5);
  });

  test(`${file} leaves no field or value out of a message it has`, () => {
    const ours = factsOf(loadSync(join(import.meta.dirname, '../../../cri-protos', file), { keepCase: true }));
    const parents = new Set([...ours].filter(([, fact]) => !fact.includes('→')).map(([name]) => name.slice(0, name.lastIndexOf('.'))));
    const missing = [...factsOf(upstream()).keys()].filter(
      (name) => parents.has(name.slice(0, name.lastIndexOf('.'))) && !ours.has(name) && !leftOut.test(name),
    );
    assert.deepEqual(missing, []);
  });
}
