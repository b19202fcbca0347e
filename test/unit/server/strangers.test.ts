import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { createKubeClient } from '../../../agent/drivers/kube/client.ts';
import { createReviews } from '../../../agent/drivers/kube/reviews.ts';
import { createReviewBudget } from '../../../agent/server/review-budget.ts';
import { createTtlCache } from '../../../agent/server/ttl-cache.ts';
import { manualClock } from '../identity/manual-clock.ts';
import { get, start } from './server-fixture.ts';

const forever = new AbortController().signal;

test('4,000 bad tokens: their reviews end in 429, a known token still passes, and a status patch goes through at once', {
  timeout: 60_000,
}, async (t) => {
  let reviews = 0;
  // An API server that takes a moment for each review.
  const api = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => {
      body += String(chunk);
    });
    request.on('end', async () => {
      response.setHeader('content-type', 'application/json');
      if (request.method === 'PATCH') return void response.end('{"kind":"Pod"}');
      if (request.url?.includes('subjectaccessreviews')) return void response.end('{"status":{"allowed":true}}');
      reviews++;
      await systemClock.sleep(20, forever);
      const known = JSON.parse(body).spec.token === 'good';
      response.end(JSON.stringify({ status: known ? { authenticated: true, user: { username: 'alice' } } : { authenticated: false } }));
    });
  }).listen(0, '127.0.0.1');
  await once(api, 'listening');
  t.after(() => api.close());
  const server = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
  await using client = createKubeClient({ auth: { server }, clock: systemClock, log: silentLog, userAgent: 'test/1', qps: 1, burst: 10 });
  await using s = await start({ options: createReviews(client) });
  assert.equal((await get(s.server.port, '/pods', { token: 'good' })).status, 200);

  const agent = new Agent({ keepAlive: true, maxSockets: 32, rejectUnauthorized: false });
  t.after(() => agent.destroy());
  const answers = new Map<number, number>();
  let retryAfter: string | undefined;
  const ask = (i: number) =>
    new Promise<void>((resolve, reject) => {
      const headers = { authorization: `Bearer bad-${i}` };
      const request = httpsRequest({ host: '127.0.0.1', port: s.server.port, path: '/pods', agent, headers });
      request.on('error', reject);
      request.on('response', (response) => {
        response.resume();
        answers.set(response.statusCode ?? 0, (answers.get(response.statusCode ?? 0) ?? 0) + 1);
        if (response.statusCode === 429) retryAfter = response.headers['retry-after'];
        response.on('end', resolve);
      });
      request.end();
    });
  const startedAt = systemClock.mono();
  const flood = Promise.all(Array.from({ length: 4000 }, (_, i) => ask(i)));
  await systemClock.sleep(200, forever);
  const before = systemClock.mono();
  await client.patch('/api/v1/namespaces/default/pods/web/status', {}, 'application/strategic-merge-patch+json', forever);
  const patchMs = systemClock.mono() - before;
  assert.equal((await get(s.server.port, '/pods', { token: 'good' })).status, 200);
  await flood;
  const seconds = (systemClock.mono() - startedAt) / 1000;
  t.diagnostic(
    `${JSON.stringify(Object.fromEntries(answers))} in ${seconds.toFixed(1)} s, ${reviews} reviews; a status patch took ${Math.round(patchMs)} ms`,
  );
  assert.equal((answers.get(429) ?? 0) + (answers.get(401) ?? 0), 4000);
  assert.equal(retryAfter, '1');
  assert.ok(reviews <= 2 + 20 + 5 * seconds, `${reviews} reviews for one address in ${seconds} s`);
  // The node's own budget is untouched: ten calls more, and none of them waits for a token.
  const own = systemClock.mono();
  for (let i = 0; i < 9; i++) await client.patch('/api/v1/namespaces/default/pods/web/status', {}, 'application/merge-patch+json', forever);
  assert.ok(systemClock.mono() - own < 6000, 'nine calls out of a burst of ten at one a second');
});

test('the budget: bounds on all, on each, on those under way; a refusal spends nothing', async () => {
  const clock = manualClock(0);
  const limits = { qps: 10, burst: 6, clientQps: 1, clientBurst: 3, inFlight: 4 };
  const budget = createReviewBudget(clock, limits);
  const tryOne = (client: string) => budget.spend(client, async () => 'asked').catch((error: AgentError) => error.code);
  const of = async (client: string, count: number) => {
    const results: string[] = [];
    for (let i = 0; i < count; i++) results.push(await tryOne(client));
    return results.filter((each) => each === 'asked').length;
  };
  assert.equal(await of('a', 100), 3);
  assert.equal(await of('b', 100), 3, 'the flood of one leaves something for another');
  assert.equal(await of('c', 100), 0, 'all together have spent theirs');
  await clock.advance(1000);
  assert.equal(await of('c', 100), 3);
  assert.equal(await of('a', 100), 1);

  await clock.advance(10_000);
  const open = Array.from({ length: 4 }, () => Promise.withResolvers<string>());
  const under = open.map((each, i) => budget.spend(`d${i}`, () => each.promise));
  assert.equal(await tryOne('e'), 'Throttled', 'as many are under way as may be');
  open[0]?.reject(new AgentError('Unavailable', 'no API server'));
  await assert.rejects(under[0] as Promise<string>);
  assert.equal(await tryOne('e'), 'asked');
  for (const each of open) each.resolve('done');
  await Promise.all(under.slice(1));
});

test('the cache: bounded in entries and bytes, and refusals never push out the guests', async () => {
  const clock = manualClock(0);
  const cache = createTtlCache<{ good: boolean; text: string }>({
    clock,
    ttlMs: ({ text }) => (text === 'brief' ? 0 : 1000),
    isGood: ({ good }) => good,
    entries: 100,
    bytes: 50_000,
  });
  let asked = 0;
  const ask = (key: string, answer: { good: boolean; text: string }) =>
    cache.get(key, async () => {
      asked++;
      return answer;
    });
  await ask('guest', { good: true, text: '' });
  for (let i = 0; i < 5000; i++) await ask(`stranger ${i} ${'x'.repeat(1000)}`, { good: false, text: '' });
  assert.ok(cache.size.entries <= 101, `${cache.size.entries} entries`);
  asked = 0;
  await ask('guest', { good: true, text: '' });
  assert.equal(asked, 0);
  for (let i = 0; i < 100; i++) await ask(`large ${i}`, { good: true, text: 'y'.repeat(5000) });
  assert.ok(cache.size.bytes <= 100_000, `${cache.size.bytes} bytes`);

  asked = 0;
  await ask('not kept', { good: true, text: 'brief' });
  await ask('not kept', { good: true, text: 'brief' });
  assert.equal(asked, 2, 'a TTL of 0 remembers nothing');
  asked = 0;
  const fail = () => cache.get('failing', () => Promise.reject(new AgentError('Unavailable', 'no API server')));
  await assert.rejects(fail());
  await ask('failing', { good: true, text: '' });
  assert.equal(asked, 1, 'an error is remembered for nobody');
  await clock.advance(1001);
  asked = 0;
  await ask('failing', { good: true, text: '' });
  assert.equal(asked, 1, 'what was known too long ago is asked again');
});
