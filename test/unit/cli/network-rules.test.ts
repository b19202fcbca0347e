import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { systemClock } from '../../../agent/base/clock.ts';
import type { Log } from '../../../agent/base/log.ts';
import { startNetworkRules } from '../../../agent/cli/wiring/network-rules.ts';

/** What is told until each of the two binaries has been told of. */
async function toldBy(script: string): Promise<string[]> {
  const told: string[] = [];
  const note = (level: string) => (fields: object, message: string) => void told.push(`${level} ${JSON.stringify(fields)} ${message}`);
  const log = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error'), child: () => log } as unknown as Log;
  await using _rules = startNetworkRules({ clock: systemClock, log, signal: new AbortController().signal, prefix: ['sh', '-c', script] });
  while (told.length < 2) await setImmediate();
  return told.sort();
}

test('without iptables there is a line for debugging, and nothing else', async () => {
  assert.deepEqual(
    (await toldBy('exit 127')).map((line) => line.split(' ')[0]),
    ['debug', 'debug'],
  );
});

test('what iptables refuses is told with its words, and the node runs on', async () => {
  const [first = ''] = await toldBy('echo "Permission denied (you must be root)" >&2; exit 4');
  assert.match(first, /^warn .*Permission denied.* could not set the rules that kubelet sets in iptables$/);
});
