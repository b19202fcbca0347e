import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo, Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { parse, stringify } from 'yaml';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { type JoinContext, joinCommand } from '../../../agent/cli/join.ts';
import { parseJoinArguments } from '../../../agent/cli/join-options.ts';
import { parseKubeconfig } from '../../../agent/drivers/kube/kubeconfig.ts';
import { selfSignedPair } from '../../../agent/identity/self-signed.ts';
import { leafFacts, onlyPrivateKey, publicKeyPin, readCertificates } from '../../../agent/identity/x509.ts';
import type { CertificateSigningRequest } from '../../../agent/model/generated/api.ts';
import { makeCa } from '../../fakes/certs.ts';
import { startConnectProxy } from '../../fakes/connect-proxy.ts';
import { type CannedAnswer, type FakeKubeApi, type FakeObject, type SeenRequest, startFakeKubeApi } from '../../fakes/kube-api.ts';
import { type FakeSigner, fakeSigner } from './fake-signer.ts';

const token = 'abcdef.0123456789abcdef';
const csrs = '/apis/certificates.k8s.io/v1/certificatesigningrequests';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'keelson-join-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

// What a test sets to end by its own word what takes so long and no longer: the time of a busy machine decides nothing.
let expiring: { readonly ms: number; readonly expired: AbortController } | undefined;
const clock: Clock = {
  ...systemClock,
  deadline: (signal, ms) =>
    ms === expiring?.ms
      ? { signal: AbortSignal.any([signal, expiring.expired.signal]), [Symbol.dispose]: () => undefined }
      : systemClock.deadline(signal, ms),
};
afterEach(() => {
  expiring = undefined;
});

/** A context that collects what is printed. */
function collector(): { ctx: JoinContext; printed: { out: string; err: string } } {
  const printed = { out: '', err: '' };
  const ctx: JoinContext = {
    stdout: (text) => {
      printed.out += text;
    },
    stderr: (text) => {
      printed.err += text;
    },
    clock,
    log: silentLog,
    signal: new AbortController().signal,
    userAgent: 'test',
  };
  return { ctx, printed };
}

async function runPlain(...args: string[]): Promise<Outcome> {
  const { ctx, printed } = collector();
  const code = await joinCommand.run(args, ctx);
  return { code, ...printed };
}

interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

const run = (...args: string[]): Promise<Outcome> =>
  runPlain(
    ...args,
    ...['--ignore-preflight-errors=all', `--kubernetes-dir=${dir}/etc`, `--root-dir=${dir}/kubelet`],
    ...['--cri-socket=/run/x.sock', '--node-name=n1'],
  );

/** The last line that begins with `error: `. */
const errorOf = (outcome: Outcome): string => outcome.err.split('\n').findLast((line) => line.startsWith('error: ')) ?? '';

function clusterInfoData(server: string, caPem: string | undefined, signedWith = token): Record<string, string> {
  const cluster = { server, ...(caPem === undefined ? {} : { 'certificate-authority-data': Buffer.from(caPem).toString('base64') }) };
  const kubeconfig = stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: '', cluster }],
    contexts: [],
    users: [],
    'current-context': '',
  });
  const [id, secret] = signedWith.split('.') as [string, string];
  const header = Buffer.from(JSON.stringify({ alg: 'HS256', kid: id })).toString('base64url');
  const mac = createHmac('sha256', secret)
    .update(`${header}.${Buffer.from(kubeconfig).toString('base64url')}`)
    .digest('base64url');
  return { kubeconfig, [`jws-kubeconfig-${id}`]: `${header}..${mac}` };
}

const pinOf = (pem: string): string => publicKeyPin(readCertificates(pem)[0]!);

describe('a whole join', () => {
  let api: FakeKubeApi;
  let signer: FakeSigner;
  let pin: string;
  let endpoint: string;
  /** Set by a test to answer instead of the cluster. */
  let answer: ((request: SeenRequest) => CannedAnswer | undefined) | undefined;

  beforeEach(async () => {
    api = await startFakeKubeApi();
    signer = fakeSigner();
    answer = undefined;
    endpoint = new URL(api.url).host;
    pin = pinOf(api.caPem);
    const configMap = (namespace: string, name: string, data: Record<string, string>): void =>
      void api.put(`/api/v1/namespaces/${namespace}/configmaps`, {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name, namespace },
        data,
      });
    configMap('kube-public', 'cluster-info', clusterInfoData(api.url, api.caPem));
    configMap('kube-system', 'kubelet-config', {
      kubelet:
        'apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: /etc/kubernetes/manifests\nclusterDomain: "yes"\nauthentication:\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\n',
    });
    configMap('kube-system', 'kube-proxy', { 'config.conf': 'kind: KubeProxyConfiguration\n', 'kubeconfig.conf': 'kind: Config\n' });
    api.answer = (request) => {
      const canned = answer?.(request);
      if (canned !== undefined) return canned;
      if (!request.path.includes('cluster-info') && request.headers.authorization !== `Bearer ${token}`) return status(401, 'Unauthorized');
      if (request.method === 'GET' && request.path.startsWith(`${csrs}/`)) sign(request.path.slice(csrs.length + 1));
      return undefined;
    };
  });
  afterEach(async () => {
    await api[Symbol.asyncDispose]();
    signer[Symbol.dispose]();
  });

  const status = (code: number, reason: string, message = reason): CannedAnswer => ({
    status: code,
    body: { apiVersion: 'v1', kind: 'Status', status: 'Failure', message, reason, code },
  });

  function sign(name: string): void {
    const csr = api.read(csrs, undefined, decodeURIComponent(name)) as (FakeObject & CertificateSigningRequest) | undefined;
    if (csr === undefined || csr.status !== undefined) return;
    signer.requests.set(name, csr);
    signer.approve(name);
    signer.sign(name);
    api.put(csrs, { ...csr, status: signer.requests.get(name)?.status });
  }

  const join1 = (...more: string[]): Promise<Outcome> =>
    run(
      endpoint,
      '--token',
      token,
      '--discovery-token-ca-cert-hash',
      pin,
      '--discovery-timeout=400ms',
      '--tls-bootstrap-timeout=60s',
      ...more,
    );

  test('writes what kubeadm writes, and says how to start', async () => {
    const outcome = await join1();
    assert.equal(outcome.code, 0, outcome.err);
    assert.equal(outcome.err.replace(/^warning: .*\n/gm, ''), '');
    const kubeconfig = join(dir, 'etc/kubelet.conf');
    const auth = parseKubeconfig(readFileSync(kubeconfig, 'utf8'), kubeconfig);
    const pair = join(dir, 'kubelet/pki/kubelet-client-current.pem');
    assert.equal(auth.server, api.url);
    assert.deepEqual(auth.ca, { kind: 'data', pem: api.caPem });
    assert.deepEqual(
      [auth.clientCert, auth.clientKey],
      [
        { kind: 'file', path: pair },
        { kind: 'file', path: pair },
      ],
    );
    assert.equal(leafFacts(readFileSync(pair, 'utf8')).commonName, 'system:node:n1');
    assert.ok(onlyPrivateKey(readFileSync(pair, 'utf8')));
    assert.equal(statSync(kubeconfig).mode & 0o777, 0o600);
    assert.equal(readFileSync(join(dir, 'etc/pki/ca.crt'), 'utf8').trim(), api.caPem.trim());
    assert.deepEqual(parse(readFileSync(join(dir, 'kubelet/config.yaml'), 'utf8'), { version: '1.1' }), {
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      authentication: { x509: { clientCAFile: `${dir}/etc/pki/ca.crt` } },
      clusterDomain: 'yes',
      containerRuntimeEndpoint: 'unix:///run/x.sock',
      staticPodPath: `${dir}/etc/manifests`,
    });
    assert.equal(readFileSync(join(dir, 'kubelet/instance-config.yaml'), 'utf8'), 'containerRuntimeEndpoint: "unix:///run/x.sock"\n');
    assert.equal(readFileSync(join(dir, 'kubelet/kubeadm-flags.env'), 'utf8'), 'KUBELET_KUBEADM_ARGS="--hostname-override=n1"\n');
    assert.equal(readFileSync(join(dir, 'kubelet/kube-proxy/config.conf'), 'utf8'), 'kind: KubeProxyConfiguration\n');
    assert.equal(existsSync(join(dir, 'etc/bootstrap-kubelet.conf')), false, 'the token does not stay on disk');
    assert.equal(existsSync(join(dir, 'kubelet/pki/kubelet-client.key.tmp')), false);
    assert.match(
      outcome.out,
      new RegExp(
        `keelson run --kubeconfig=${kubeconfig} --config=${dir}/kubelet/config.yaml --root-dir=${dir}/kubelet --hostname-override=n1`,
      ),
    );
  });

  test('dry run: changes nothing', async () => {
    const outcome = await join1('--dry-run');
    assert.equal(outcome.code, 0, outcome.err);
    assert.match(outcome.out, /etc\/kubelet\.conf/);
    assert.equal(existsSync(join(dir, 'etc')), false);
    assert.equal(
      api.seen.some((r) => r.method !== 'GET'),
      false,
    );
  });

  test('without a hash, when that is asked for', async () => {
    const outcome = await run(endpoint, '--token', token, '--discovery-token-unsafe-skip-ca-verification');
    assert.equal(outcome.code, 0, outcome.err);
  });

  test('by JoinConfiguration', async () => {
    const path = join(dir, 'join.yaml');
    const text = {
      apiVersion: 'kubeadm.k8s.io/v1beta4',
      kind: 'JoinConfiguration',
      discovery: { bootstrapToken: { token, apiServerEndpoint: endpoint, caCertHashes: [pin] } },
      nodeRegistration: {
        criSocket: 'unix:///run/y.sock',
        taints: [{ key: 'dedicated', value: 'gpu', effect: 'NoSchedule' }],
        kubeletExtraArgs: [{ name: 'node-ip', value: '10.0.0.7' }],
      },
    };
    writeFileSync(path, `---\nkind: ClusterConfiguration\n---\n${stringify(text)}`);
    const outcome = await runPlain(
      '--config',
      path,
      '--ignore-preflight-errors=all',
      `--kubernetes-dir=${dir}/etc`,
      `--root-dir=${dir}/kubelet`,
      '--node-name=n1',
    );
    assert.equal(outcome.code, 0, outcome.err);
    assert.equal(
      readFileSync(join(dir, 'kubelet/kubeadm-flags.env'), 'utf8'),
      'KUBELET_KUBEADM_ARGS="--hostname-override=n1 --node-ip=10.0.0.7 --register-with-taints=dedicated=gpu:NoSchedule"\n',
    );
  });

  test('by discovery file, with its own credentials or a TLS bootstrap token', async () => {
    const path = join(dir, 'discovery.conf');
    const write = (user: object): void =>
      writeFileSync(
        path,
        stringify({
          apiVersion: 'v1',
          kind: 'Config',
          clusters: [{ name: 'c', cluster: { server: api.url, 'certificate-authority-data': Buffer.from(api.caPem).toString('base64') } }],
          users: [{ name: 'u', user }],
          contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
          'current-context': 'x',
        }),
      );
    write({});
    assert.match(errorOf(await run('--discovery-file', path)), /no credentials .* --tls-bootstrap-token/);
    assert.equal((await run('--discovery-file', path, '--tls-bootstrap-token', token)).code, 0);
    writeFileSync(join(dir, 'token'), `${token}\n`);
    write({ tokenFile: 'token' });
    const outcome = await run('--discovery-file', path);
    assert.equal(outcome.code, 0, outcome.err);
  });

  test("through the environment's proxy: every step of it, to a server that only the proxy can reach", async (t) => {
    await using proxy = await startConnectProxy(Number(new URL(api.url).port));
    const server = 'https://api.example:6443';
    put(clusterInfoData(server, api.caPem));
    const before = process.env.HTTPS_PROXY;
    t.after(() => {
      if (before === undefined) delete process.env.HTTPS_PROXY;
      else process.env.HTTPS_PROXY = before;
    });
    process.env.HTTPS_PROXY = proxy.url;
    const pinned = ['--discovery-token-ca-cert-hash', pin];
    const outcome = await run('api.example:6443', '--token', token, ...pinned);
    assert.equal(outcome.code, 0, outcome.err);
    assert.deepEqual(new Set(proxy.asked), new Set(['CONNECT api.example:6443']));
    const kubeconfig = readFileSync(join(dir, 'etc/kubelet.conf'), 'utf8');
    assert.deepEqual([parseKubeconfig(kubeconfig, '/x').server, parseKubeconfig(kubeconfig, '/x').proxyUrl], [server, undefined]);
    proxy.refuse = 403;
    assert.match(
      errorOf(await run('api.example:6443', '--token', token, ...pinned, '--discovery-timeout=100ms')),
      /cannot reach https:\/\/api\.example:6443: proxy http:\/\/127.* refuses to connect to api\.example:6443: 403/,
    );
  });

  test("through a discovery file's proxy, which the node keeps", async () => {
    await using proxy = await startConnectProxy(Number(new URL(api.url).port));
    const path = join(dir, 'discovery.conf');
    const cluster = {
      server: 'https://api.example:6443',
      'certificate-authority-data': Buffer.from(api.caPem).toString('base64'),
      'proxy-url': proxy.url,
    };
    writeFileSync(path, stringify({ apiVersion: 'v1', kind: 'Config', clusters: [{ name: 'c', cluster }] }));
    const outcome = await run('--discovery-file', path, '--tls-bootstrap-token', token);
    assert.equal(outcome.code, 0, outcome.err);
    assert.equal(parseKubeconfig(readFileSync(join(dir, 'etc/kubelet.conf'), 'utf8'), '/x').proxyUrl, proxy.url);
    assert.ok(proxy.asked.length >= 3, 'discovery, the cluster configuration and the certificate are asked for through it');
  });

  const put = (data: Record<string, string>): void =>
    void api.put('/api/v1/namespaces/kube-public/configmaps', {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'cluster-info', namespace: 'kube-public' },
      data,
    });
  const forbid =
    (part: string, method = 'GET') =>
    () => {
      answer = (r) => (r.path.includes(part) && r.method === method ? status(403, 'Forbidden', `${part} is forbidden`) : undefined);
    };

  const failures: [string, () => void, RegExp][] = [
    [
      'token unknown or expired',
      () => put(clusterInfoData(api.url, api.caPem, 'zzzzzz.0123456789abcdef')),
      /does not know token abcdef, or it has expired.*kubeadm token create/,
    ],
    ['no token signed at all', () => put({ kubeconfig: 'x' }), /does not know token abcdef.*bootstrapsigner/],
    [
      'wrong secret',
      () => put(clusterInfoData(api.url, api.caPem, 'abcdef.fedcba9876543210')),
      /not signed with this token: the secret .* of token abcdef is wrong/,
    ],
    [
      'cluster-info missing',
      () => api.remove('/api/v1/configmaps', 'kube-public', 'cluster-info'),
      /has no ConfigMap kube-public\/cluster-info/,
    ],
    ['cluster-info without kubeconfig', () => put({}), /holds no kubeconfig/],
    ['cluster-info without a CA', () => put(clusterInfoData(api.url, undefined)), /holds no CA certificate/],
    ['cluster-info not for strangers', forbid('cluster-info'), /does not show kube-public\/cluster-info to strangers/],
    [
      'another CA in cluster-info than the server has',
      () => {
        using other = makeCa('other');
        put(clusterInfoData(api.url, other.cert));
        pin = pinOf(other.cert);
      },
      /not from the cluster's certificate authority/,
    ],
    [
      'the server that cluster-info names is away',
      () => put(clusterInfoData('https://127.0.0.1:1', api.caPem)),
      /cannot reach https:\/\/127\.0\.0\.1:1: nothing listens on port 1/,
    ],
    [
      'wrong hash',
      () => {
        pin = `sha256:${'0'.repeat(64)}`;
      },
      /the cluster's CA has the hash sha256:[0-9a-f]{64}, not sha256:0{64}/,
    ],
    [
      'token not accepted for requests',
      () => {
        answer = (r) => (r.path.includes('cluster-info') ? undefined : status(401, 'Unauthorized'));
      },
      /does not accept bootstrap token abcdef: it has expired/,
    ],
    [
      'a Ready node of that name',
      () => void api.put('/api/v1/nodes', { metadata: { name: 'n1' }, status: { conditions: [{ type: 'Ready', status: 'True' }] } }),
      /a Node named n1 is in the cluster already, and Ready.*kubectl delete node n1/,
    ],
    ['nodes may not be looked at', forbid('/nodes/'), /name n1 is free: .*kubeadm:get-nodes/],
    ['kubelet-config forbidden', forbid('kubelet-config'), /may not read ConfigMap kube-system\/kubelet-config .*kubeadm:kubelet-config/],
    [
      'kubelet-config missing',
      () => api.remove('/api/v1/configmaps', 'kube-system', 'kubelet-config'),
      /no ConfigMap kube-system\/kubelet-config/,
    ],
    ['requests forbidden', forbid(csrs, 'POST'), /may not create certificate signing requests .*system:node-bootstrapper/],
    [
      'nobody approves',
      () => {
        const expired = new AbortController();
        expiring = { ms: 60_000, expired };
        let asked = 0;
        answer = (r) => {
          if (r.method !== 'GET' || !r.path.startsWith(`${csrs}/`)) return undefined;
          // Who asks a second time knows that it is pending.
          if (++asked === 2) expired.abort(new AgentError('DeadlineExceeded', 'timed out'));
          return { status: 200, body: api.read(csrs, undefined, r.path.slice(csrs.length + 1)) };
        };
      },
      /no client certificate within 60 s: .*kubectl certificate approve node-csr-.*nodeclient/,
    ],
  ];
  for (const [what, prepare, message] of failures) {
    test(`fails clearly: ${what}`, async () => {
      prepare();
      const outcome = await join1();
      assert.match(errorOf(outcome), message);
      assert.equal(outcome.code, 1);
      assert.equal(existsSync(join(dir, 'etc/kubelet.conf')), false);
      assert.equal(existsSync(join(dir, 'etc/bootstrap-kubelet.conf')), false);
      assert.equal(existsSync(join(dir, 'etc/pki/ca.crt')), false);
      assert.doesNotMatch(outcome.out + outcome.err, /0123456789abcdef/, 'the secret is printed nowhere');
    });
  }

  test('a Node of that name that is not Ready may be taken over', async () => {
    api.put('/api/v1/nodes', { metadata: { name: 'n1' }, status: { conditions: [{ type: 'Ready', status: 'Unknown' }] } });
    assert.equal((await join1()).code, 0);
  });

  test('no kube-proxy configuration is only a warning', async () => {
    api.remove('/api/v1/configmaps', 'kube-system', 'kube-proxy');
    const outcome = await join1();
    assert.equal(outcome.code, 0);
    assert.match(outcome.err, /warning: no kube-proxy configuration/);
  });

  test('a denied request says so; nothing but the key stays behind, and after deletion the join goes through', async () => {
    answer = (r) => {
      if (r.method === 'GET' && r.path.startsWith(`${csrs}/`)) {
        const csr = api.read(csrs, undefined, r.path.slice(csrs.length + 1));
        return { status: 200, body: { ...csr, status: { conditions: [{ type: 'Denied', status: 'True', reason: 'No' }] } } };
      }
      return undefined;
    };
    const denied = await join1();
    const name = /kubectl delete csr (\S+)/.exec(errorOf(denied))?.[1] ?? '';
    assert.match(name, /^node-csr-/);
    answer = undefined;
    api.remove(csrs, undefined, name);
    const outcome = await join1();
    assert.equal(outcome.code, 0, outcome.err);
    assert.ok(api.read(csrs, undefined, name), 'the same key makes the same request');
  });
});

describe('servers that cannot be joined', () => {
  let server: Server | undefined;
  afterEach(() => void server?.close());
  const listen = async (listener: Server): Promise<string> => {
    server = listener;
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    return `127.0.0.1:${(listener.address() as AddressInfo).port}`;
  };
  const attempt = (endpoint: string, pin = `sha256:${'0'.repeat(64)}`): Promise<Outcome> =>
    run(endpoint, '--token', token, '--discovery-token-ca-cert-hash', pin, '--discovery-timeout=400ms');

  test('nothing listens', async () => {
    const endpoint = await listen(createHttpServer());
    await new Promise((resolve) => server?.close(resolve));
    assert.match(errorOf(await attempt(endpoint)), /cannot reach https:\/\/127\.0\.0\.1:\d+: nothing listens on port \d+ of 127\.0\.0\.1/);
  });

  test('an unknown name', async () => {
    assert.match(errorOf(await attempt('no-such-host.invalid:6443')), /cannot reach .*no-such-host\.invalid.*DNS/);
  });

  test('plain HTTP', async () => {
    const endpoint = await listen(createHttpServer((_, response) => response.end('hello')));
    assert.match(errorOf(await attempt(endpoint)), /does not speak TLS/);
  });

  const tls = (now: number, answer: (pair: { certPem: string }, url: string) => { status?: number; body: string; date?: string }) => {
    const pair = selfSignedPair('127.0.0.1', [], now);
    const made = createHttpsServer({ cert: pair.certPem, key: pair.keyPem }, (_, response) => {
      const { status, body, date } = answer(pair, `https://127.0.0.1:${(made.address() as AddressInfo).port}`);
      if (date !== undefined) response.setHeader('date', date);
      response.statusCode = status ?? 200;
      response.end(body);
    });
    return { made, caPem: readCertificates(pair.certPem)[1]!.toString() };
  };

  test('a web server', async () => {
    const endpoint = await listen(tls(Date.now(), () => ({ body: '<html>It works!</html>' })).made);
    assert.match(errorOf(await attempt(endpoint)), /is not a Kubernetes API server \(HTTP 200: "<html>It works!/);
  });

  test('a server that is starting is tried again, and its trouble shown', async () => {
    let asked = 0;
    const { made } = tls(Date.now(), () => {
      asked++;
      return { status: 503, body: JSON.stringify({ kind: 'Status', message: 'etcd is away' }) };
    });
    const endpoint = await listen(made);
    const outcome = await run(
      endpoint,
      '--token',
      token,
      '--discovery-token-ca-cert-hash',
      `sha256:${'0'.repeat(64)}`,
      '--discovery-timeout=700ms',
    );
    assert.match(errorOf(outcome), /is not ready: HTTP 503: etcd is away/);
    assert.match(outcome.out, /trying again for up to 700ms/);
    assert.equal(asked, 2);
  });

  const dayMs = 86_400_000;
  const clusterInfo = (caPem: string, url: string): string => JSON.stringify({ kind: 'ConfigMap', data: clusterInfoData(url, caPem) });
  const skewed: [string, number, number, RegExp][] = [
    [
      'our clock is behind: not valid yet',
      10 * dayMs,
      10 * dayMs,
      /not valid yet by this machine's clock: here it is .*, 10 days behind the server's clock .*Set the clock/,
    ],
    [
      'our clock is ahead: no longer valid',
      -500 * dayMs,
      -200 * dayMs,
      /no longer valid by this machine's clock: .* 200 days ahead of the server's clock.*Set the clock/,
    ],
    [
      'the server let its certificate expire',
      -500 * dayMs,
      0,
      /the certificate of https:.* has expired, valid until .*kubeadm certs renew/,
    ],
  ];
  for (const [what, certificateFrom, serverClock, message] of skewed) {
    test(what, async () => {
      const { made, caPem } = tls(Date.now() + certificateFrom, (pair, url) => ({
        body: clusterInfo(readCertificates(pair.certPem)[1]!.toString(), url),
        date: new Date(Date.now() + serverClock).toUTCString(),
      }));
      const endpoint = await listen(made);
      assert.match(errorOf(await attempt(endpoint, pinOf(caPem))), message);
    });
  }
});

test('fields of a JoinConfiguration that are unknown or stand twice are warnings, as with kubeadm', () => {
  const file = `apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
dryRun: false
dryRun: true
frobnicate: 1
discovery:
  bootstrapToken: {apiServerEndpoint: 'a:1', token: ${token}, unsafeSkipCAVerification: true}
timeouts: {discovery: 1m0s, x: 1s}
`;
  const parsed = parseJoinArguments(['--config=/c.yaml'], () => file);
  assert.ok(parsed.kind === 'join');
  assert.equal(parsed.settings.dryRun, true);
  assert.equal(parsed.settings.discoveryTimeoutMs, 60_000);
  assert.deepEqual(parsed.settings.warnings, [
    '/c.yaml: line 7: the key "dryRun" stands more than once in the document; the last one counts',
    '/c.yaml: unknown field "timeouts.x", ignored',
    '/c.yaml: unknown field "frobnicate", ignored',
  ]);
});

describe('wrong usage', () => {
  const pin = `sha256:${'ab'.repeat(32)}`;
  const cases: [string, string[], RegExp][] = [
    ['no endpoint', [], /whom to join\?.*kubeadm token create --print-join-command/],
    ['no port', ['example.com', '--token', token], /must be HOST:PORT/],
    ['IPv6 without brackets', ['fd00::1:6443', '--token', token, '--discovery-token-ca-cert-hash', pin], /must be HOST:PORT/],
    ['a URL', ['https://example.com:6443', '--token', token, '--discovery-token-ca-cert-hash', pin], /must be HOST:PORT/],
    ['two endpoints', ['a:1', 'b:2'], /one API server endpoint/],
    ['no token', ['a:1'], /a token is needed/],
    ['malformed token', ['a:1', '--token', 'abc', '--discovery-token-ca-cert-hash', pin], /the bootstrap token is malformed/],
    [
      'malformed TLS bootstrap token',
      ['a:1', '--discovery-token', token, '--tls-bootstrap-token=x.y', '--discovery-token-ca-cert-hash', pin],
      /malformed/,
    ],
    ['no hash', ['a:1', '--token', token], /can be unsafe/],
    ['malformed hash', ['a:1', '--token', token, '--discovery-token-ca-cert-hash', 'sha256:12'], /2 characters/],
    ['both ways of discovery', ['a:1', '--token', token, '--discovery-file=/x'], /not both/],
    ['a discovery URL without TLS', ['--discovery-file=http://x/y'], /must be https/],
    [
      'a relative directory',
      ['a:1', '--token', token, '--discovery-token-ca-cert-hash', pin, '--kube-proxy-dir=x'],
      /--kube-proxy-dir must be an absolute path/,
    ],
    ['a bad duration', ['a:1', '--token', token, '--discovery-token-ca-cert-hash', pin, '--discovery-timeout=soon'], /invalid duration/],
    ['a bad node name', ['a:1', '--token', token, '--discovery-token-ca-cert-hash', pin, '--node-name=Bad_Name'], /not a valid node name/],
    ['unknown flag', ['a:1', '--frobnicate'], /--frobnicate/],
    ['--control-plane', ['a:1', '--control-plane'], /--control-plane is not supported: it is for control-plane nodes/],
    ['--certificate-key', ['a:1', '--certificate-key', 'x'], /--certificate-key is not supported/],
    ['--apiserver-advertise-address', ['a:1', '--apiserver-advertise-address=1.2.3.4'], /--apiserver-advertise-address is not supported/],
    ['--patches', ['a:1', '--patches=/x'], /--patches is not supported/],
    ['--config with flags', ['--config=/x', '--token', token], /--config cannot be mixed with --token/],
  ];
  for (const [what, args, message] of cases) {
    test(what, async () => {
      const outcome = await runPlain(...args);
      assert.match(outcome.err, message);
      assert.equal(outcome.code, 2);
    });
  }

  for (const [what, document, message] of [
    ['controlPlane', { controlPlane: {} }, /controlPlane: it is for control-plane nodes/],
    ['skipPhases', { skipPhases: ['preflight'] }, /skipPhases.*no phases/],
  ] as const) {
    test(`JoinConfiguration with ${what}`, async () => {
      const path = join(dir, 'c.yaml');
      writeFileSync(path, stringify({ apiVersion: 'kubeadm.k8s.io/v1beta4', kind: 'JoinConfiguration', discovery: {}, ...document }));
      const outcome = await runPlain('--config', path);
      assert.match(outcome.err, message);
      assert.equal(outcome.code, 2);
    });
  }

  test('--help names every flag that works', async () => {
    const { code, out } = await runPlain('--help');
    assert.equal(code, 0);
    for (const flag of joinCommand.flags)
      assert.equal(out.includes(`  --${flag.name} `) || out.includes(`  --${flag.name}\n`), flag.refused === undefined, flag.name);
  });
});

test('preflight: what stands in the way is named with its check, and can be ignored by that name', async () => {
  writeFileSync(join(dir, 'kubelet.conf'), '');
  const check = `FileAvailable-${join(dir, 'kubelet.conf').replaceAll('/', '-')}`;
  const attempt = async (ignored: string): Promise<string> => {
    const { out, err } = await runPlain(
      ...['127.0.0.1:1', '--token', token, '--discovery-token-ca-cert-hash', `sha256:${'0'.repeat(64)}`, '--discovery-timeout=1ms'],
      ...[`--kubernetes-dir=${dir}`, `--root-dir=${dir}/k`, `--cri-socket=${dir}/none.sock`, `--ignore-preflight-errors=${ignored}`],
    );
    return out + err;
  };
  const strict = await attempt('');
  assert.ok(strict.includes(`[${check}] ${dir}/kubelet.conf exists`), strict);
  assert.match(strict, /\[CRI\] there is no container runtime at unix:.*none\.sock/);
  const lax = await attempt('all');
  assert.ok(lax.includes(`warning: [${check}]`), lax);
  assert.match(lax, /cannot reach https:\/\/127\.0\.0\.1:1/);
});
