import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import { type ApplyDeps, applyAction } from '../../../agent/pods/apply.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { pod, runtimePod, sandbox } from './build.ts';

const cases: { name: string; runtime: RuntimePod; code: string }[] = [
  { name: 'without a sandbox it is the sandbox’s, whose event tells it', runtime: runtimePod([]), code: 'FailedCreatePodSandBox' },
  { name: 'beside one it is the container’s', runtime: runtimePod([sandbox()]), code: 'CreateContainerConfigError' },
];
for (const { name, runtime, code } of cases) {
  test(`a host name that is too long, met by a pull: ${name}`, async () => {
    const deps: Partial<ApplyDeps> = {
      sandboxConfig: async () => {
        throw new AgentError('InvalidHostname', 'FQDN is too long');
      },
    };
    await assert.rejects(
      applyAction(
        deps as ApplyDeps,
        pod(),
        runtime,
        { kind: 'pullImage', container: 'a', image: 'a:1', attempt: 0 },
        new AbortController().signal,
      ),
      (error) => hasCode(error, code) && error.message === 'FQDN is too long',
    );
  });
}
