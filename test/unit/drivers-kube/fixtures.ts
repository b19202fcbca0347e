import { systemClock } from '../../../agent/base/clock.ts';
import { type Log, silentLog } from '../../../agent/base/log.ts';
import { createKubeClient, type KubeClient } from '../../../agent/drivers/kube/client.ts';
import type { KubeAuth } from '../../../agent/drivers/kube/kubeconfig.ts';
import type { FakeKubeApi } from '../../fakes/kube-api.ts';

export const signal = new AbortController().signal;
export const pods = '/api/v1/namespaces/ns/pods';

/** A client for the fake; `auth` adds to how it is reached. */
export function clientOf(api: FakeKubeApi, auth: Partial<KubeAuth> = {}): KubeClient {
  return createKubeClient({ auth: { ...api.auth, ...auth }, clock: systemClock, log: silentLog, userAgent: 'test/1' });
}

/** Resolves as soon as `holds` is true; fails after two seconds. */
export async function until(what: string, holds: () => boolean): Promise<void> {
  const end = systemClock.mono() + 2000;
  while (!holds()) {
    if (systemClock.mono() > end) throw new Error(`never came true: ${what}`);
    await systemClock.sleep(2, signal);
  }
}

/** A log that keeps `level message` lines. */
export function keepingLog(lines: string[]): Log {
  const log: Log = {
    debug: (_, message) => void lines.push(`debug ${message}`),
    info: (_, message) => void lines.push(`info ${message}`),
    warn: (_, message) => void lines.push(`warn ${message}`),
    error: (_, message) => void lines.push(`error ${message}`),
    child: () => log,
  };
  return log;
}
