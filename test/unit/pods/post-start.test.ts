import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { type ApplyDeps, applyAction, type Occurrence } from '../../../agent/pods/apply.ts';
import { container, pod, runtimePod } from './build.ts';

const hook = (command: string) => ({ exec: { command: [command] } });

for (const [name, lifecycle, ends] of [
  ['without a preStop hook', { postStart: hook('fails') }, ['Killing FailedPostStartHook', 'stop within 30 s']],
  [
    'with a preStop hook',
    { postStart: hook('fails'), preStop: hook('farewell') },
    ['Killing FailedPostStartHook', 'exec farewell', 'stop within 30 s'],
  ],
] as const) {
  test(`a container whose postStart hook failed is ended like any other: ${name}`, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'post-start-'));
    const story: string[] = [];
    const counted: Occurrence[] = [];
    const deps: Partial<ApplyDeps> = {
      clock: systemClock,
      podLogsDir: join(folder, 'logs'),
      containerLogsDir: join(folder, 'links'),
      recordEvent: (_pod, _type, reason, message) => void story.push(`${reason} ${message}`),
      count: (what) => void counted.push(what),
      sandboxConfig: async () => ({}),
      containerConfig: async () => ({ log_path: 'a/0.log' }),
      containerActuated: () => undefined,
      expandHook: async (_pod, _container, _id, command) => [...command],
      cri: {
        createContainer: async () => ({ container_id: 'a-0' }),
        startContainer: async () => ({}),
        execSync: async ({ cmd }: { cmd: string[] }) => {
          if (cmd[0] !== 'fails') story.push(`exec ${cmd[0]}`);
          return { exit_code: cmd[0] === 'fails' ? 1 : 0 };
        },
        stopContainer: async ({ timeout }: { timeout: number }) => void story.push(`stop within ${timeout} s`),
      } as unknown as ApplyDeps['cri'],
    };
    try {
      await assert.rejects(
        applyAction(
          deps as ApplyDeps,
          pod({ containers: [container('a', { lifecycle })] }),
          runtimePod(),
          {
            kind: 'startContainer',
            container: 'a',
            containerKind: 'app',
            attempt: 0,
            sandboxId: 's0',
            imageRef: 'r',
            previousEnd: undefined,
          },
          new AbortController().signal,
        ),
        (error) => error instanceof AgentError && error.code === 'PostStartHookError',
      );
      assert.deepEqual(story.slice(story.indexOf('FailedPostStartHook PostStartHook failed') + 1), ends);
      assert.deepEqual(counted, [{ kind: 'containerFailed', fieldPath: 'spec.containers{a}', code: 'PostStartHookError' }]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
