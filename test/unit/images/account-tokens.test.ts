import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { createAccountTokens } from '../../../agent/images/account-tokens.ts';
import type { TokenRequest } from '../../../agent/model/generated/api.ts';

const hour = 3_600_000;
const never = new AbortController().signal;
const requestOf = (change: { uid?: string; audience?: string; pod?: string } = {}): TokenRequest => ({
  metadata: { uid: change.uid ?? 'uid-sa' },
  spec: {
    audiences: [change.audience ?? 'registry'],
    boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: change.pod ?? 'a', uid: `uid-${change.pod ?? 'a'}` },
  },
});

/** An API server that numbers its tokens, each good for an hour. */
function bed() {
  let now = Date.parse('2026-01-01T00:00:00Z');
  const clock: Clock = { ...systemClock, wall: () => now };
  const server = { away: false, issued: 0, empty: false };
  const tokens = createAccountTokens({
    requestToken: async (_namespace, _name, request, signal) => {
      signal.throwIfAborted();
      if (server.away) throw new AgentError('Unavailable', 'away');
      if (server.empty) return {};
      const status = { token: `t${++server.issued}`, expirationTimestamp: new Date(now + hour).toISOString() };
      return { ...request, spec: { audiences: [], ...request.spec, expirationSeconds: hour / 1000 }, status };
    },
    clock,
    log: silentLog,
    random: () => 0,
  });
  const get = (namespace = 'ns', name = 'sa', request = requestOf()): Promise<string> => tokens.get(namespace, name, request, never);
  return { tokens, server, get, pass: (ms: number) => (now += ms) };
}

const others: [string, namespace: string, name: string, request: TokenRequest, expected: string][] = [
  ['the same', 'ns', 'sa', requestOf(), 't1'],
  ['another namespace', 'other', 'sa', requestOf(), 't2'],
  ['another account', 'ns', 'other', requestOf(), 't2'],
  ['another account of the same name', 'ns', 'sa', requestOf({ uid: 'later' }), 't2'],
  ['another audience', 'ns', 'sa', requestOf({ audience: 'other' }), 't2'],
  ['another pod', 'ns', 'sa', requestOf({ pod: 'b' }), 't2'],
];
for (const [name, namespace, account, request, expected] of others)
  test(`a token for ${name}`, async () => {
    const { get } = bed();
    await get();
    assert.equal(await get(namespace, account, request), expected);
  });

const times: [string, ms: number, away: boolean, expected: string | undefined][] = [
  ['is kept for 80 % of its life', 0.8 * hour, false, 't1'],
  ['is renewed after that', 0.8 * hour + 1, false, 't2'],
  ['serves to its end when the server is away', hour, true, 't1'],
  ['is of no use after its end', hour + 1, true, undefined],
];
for (const [name, ms, away, expected] of times)
  test(`a token ${name}`, async () => {
    const { get, pass, server } = bed();
    await get();
    pass(ms);
    server.away = away;
    if (expected === undefined) await assert.rejects(get(), { code: 'Unavailable' });
    else assert.equal(await get(), expected);
  });

test('a pod that is gone has its tokens forgotten, and no other', async () => {
  const { tokens, get } = bed();
  await get();
  await get('ns', 'sa', requestOf({ pod: 'b' }));
  tokens.forgetPod('uid-a');
  assert.equal(await get('ns', 'sa', requestOf({ pod: 'b' })), 't2');
  assert.equal(await get(), 't3');
});

test('asked for at once it is one request, which goes on when the first to ask has given up', async () => {
  const { tokens, server, get } = bed();
  const controller = new AbortController();
  const first = tokens.get('ns', 'sa', requestOf(), controller.signal);
  const second = get();
  controller.abort(new Error('enough'));
  await assert.rejects(first, /enough/);
  assert.equal(await second, 't1');
  assert.equal(server.issued, 1);
});

test('an answer without a token is an error, and asked for again', async () => {
  const { server, get } = bed();
  server.empty = true;
  await assert.rejects(get(), { code: 'InvalidResponse', message: /no token for service account ns\/sa/ });
  server.empty = false;
  assert.equal(await get(), 't1');
});
