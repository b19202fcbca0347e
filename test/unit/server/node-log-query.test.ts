import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, get } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { after, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { systemClock } from '../../../agent/base/clock.ts';
import { lookWithin } from '../../../agent/drivers/files/look.ts';
import { createRunJournalctl } from '../../../agent/drivers/logs/journalctl.ts';
import type { Call } from '../../../agent/server/contracts.ts';
import { journalArguments, parseNodeLogQuery, patternCheckArguments, refusedPattern } from '../../../agent/server/node-log-query.ts';
import { serveQueriedLogs } from '../../../agent/server/node-logs.ts';

test('what a query is refused for, and with which words', () => {
  const table: [string, string, number, RegExp | string][] = [
    ['query', '', 400, 'query: Invalid value: [""]: may not be empty'],
    ['query=%20%20', '', 400, 'query: Invalid value: ["  "]: may not be empty'],
    ['query=a&boot=x', '', 400, 'boot: Invalid value: "x": strconv.Atoi: parsing "x": invalid syntax'],
    ['query=a&sinceTime=today', '', 400, 'sinceTime: Invalid value: "today": invalid time format'],
    ['query=a&untilTime=2026-13-01T00:00:00Z', '', 400, /^untilTime: .*invalid time format$/],
    ['query=a&sinceTime=x&tailLines=y', '', 400, /^\[sinceTime: .*, tailLines: .*\]$/],
    ['tailLines=3', '', 406, 'query: Required value: cannot be empty with options'],
    ['query=a', 'pods', 406, 'path not allowed in query mode'],
    ['query=a%20b', '', 406, 'query: Invalid value: "a b": input contains unsupported characters'],
    ['query=a;b', '', 406, /unsupported characters$/],
    [`query=${'a'.repeat(257)}`, '', 406, /length must be less than 256$/],
    ['query=a&query=b&query=c&query=d&query=e', '', 406, 'query: Too many: 5: must have at most 4 items'],
    ['query=a&query=/b.log', '', 406, /cannot specify a file and service$/],
    ['query=/a.log&query=/b.log', '', 406, /cannot specify more than one file$/],
    ['query=/a.log&tailLines=3', '', 406, /cannot specify file with options$/],
    ['query=a&boot=1', '', 406, 'boot: Invalid value: 1: must be less than 1'],
    ['query=a&tailLines=-1', '', 406, 'tailLines: Invalid value: -1: must be between 0 and 100000, inclusive'],
    ['query=a&tailLines=100001', '', 406, /must be between 0 and 100000, inclusive$/],
    ['query=a&pattern=x%00y', '', 406, 'pattern: Invalid value: "x\\u0000y": must not contain NUL'],
    ['query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z', '', 406, /must be after `sinceTime`$/],
  ];
  for (const [query, path, status, text] of table) {
    const parsed = parseNodeLogQuery(new URLSearchParams(query), path);
    assert.equal(parsed.kind, 'refused', query);
    if (parsed.kind !== 'refused') continue;
    assert.equal(parsed.status, status, query);
    if (typeof text === 'string') assert.equal(parsed.text, text);
    else assert.match(parsed.text, text);
  }
  for (const query of ['', 'unknown=1', 'boot=', 'pattern='])
    assert.equal(parseNodeLogQuery(new URLSearchParams(query), 'pods/x').kind, 'none');
});

test('journalctl is asked in its own words, in UTC', () => {
  const table: [string, string[]][] = [
    ['query=kubelet', ['--unit=kubelet']],
    ['query=kubelet&query=containerd@1', ['--unit=kubelet', '--unit=containerd@1']],
    ['query=kubelet&tailLines=3', ['--pager-end', '--lines=3', '--unit=kubelet']],
    ['query=kubelet&boot=0&pattern=container', ['--unit=kubelet', '--grep=container', '--boot=0']],
    ['query=kubelet&boot=-1', ['--unit=kubelet', '--boot=-1']],
    [
      'query=kubelet&sinceTime=2026-01-02T03:04:05%2B02:00&untilTime=2026-01-02T03:04:05.9Z',
      ['--since=2026-01-02 01:04:05 UTC', '--until=2026-01-02 03:04:05 UTC', '--unit=kubelet'],
    ],
  ];
  for (const [text, words] of table) {
    const parsed = parseNodeLogQuery(new URLSearchParams(text), '');
    assert.equal(parsed.kind, 'query', text);
    if (parsed.kind !== 'query') continue;
    const { services, options } = parsed.query;
    assert.deepEqual(journalArguments(services, options), ['--utc', '--no-pager', '--output=short-precise', ...words]);
  }
});

const folder = mkdtempSync(join(tmpdir(), 'keelson-log-query-'));
after(() => rmSync(folder, { recursive: true, force: true }));

test('services come from the journal, or from their files', async () => {
  const logs = join(folder, 'log');
  mkdirSync(join(logs, 'three'), { recursive: true });
  writeFileSync(join(logs, 'one'), 'of one\n');
  writeFileSync(join(logs, 'two.log'), 'of two\n');
  writeFileSync(join(logs, 'three', 'three.log'), 'of three\n');
  symlinkSync('/etc', join(logs, 'outside'));
  const journalctl = join(folder, 'journalctl');
  writeFileSync(
    journalctl,
    '#!/bin/sh\n[ "$1" = --field ] && { echo kubelet.service; echo x.service; exit; }\n' +
      'case "$3" in "--grep=(") echo \'Bad pattern "(": missing closing parenthesis\' >&2; exit 1;; --grep=*) exit 1;; esac\necho "asked $*"\necho mishap >&2\nexit 1\n',
  );
  chmodSync(journalctl, 0o755);
  let program = journalctl;
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://node');
    const signal = new AbortController().signal;
    const call: Call = { request, response, upgraded: undefined, query: url.searchParams, signal, closing: signal };
    const from = { folder: logs, within: lookWithin, clock: systemClock, journalctl: createRunJournalctl(program) };
    void serveQueriedLogs(from, decodeURIComponent(url.pathname.slice(1)), call);
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  const ask = (path: string, headers: Record<string, string> = {}): Promise<{ status: number; body: Buffer; type: string }> =>
    new Promise((answered, failed) => {
      const { port } = server.address() as AddressInfo;
      get({ host: '127.0.0.1', port, path, headers, agent: false }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () =>
          answered({ status: response.statusCode ?? 0, body: Buffer.concat(chunks), type: response.headers['content-type'] ?? '' }),
        );
      }).on('error', failed);
    });
  const words = '--utc --no-pager --output=short-precise';
  const table: [string, number, string | RegExp][] = [
    ['/?query=kubelet', 200, `asked ${words} --unit=kubelet\nmishap\n`],
    ['/?query=kubelet&query=two', 200, `asked ${words} --unit=kubelet\nmishap\nof two\n`],
    ['/?query=one', 200, 'of one\n'],
    // What PCRE2 understands, and JavaScript does not.
    ['/?query=kubelet&pattern=(?i)(?P<n>x)', 200, `asked ${words} --unit=kubelet --grep=(?i)(?P<n>x)\nmishap\n`],
    ['/?query=kubelet&pattern=(', 406, 'pattern: Invalid value: "(": Bad pattern "(": missing closing parenthesis\n'],
    ['/?query=three', 200, 'of three\n'],
    ['/?query=let', 200, '\nlog not found for let\n'],
    ['/?query=nobody', 200, '\nlog not found for nobody\n'],
    ['/?query=outside', 200, '\nlog not found for outside\n'],
    ['/?query=one&boot=0', 200, '\noptions present and query resolved to log files for [one]\ntry without specifying options\n'],
    ['/?query=/two.log', 200, 'of two\n'],
    ['/?query=/outside/passwd', 406, /no such file/],
    ['/?query=/../log/none', 406, /no such file/],
    ['/?query', 400, /may not be empty/],
    ['/two.log', 200, 'of two\n'],
    ['/', 200, /<a href="two.log">/],
  ];
  for (const [path, status, text] of table) {
    const answer = await ask(path);
    assert.equal(answer.status, status, path);
    if (typeof text === 'string') assert.equal(answer.body.toString(), text, path);
    else assert.match(answer.body.toString(), text, path);
  }
  const packed = await ask('/?query=one', { 'accept-encoding': 'gzip' });
  assert.equal(packed.type, 'text/plain;charset=UTF-8');
  assert.equal(gunzipSync(packed.body).toString(), 'of one\n');
  // Without journalctl every service is one of files.
  program = join(folder, 'absent');
  assert.equal((await ask('/?query=kubelet')).body.toString(), '\nlog not found for kubelet\n');
  server.close();
});

test("journalctl's own word on patterns", async (t) => {
  const run = createRunJournalctl();
  const say = async (pattern: string): Promise<string | undefined> => {
    let said = '';
    const out = new Writable({
      write(chunk: Buffer, _encoding, taken) {
        said += chunk.toString();
        taken();
      },
    });
    if ((await run(patternCheckArguments(pattern), out, AbortSignal.timeout(20_000))) === undefined) return undefined;
    return refusedPattern(pattern, said)?.text ?? 'fine';
  };
  const first = await say('(?i)container');
  if (first === undefined) return t.skip('there is no journalctl here');
  assert.equal(first, 'fine');
  for (const pattern of ['(?P<n>x)\\k<n>', '(?=a)b', '[[:digit:]]+', '-x']) assert.equal(await say(pattern), 'fine', pattern);
  for (const pattern of ['(', '[a', '*']) assert.match((await say(pattern)) ?? '', /^pattern: Invalid value: .*: Bad pattern /, pattern);
});
