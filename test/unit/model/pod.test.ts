import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type AgentPod, fromApi, isStaticPod } from '../../../agent/model/pod.ts';
import { isCriticalPod } from '../../../agent/model/priority.ts';

const cases: { name: string; annotations: Record<string, string> | undefined; becomes: Record<string, string> | undefined }[] = [
  { name: 'no annotations', annotations: undefined, becomes: undefined },
  { name: 'others', annotations: { a: 'b' }, becomes: { a: 'b' } },
  {
    name: 'that of a static pod',
    annotations: { a: 'b', 'kubernetes.io/config.source': 'file' },
    becomes: { a: 'b', 'kubernetes.io/config.source': 'api' },
  },
];
for (const { name, annotations, becomes } of cases)
  test(`a pod of the API server is none of a file, whatever its annotations say: ${name}`, () => {
    const pod: AgentPod = {
      metadata: { name: 'p', namespace: 'n', uid: 'u', ...(annotations === undefined ? {} : { annotations }) },
      spec: { containers: [] },
    };
    const taken = fromApi(pod);
    assert.deepEqual(taken.metadata.annotations, becomes);
    assert.equal(isStaticPod(taken) || isCriticalPod(taken), false);
    assert.deepEqual(pod.metadata.annotations, annotations);
  });
