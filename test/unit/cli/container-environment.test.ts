import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { createContainerCommands } from '../../../agent/cli/wiring/container-environment.ts';
import type { Container } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';

const pod = { metadata: { name: 'p', namespace: 'ns', uid: 'u' }, spec: { containers: [] } } as unknown as AgentPod;
const never = new AbortController().signal;
const exec = (...command: string[]) => ({ exec: { command } });
const container: Container = {
  name: 'c',
  env: [
    { name: 'LITERAL', value: 'l' },
    { name: 'SECRET', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } },
  ],
  readinessProbe: exec('check', '$(SECRET)'),
  lifecycle: { preStop: exec('bye', '$(SECRET)') },
};

function setup(info: object | undefined, environment: () => Promise<{ name: string; value: string }[]>) {
  const asked: string[] = [];
  const commands = createContainerCommands({
    log: silentLog,
    cri: {
      async containerStatus({ container_id, verbose }) {
        asked.push(`${container_id} ${verbose}`);
        return info === undefined ? {} : { info: { info: JSON.stringify(info) } };
      },
    },
    environment,
  });
  return { commands, asked };
}

const notAsked = (): Promise<never> => Promise.reject(new AgentError('Internal', 'not in this story'));

test('probes and hooks know what the container was made with, and the runtime is asked once', async () => {
  const envs = [
    { key: 'SECRET', value: 'then' },
    { key: 'LITERAL', value: 'l' },
  ];
  const { commands, asked } = setup({ config: { envs } }, notAsked);
  const probe = (...command: string[]) => commands.expandProbe(pod, container, 'id', command, never);
  assert.deepEqual(await probe('check', '$(SECRET)', '$(NONE)', '$$'), ['check', 'then', '$(NONE)', '$']);
  assert.deepEqual(await commands.expandHook(pod, container, 'id', ['bye', '$(SECRET)', '$$', '$(date)'], never), [
    'bye',
    'then',
    '$$',
    '$(date)',
  ]);
  assert.deepEqual(await probe('plain', '$$x'), ['plain', '$x']);
  assert.deepEqual(asked, ['id true']);
});

test('a runtime that does not tell: what the objects say now, or else what the pod says by itself', async () => {
  const now = setup(undefined, async () => [{ name: 'SECRET', value: 'now' }]);
  assert.deepEqual(await now.commands.expandProbe(pod, container, 'id', ['$(SECRET)'], never), ['now']);
  const gone = setup({ pid: 1 }, () => Promise.reject(new AgentError('NotFound', 'secret "s" not found')));
  const both: Container = { ...container, readinessProbe: exec('$(SECRET)', '$(LITERAL)') };
  assert.deepEqual(await gone.commands.expandProbe(pod, both, 'id', ['$(SECRET)', '$(LITERAL)'], never), ['$(SECRET)', 'l']);
});

test('a runtime that does not answer fails the attempt, and is asked again', async () => {
  let down = true;
  const commands = createContainerCommands({
    log: silentLog,
    cri: {
      async containerStatus() {
        if (down) throw new AgentError('Unavailable', 'the runtime is away');
        return { info: { info: JSON.stringify({ config: { envs: [{ key: 'SECRET', value: 'x' }] } }) } };
      },
    },
    environment: notAsked,
  });
  await assert.rejects(commands.expandProbe(pod, container, 'id', ['$(SECRET)'], never), { code: 'Unavailable' });
  down = false;
  assert.deepEqual(await commands.expandProbe(pod, container, 'id', ['$(SECRET)'], never), ['x']);
});
