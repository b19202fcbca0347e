import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import type { ContainerStatus } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { attributesOf, forbiddenText } from '../../../agent/server/attributes.ts';
import { containerToRead, portForwardPortsOf, streamOptionsOf } from '../../../agent/server/containers.ts';
import { answerHealthz } from '../../../agent/server/healthz.ts';
import { parseLogOptions, sinceOf } from '../../../agent/server/log-options.ts';
import { metricLabelsOf, type RouteSwitches, routeOf } from '../../../agent/server/routes.ts';
import { tlsSettings } from '../../../agent/server/tls-options.ts';

test('a request asks for a verb and subresources of the node, as kubelet says', () => {
  const table: [string, string, string, string[]][] = [
    ['GET', '/pods', 'get', ['pods', 'proxy']],
    ['GET', '/pods/x', 'get', ['pods', 'proxy']],
    ['GET', '/podsx', 'get', ['proxy']],
    ['GET', '/runningpods/', 'get', ['pods', 'proxy']],
    ['GET', '/healthz/ping', 'get', ['healthz', 'proxy']],
    ['GET', '/configz', 'get', ['configz', 'proxy']],
    ['GET', '/stats/summary', 'get', ['stats']],
    ['GET', '/metrics', 'get', ['metrics']],
    ['GET', '/metrics/cadvisor', 'get', ['metrics']],
    ['GET', '/logs/', 'get', ['log']],
    ['POST', '/checkpoint/a/b/c', 'create', ['checkpoint']],
    ['GET', '/statusz', 'get', ['statusz']],
    ['GET', '/flagz', 'get', ['configz']],
    ['GET', '/containerLogs/a/b/c', 'get', ['proxy']],
    ['POST', '/exec/a/b/c', 'create', ['proxy']],
    ['PUT', '/debug/flags/v', 'update', ['proxy']],
    ['PATCH', '/x', 'patch', ['proxy']],
    ['DELETE', '/x', 'delete', ['proxy']],
    ['HEAD', '/metrics', '', ['metrics']],
  ];
  for (const [method, path, verb, subresources] of table) assert.deepEqual(attributesOf(method, path), { verb, subresources }, path);
  assert.equal(
    forbiddenText({ name: 'bob', groups: [] }, attributesOf('GET', '/pods')),
    'Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[pods proxy])\n',
  );
});

test('paths and methods lead to routes', () => {
  const open: RouteSwitches = { debugging: true, systemLogs: true, debugFlags: true, pages: new Set(['/metrics', '/stats/summary']) };
  const table: [string, string, RouteSwitches, object][] = [
    ['GET', '/healthz', open, { kind: 'healthz', check: undefined }],
    ['GET', '/healthz/syncloop', open, { kind: 'healthz', check: 'syncloop' }],
    ['GET', '/pods', open, { kind: 'pods' }],
    ['GET', '/pods/', open, { kind: 'pods' }],
    ['POST', '/pods', open, { kind: 'methodNotAllowed', allow: 'GET' }],
    ['GET', '/metrics', open, { kind: 'page', path: '/metrics' }],
    ['GET', '/metrics/cadvisor', open, { kind: 'notFound' }],
    ['GET', '/stats/summary', open, { kind: 'page', path: '/stats/summary' }],
    ['GET', '/runningpods/', open, { kind: 'runningPods' }],
    ['GET', '/logs/', open, { kind: 'nodeLogs', path: '' }],
    ['GET', '/logs/pods/x/0.log', open, { kind: 'nodeLogs', path: 'pods/x/0.log' }],
    ['GET', '/logs/', { ...open, systemLogs: false }, { kind: 'disabled', text: 'logs endpoint is disabled.' }],
    ['PUT', '/debug/flags/v', open, { kind: 'setVerbosity' }],
    ['GET', '/containerLogs/ns/p/c', open, { kind: 'containerLogs', namespace: 'ns', pod: 'p', uid: undefined, container: 'c' }],
    ['GET', '/containerLogs/ns/p/u/c', open, { kind: 'notFound' }],
    ['POST', '/exec/ns/p/c', open, { kind: 'exec', namespace: 'ns', pod: 'p', uid: undefined, container: 'c' }],
    ['GET', '/attach/ns/p/u/c', open, { kind: 'attach', namespace: 'ns', pod: 'p', uid: 'u', container: 'c' }],
    ['GET', '/run/ns/p/c', open, { kind: 'methodNotAllowed', allow: 'POST' }],
    ['POST', '/portForward/ns/p', open, { kind: 'portForward', namespace: 'ns', pod: 'p', uid: undefined }],
    ['POST', '/portForward/ns/p/u', open, { kind: 'portForward', namespace: 'ns', pod: 'p', uid: 'u' }],
    ['GET', '/exec/ns/p/%2e%2E', open, { kind: 'exec', namespace: 'ns', pod: 'p', uid: undefined, container: '..' }],
    ['GET', '/exec/ns/p/%zz', open, { kind: 'notFound' }],
    ['GET', '/exec/ns/p/c', { ...open, debugging: false }, { kind: 'debuggingDisabled' }],
    ['GET', '/pods', { ...open, debugging: false }, { kind: 'pods' }],
    ['GET', '/', open, { kind: 'notFound' }],
  ];
  for (const [method, path, switches, expected] of table) assert.deepEqual(routeOf(method, path, switches), expected, `${method} ${path}`);
});

test('metric labels are bounded', () => {
  assert.deepEqual(metricLabelsOf('GET', '/metrics/resource'), { method: 'GET', path: 'metrics/resource', longRunning: 'false' });
  assert.deepEqual(metricLabelsOf('BREW', '/coffee/1'), { method: 'other', path: 'other', longRunning: 'false' });
  assert.deepEqual(metricLabelsOf('POST', '/exec/a/b/c'), { method: 'POST', path: 'exec', longRunning: 'true' });
});

test('log options are read and refused as upstream does', () => {
  const options = (query: string, split = false) => {
    const parsed = parseLogOptions(new URLSearchParams(query), split);
    return 'options' in parsed ? parsed.options : parsed.error.status;
  };
  const none = {
    follow: false,
    previous: false,
    timestamps: false,
    tailLines: undefined,
    limitBytes: undefined,
    sinceSeconds: undefined,
    sinceTime: undefined,
    stream: undefined,
  };
  const table: [string, object | number][] = [
    ['', none],
    ['follow=true&previous=1&timestamps=True', { ...none, follow: true, previous: true, timestamps: true }],
    ['follow=false&previous=0', none],
    ['tailLines=10&limitBytes=5', { ...none, tailLines: 10, limitBytes: 5 }],
    ['tail=3', { ...none, tailLines: 3 }],
    ['tail=all&tailLines=9', none],
    ['sinceSeconds=60', { ...none, sinceSeconds: 60 }],
    ['sinceTime=2026-01-02T03:04:05Z', { ...none, sinceTime: '2026-01-02T03:04:05Z' }],
    ['tailLines=x', 400],
    ['sinceTime=noon', 400],
    ['sinceTime=2026-02-30T00:00:00Z', 400],
    ['sinceTime=2026-01-01T24:00:00Z', 400],
    ['sinceTime=2026-01-01T00:00:60Z', 400],
    ['sinceTime=2026-01-01T00:00:00%2B99:99', 400],
    ['sinceTime=2026-01-01T00:00:00,1234567891Z', { ...none, sinceTime: '2026-01-01T00:00:00.123456789Z' }],
    ['tailLines=9223372036854775807', { ...none, tailLines: 2 ** 63 }],
    ['tailLines=9223372036854775808', 400],
    [`tailLines=${'9'.repeat(5000)}`, 400],
    ['limitBytes=0x10', 400],
    // Date.parse takes it, RFC 3339 does not: all lines would be shown.
    ['sinceTime=2026-01-02T03:04Z', 400],
    ['sinceTime=2026-01-02T03:04:05', 400],
    ['sinceTime=2026-01-02T03:04:05.25%2B02:00', { ...none, sinceTime: '2026-01-02T03:04:05.25+02:00' }],
    ['tailLines=-1', 422],
    ['limitBytes=0', 422],
    ['sinceSeconds=0', 422],
    ['sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z', 422],
    ['stream=Stdout', 400],
  ];
  for (const [query, expected] of table) assert.deepEqual(options(query), expected, query);
  assert.deepEqual(options('stream=Stderr', true), { ...none, stream: 'stderr' });
  assert.equal(options('stream=Stdin', true), 422);
  assert.equal(options('stream=Stdout&tailLines=1', true), 422);
});

function podWith(status: Partial<ContainerStatus> | undefined): AgentPod {
  const containerStatuses = status === undefined ? [] : [{ name: 'c', image: '', imageID: '', ready: false, restartCount: 0, ...status }];
  return {
    metadata: { name: 'p', namespace: 'ns', uid: 'u' },
    spec: { containers: [{ name: 'c' }] },
    status: { containerStatuses },
  } as AgentPod;
}

test('a time before there were logs is the start of the log', () => {
  const options = (query: string) => {
    const parsed = parseLogOptions(new URLSearchParams(query), true);
    assert.ok('options' in parsed);
    return parsed.options;
  };
  const now = Date.UTC(2026, 0, 2);
  assert.equal(sinceOf(options('sinceSeconds=60'), now), '2026-01-01T23:59:00.000Z');
  for (const seconds of ['99999999999', '9223372036854775807']) assert.equal(sinceOf(options(`sinceSeconds=${seconds}`), now), undefined);
  assert.equal(sinceOf(options('sinceTime=2026-01-01T00:00:00Z'), now), '2026-01-01T00:00:00Z');
});

test('which container a log request means', () => {
  const ended = (id?: string) => ({ terminated: { exitCode: 1, containerID: id } });
  const table: [string, Partial<ContainerStatus> | undefined, boolean, string][] = [
    ['running', { state: { running: {} }, containerID: 'containerd://a' }, false, 'a'],
    ['ended', { state: ended('containerd://b'), containerID: 'containerd://b' }, false, 'b'],
    ['ended, its next never started', { state: ended(), lastState: ended('containerd://old') }, false, 'old'],
    ['waiting in back-off', { state: { waiting: { reason: 'CrashLoopBackOff' } }, lastState: ended('containerd://old') }, false, 'old'],
    ['previous', { state: { running: {} }, containerID: 'containerd://a', lastState: ended('containerd://old') }, true, 'old'],
    [
      'no previous',
      { state: { running: {} }, containerID: 'containerd://a' },
      true,
      'previous terminated container "c" in pod "p" not found',
    ],
    ['no status', undefined, false, 'container "c" in pod "p" is not available'],
    ['ended without an ID', { state: ended() }, false, 'container "c" in pod "p" is terminated'],
    [
      'creating',
      { state: { waiting: { reason: 'ContainerCreating' } } },
      false,
      'container "c" in pod "p" is waiting to start: ContainerCreating',
    ],
    [
      'pulling fails',
      { state: { waiting: { reason: 'ErrImagePull' } } },
      false,
      `container "c" in pod "p" is waiting to start: image can't be pulled`,
    ],
    [
      'pull back-off',
      { state: { waiting: { reason: 'ImagePullBackOff' } } },
      false,
      'container "c" in pod "p" is waiting to start: trying and failing to pull image',
    ],
    ['nothing known', {}, false, 'container "c" in pod "p" is waiting to start - no logs yet'],
  ];
  for (const [name, status, previous, expected] of table) {
    const found = containerToRead(podWith(status), 'c', previous);
    assert.equal('id' in found ? found.id : found.refusal.text, expected, name);
  }
});

test('stream options and ports', () => {
  const streams = (query: string) => {
    const parsed = streamOptionsOf(new URLSearchParams(query));
    return 'options' in parsed ? parsed.options : parsed.refusal.text;
  };
  assert.deepEqual(streams('input=1&output=1&tty=1&error=1'), { stdin: true, stdout: true, stderr: false, tty: true });
  assert.deepEqual(streams('output=1&error=1'), { stdin: false, stdout: true, stderr: true, tty: false });
  assert.equal(streams('tty=1'), 'you must specify at least 1 of stdin, stdout, stderr');
  const ports = (query: string, webSocket: boolean) => {
    const parsed = portForwardPortsOf(new URLSearchParams(query), webSocket);
    return 'ports' in parsed ? parsed.ports : parsed.refusal.text;
  };
  assert.deepEqual(ports('', false), []);
  assert.deepEqual(ports('port=80,443&port=1', true), [80, 443, 1]);
  assert.equal(ports('', true), 'query parameter "port" is required');
  assert.equal(ports('port=0', true), 'port "0" must be > 0');
  assert.equal(ports('port=70000', true), 'unable to parse "70000" as a port');
});

test('healthz', () => {
  const good = { name: 'ping', check: () => undefined };
  const bad = { name: 'syncloop', check: () => new Error('stuck') };
  const answer = (checks: (typeof good | typeof bad)[], name: string | undefined, query = '') => {
    const found = answerHealthz(checks, name, new URLSearchParams(query));
    return found && [found.status, found.body];
  };
  assert.deepEqual(answer([good], undefined), [200, 'ok']);
  assert.deepEqual(answer([good], undefined, 'verbose'), [200, '[+]ping ok\nhealthz check passed\n']);
  assert.deepEqual(answer([good, bad], undefined), [500, '[+]ping ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n']);
  assert.deepEqual(answer([good, bad], undefined, 'exclude=syncloop'), [200, 'ok']);
  assert.deepEqual(answer([good, bad], 'ping'), [200, 'ok']);
  assert.deepEqual(answer([good, bad], 'syncloop'), [500, 'internal server error: stuck\n']);
  assert.equal(answer([good], 'x'), undefined);
});

test('TLS settings in Go names', () => {
  const standard = tlsSettings(undefined, undefined);
  assert.deepEqual([standard.minVersion, standard.curves], ['TLSv1.2', undefined]);
  const names = standard.ciphers.split(':');
  assert.ok(names.includes('TLS_AES_128_GCM_SHA256') && names.includes('ECDHE-RSA-AES128-GCM-SHA256'));
  assert.deepEqual(
    names.filter((name) => !/^TLS_|^ECDHE-/.test(name)),
    [],
    'without forward secrecy no session, as with Go',
  );
  assert.deepEqual(tlsSettings('VersionTLS13', ['TLS_AES_128_GCM_SHA256']), {
    minVersion: 'TLSv1.3',
    ciphers: standard.ciphers,
    curves: undefined,
  });
  assert.match(tlsSettings('', ['TLS_RSA_WITH_AES_128_CBC_SHA256']).ciphers, /:AES128-SHA256$/);
  assert.equal(tlsSettings('', [], [4588, 29, 23]).curves, 'X25519MLKEM768:X25519:P-256');
  for (const [curves, problem] of [
    [[0], 'curve preference 0 is out of range'],
    [[29, 29], 'duplicate curve preference 29'],
    [[30], 'curve preference 30 is not supported'],
  ] as const)
    assert.throws(
      () => tlsSettings('', [], curves),
      (e) => hasCode(e, 'Invalid') && e.message.includes(problem),
    );
  assert.match(tlsSettings('', ['TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256']).ciphers ?? '', /:ECDHE-RSA-AES128-GCM-SHA256$/);
  assert.throws(
    () => tlsSettings('TLS1', undefined),
    (e) => hasCode(e, 'Invalid'),
  );
  assert.throws(
    () => tlsSettings(undefined, ['RC4']),
    (e) => hasCode(e, 'Invalid') && e.message.includes('"RC4"'),
  );
});
