// A backend that holds frontends in memory, and fails as it is told.
import { AgentError } from '../../agent/base/errors.ts';
import { type Backend, type BackendSettings, batchRefused, type Change } from '../../proxy/backends/backend.ts';
import type { Family } from '../../proxy/model/address.ts';
import type { Frontend } from '../../proxy/model/frontend.ts';

export interface FakeBackend extends Backend {
  /** What the kernel would hold. */
  readonly kernel: Map<string, Frontend | undefined>;
  /** `open`, `apply KEYS`, `refused KEYS`, `complete`, `audit DEPTH`, in order. */
  readonly calls: string[];
  /** Refuses a batch that has a frontend of one of these Services. */
  readonly refuses: Set<string>;
  /** Each call takes one of these: `crash` fails before anything happens, `lost` after it all has. */
  readonly failures: ('crash' | 'lost' | undefined)[];
  /** Awaited by each transaction. */
  gate: Promise<void> | undefined;
  intact: boolean;
}

export function fakeBackend(family: Family = 'ip', minIntervalMs = 0): FakeBackend {
  const kernel = new Map<string, Frontend | undefined>();
  const calls: string[] = [];
  const refuses = new Set<string>();
  const failures: ('crash' | 'lost' | undefined)[] = [];
  const namesOf = (changes: readonly Change[]): string =>
    changes.map(({ key, frontend }) => `${frontend === undefined ? '-' : ''}${key.split('|')[1]}`).join();
  const fake: FakeBackend = {
    family,
    name: 'fake',
    minIntervalMs,
    kernel,
    calls,
    refuses,
    failures,
    gate: undefined,
    intact: true,
    open: async (_settings: BackendSettings) => {
      calls.push('open');
      fake.intact = true;
      return new Set(kernel.keys());
    },
    apply: async (changes) => {
      await fake.gate;
      const failure = failures.shift();
      if (failure === 'crash') throw new AgentError('Crashed', 'the tool crashed');
      if (changes.some(({ frontend }) => frontend !== undefined && refuses.has(frontend.service))) {
        calls.push(`refused ${namesOf(changes)}`);
        throw new AgentError(batchRefused, 'no such chain');
      }
      calls.push(`apply ${namesOf(changes)}`);
      for (const { key, frontend } of changes) {
        if (frontend === undefined) kernel.delete(key);
        else kernel.set(key, frontend);
      }
      if (failure === 'lost') throw new AgentError('Crashed', 'the tool crashed');
    },
    complete: async () => void calls.push('complete'),
    configure: async () => void calls.push('configure'),
    audit: async (depth) => {
      calls.push(`audit ${depth}`);
      return fake.intact;
    },
    [Symbol.asyncDispose]: async () => void calls.push('closed'),
  };
  return fake;
}
