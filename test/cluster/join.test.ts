// `keelson join` and the node's certificates against a real control plane on loopback, made by kubeadm, ours alone.
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { parse, stringify } from 'yaml';
import { type Clock, systemClock } from '../../agent/base/clock.ts';
import { hasCode } from '../../agent/base/errors.ts';
import { silentLog } from '../../agent/base/log.ts';
import { joinCommand } from '../../agent/cli/join.ts';
import { ensureNodeCredentials, prepareClientRotation, startServingCertificate } from '../../agent/cli/node-identity.ts';
import { createKubeClient, type KubeClient, pathOf } from '../../agent/drivers/kube/client.ts';
import { type KubeAuth, loadKubeconfig } from '../../agent/drivers/kube/kubeconfig.ts';
import { leafFacts, publicKeyPin, readCertificates } from '../../agent/identity/x509.ts';
import type { CertificateSigningRequest, ConfigMap, Node } from '../../agent/model/generated/api.ts';
import { ensureBinaries, kubernetesVersion } from '../testbed/binaries.ts';
import { tailOf } from '../testbed/process.ts';
import { GiveUp, waitFor } from '../testbed/wait.ts';

const execute = promisify(execFile);
const signal = new AbortController().signal;
const token = 'abcdef.0123456789abcdef';
const csrs = '/apis/certificates.k8s.io/v1/certificatesigningrequests';

let dir: string;
let port: number;
let binaries: Record<'etcd' | 'kube-apiserver' | 'kube-controller-manager' | 'kubeadm' | 'kubectl', string>;
let admin: KubeClient;
let pin: string;
const children: ChildProcess[] = [];

const inDir = (name: string): string => join(dir, name);

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port: free } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return free;
}

function start(name: string, binary: string, args: string[]): ChildProcess {
  const out = openSync(inDir(`${name}.log`), 'a');
  const child = spawn(binary, args, { stdio: ['ignore', out, out] });
  children.push(child);
  return child;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.kill();
  using _force = systemClock.after(15_000, () => child.kill('SIGKILL'));
  await exited;
}

const kubeadm = (...args: string[]) => execute(binaries.kubeadm, args);
const kubectl = (...args: string[]) => execute(binaries.kubectl, ['--kubeconfig', inDir('admin.conf'), ...args]);

const clientOf = (auth: KubeAuth): KubeClient =>
  createKubeClient({ auth, clock: systemClock, log: silentLog, userAgent: 'keelson-test', qps: 0 });

before(async () => {
  binaries = await ensureBinaries(['etcd', 'kube-apiserver', 'kube-controller-manager', 'kubeadm', 'kubectl']);
  dir = mkdtempSync(join(tmpdir(), 'join-'));
  port = await freePort();
  const [etcdPort, peerPort, managerPort] = [await freePort(), await freePort(), await freePort()];
  const pki = inDir('pki');
  const config = inDir('kubeadm.yaml');
  writeFileSync(
    config,
    [
      {
        apiVersion: 'kubeadm.k8s.io/v1beta4',
        kind: 'InitConfiguration',
        bootstrapTokens: [{ token, ttl: '1h0m0s' }],
        // kubeadm would replace a loopback address by one of the machine's; nothing listens on this one (RFC 5737).
        localAPIEndpoint: { advertiseAddress: '192.0.2.1', bindPort: port },
        nodeRegistration: { name: 'control-plane', criSocket: 'unix:///run/containerd/containerd.sock' },
      },
      {
        apiVersion: 'kubeadm.k8s.io/v1beta4',
        kind: 'ClusterConfiguration',
        kubernetesVersion,
        certificatesDir: pki,
        controlPlaneEndpoint: `127.0.0.1:${port}`,
        apiServer: { certSANs: ['127.0.0.1'] },
        networking: { podSubnet: '10.244.0.0/16', serviceSubnet: '10.96.0.0/16' },
      },
      {
        apiVersion: 'kubelet.config.k8s.io/v1beta1',
        kind: 'KubeletConfiguration',
        authentication: { x509: { clientCAFile: '/etc/kubernetes/pki/ca.crt' } },
        cgroupDriver: 'cgroupfs',
        serverTLSBootstrap: true,
      },
    ]
      .map((document) => stringify(document))
      .join('---\n'),
    { mode: 0o600 },
  );
  await kubeadm('init', 'phase', 'certs', 'all', '--config', config);
  for (const who of ['super-admin', 'controller-manager'])
    await kubeadm('init', 'phase', 'kubeconfig', who, '--config', config, '--kubeconfig-dir', dir);
  copyFileSync(inDir('super-admin.conf'), inDir('admin.conf'));
  // Components of the control plane are sent to its own address, which is not where this one listens.
  const manager = readFileSync(inDir('controller-manager.conf'), 'utf8');
  writeFileSync(inDir('controller-manager.conf'), manager.replace('https://192.0.2.1:', 'https://127.0.0.1:'), { mode: 0o600 });

  start('etcd', binaries.etcd, [
    `--data-dir=${inDir('etcd')}`,
    '--unsafe-no-fsync',
    `--listen-client-urls=http://127.0.0.1:${etcdPort}`,
    `--advertise-client-urls=http://127.0.0.1:${etcdPort}`,
    `--listen-peer-urls=http://127.0.0.1:${peerPort}`,
    `--initial-advertise-peer-urls=http://127.0.0.1:${peerPort}`,
    `--initial-cluster=default=http://127.0.0.1:${peerPort}`,
  ]);
  const apiserver = start('apiserver', binaries['kube-apiserver'], [
    '--bind-address=127.0.0.1',
    '--advertise-address=127.0.0.1',
    `--secure-port=${port}`,
    `--etcd-servers=http://127.0.0.1:${etcdPort}`,
    '--authorization-mode=Node,RBAC',
    '--enable-admission-plugins=NodeRestriction',
    '--enable-bootstrap-token-auth=true',
    '--allow-privileged=true',
    `--client-ca-file=${pki}/ca.crt`,
    `--tls-cert-file=${pki}/apiserver.crt`,
    `--tls-private-key-file=${pki}/apiserver.key`,
    '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
    `--service-account-key-file=${pki}/sa.pub`,
    `--service-account-signing-key-file=${pki}/sa.key`,
    '--service-cluster-ip-range=10.96.0.0/16',
  ]);
  const adminAuth = await loadKubeconfig(inDir('admin.conf'));
  admin = clientOf(adminAuth);
  await waitFor('the API server', 90_000, async () => {
    if (apiserver.exitCode !== null) throw new GiveUp(`kube-apiserver ended:\n${tailOf(inDir('apiserver.log'))}`);
    return (await admin.request({ method: 'GET', path: '/readyz', accept: '*/*' }, signal)).status === 200 ? true : undefined;
  });
  const controllers = start('controller-manager', binaries['kube-controller-manager'], [
    '--bind-address=127.0.0.1',
    `--secure-port=${managerPort}`,
    '--leader-elect=false',
    `--kubeconfig=${inDir('controller-manager.conf')}`,
    '--use-service-account-credentials=true',
    '--controllers=bootstrap-signer-controller,token-cleaner-controller,certificatesigningrequest-signing-controller,certificatesigningrequest-approving-controller',
    `--cluster-signing-cert-file=${pki}/ca.crt`,
    `--cluster-signing-key-file=${pki}/ca.key`,
    `--root-ca-file=${pki}/ca.crt`,
  ]);
  const phases = ['--config', config, '--kubeconfig', inDir('admin.conf')];
  await kubeadm('init', 'phase', 'bootstrap-token', ...phases, '--skip-token-print');
  await kubeadm('init', 'phase', 'upload-config', 'all', ...phases);
  const proxy = (await kubeadm('init', 'phase', 'addon', 'kube-proxy', '--config', config, '--print-manifest')).stdout;
  writeFileSync(inDir('proxy.yaml'), proxy);
  await kubectl('apply', '-f', inDir('proxy.yaml'));
  await waitFor('the token to be signed', 60_000, async () => {
    if (controllers.exitCode !== null) throw new GiveUp(`kube-controller-manager ended:\n${tailOf(inDir('controller-manager.log'))}`);
    const info = await admin.get<ConfigMap>(pathOf('v1', 'configmaps', 'kube-public', 'cluster-info'), signal);
    return info.data?.['jws-kubeconfig-abcdef'];
  });
  pin = publicKeyPin(readCertificates(readFileSync(`${pki}/ca.crt`, 'utf8'))[0]!);
});

after(async () => {
  await admin?.[Symbol.asyncDispose]();
  for (const child of children.reverse()) await end(child);
  rmSync(dir, { recursive: true, force: true });
});

interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the command with these arguments as they are. */
async function run(args: string[], clock: Clock = systemClock): Promise<Outcome> {
  let out = '';
  let err = '';
  const code = await joinCommand.run(args, {
    stdout: (text) => {
      out += text;
    },
    stderr: (text) => {
      err += text;
    },
    clock,
    log: silentLog,
    signal,
    userAgent: 'keelson-test',
  });
  return { code, out, err };
}

/** Joins as a node of this name, with folders of its own. */
const joinAs = (name: string, args: string[], clock?: Clock): Promise<Outcome> =>
  run(
    [
      ...args,
      ...[`--node-name=${name}`, '--ignore-preflight-errors=all', '--cri-socket=unix:///run/containerd/containerd.sock'],
      ...[`--kubernetes-dir=${inDir(name)}/etc`, `--root-dir=${inDir(name)}/kubelet`],
    ],
    clock,
  );

const endpoint = (): string => `127.0.0.1:${port}`;
const withToken = (t: string): string[] => ['--token', t, '--discovery-token-ca-cert-hash', pin];
const errorOf = (outcome: Outcome): string => outcome.err.split('\n').findLast((line) => line.startsWith('error: ')) ?? outcome.err;

describe('keelson join', () => {
  test('a node joins by token, and its kubeconfig is that node to the API server', async () => {
    const started = performance.now();
    const outcome = await joinAs('w1', [endpoint(), ...withToken(token)]);
    const tookMs = performance.now() - started;
    assert.equal(outcome.code, 0, outcome.out + outcome.err);
    assert.ok(tookMs < 10_000, `${tookMs} ms`);
    await using node = clientOf(await loadKubeconfig(inDir('w1/etc/kubelet.conf')));
    const review = await node.create<{ status: { userInfo: { username: string; groups: string[] } } }>(
      pathOf('authentication.k8s.io/v1', 'selfsubjectreviews'),
      { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' },
      signal,
    );
    assert.equal(review.status.userInfo.username, 'system:node:w1');
    assert.ok(review.status.userInfo.groups.includes('system:nodes'));
    await node.create(pathOf('v1', 'nodes'), { apiVersion: 'v1', kind: 'Node', metadata: { name: 'w1' } }, signal);
    await assert.rejects(node.create(pathOf('v1', 'nodes'), { apiVersion: 'v1', kind: 'Node', metadata: { name: 'w2' } }, signal), {
      code: 'Forbidden',
    });

    const config = parse(readFileSync(inDir('w1/kubelet/config.yaml'), 'utf8'), { version: '1.1' });
    assert.equal(config.containerRuntimeEndpoint, 'unix:///run/containerd/containerd.sock');
    assert.equal(config.rotateCertificates, true);
    assert.equal(config.authentication.x509.clientCAFile, `${inDir('w1')}/etc/pki/ca.crt`);
    assert.equal(readFileSync(inDir('w1/etc/pki/ca.crt'), 'utf8'), readFileSync(inDir('pki/ca.crt'), 'utf8'));
    const proxy = parse(readFileSync(inDir('w1/kubelet/kube-proxy/config.conf'), 'utf8'));
    assert.equal(proxy.kind, 'KubeProxyConfiguration');
    assert.equal(existsSync(inDir('w1/etc/bootstrap-kubelet.conf')), false);
    const [csr] = (await admin.list<CertificateSigningRequest>(csrs, signal)).items;
    assert.match(csr?.metadata?.name ?? '', /^node-csr-/);
    assert.equal(csr?.spec.signerName, 'kubernetes.io/kube-apiserver-client-kubelet');
    assert.match(csr?.status?.conditions?.[0]?.reason ?? '', /AutoApproved/);
  });

  test('what kubeadm prints as join command is understood, with keelson for kubeadm', async () => {
    const { stdout } = await kubeadm('token', 'create', '--print-join-command', '--ttl', '10m', '--kubeconfig', inDir('admin.conf'));
    const [program, command, ...args] = stdout.trim().split(/\s+/);
    assert.deepEqual([program, command], ['kubeadm', 'join']);
    // The token is brand new: its signature comes into cluster-info a moment later, and join waits for it.
    const outcome = await joinAs('w3', args);
    assert.equal(outcome.code, 0, outcome.out + outcome.err);
  });

  test('a discovery file as kubeadm hands it out', async () => {
    const { stdout } = await kubectl('-n', 'kube-public', 'get', 'configmap', 'cluster-info', '-o', 'jsonpath={.data.kubeconfig}');
    writeFileSync(inDir('discovery.conf'), stdout);
    const outcome = await joinAs('w4', ['--discovery-file', inDir('discovery.conf'), '--tls-bootstrap-token', token]);
    assert.equal(outcome.code, 0, outcome.out + outcome.err);
  });

  test('failures', async () => {
    const fast = ['--discovery-timeout=500ms', '--tls-bootstrap-timeout=3s'];
    const cases: [string, string[], RegExp][] = [
      ['wrong secret', [endpoint(), ...withToken('abcdef.fedcba9876543210')], /not signed with this token/],
      ['unknown token', [endpoint(), ...withToken('zzzzzz.0123456789abcdef')], /does not know token zzzzzz/],
      [
        'wrong hash',
        [endpoint(), '--token', token, '--discovery-token-ca-cert-hash', `sha256:${'0'.repeat(64)}`],
        /the cluster's CA has the hash sha256:/,
      ],
      ['not for this name', [`localhost.localdomain:${port}`, ...withToken(token)], /cannot reach|not for this name/],
      ['unreachable', [`127.0.0.1:${await freePort()}`, ...withToken(token)], /nothing listens/],
    ];
    for (const [what, args, message] of cases) {
      const outcome = await joinAs('bad', [...args, ...fast]);
      assert.match(errorOf(outcome), message, what);
      assert.equal(outcome.code, 1, what);
    }
  });

  test('without a hash of the CA, or with half a token: wrong usage, before anything is asked', async () => {
    const missing = await joinAs('bad', [endpoint(), '--token', token]);
    assert.equal(missing.code, 2);
    assert.match(
      errorOf(missing),
      /without --discovery-token-ca-cert-hash can be unsafe: give the hash, or say --discovery-token-unsafe-skip-ca-verification/,
    );
    const half = await joinAs('bad', [endpoint(), ...withToken('abcdef')]);
    assert.equal(half.code, 2);
    assert.match(errorOf(half), /token/);
    assert.equal(missing.out + half.out, '');
  });

  test('a machine that is not ready: joined already, port in use, no runtime; each is told, and nothing is asked or written', async () => {
    const etc = inDir('again/etc');
    mkdirSync(etc, { recursive: true });
    writeFileSync(join(etc, 'kubelet.conf'), '');
    const port10250 = createServer();
    const listening = await new Promise<boolean>((resolve) => {
      // Somebody else's node may have it already, which is as good.
      port10250.once('error', () => resolve(false));
      port10250.listen(10250, () => resolve(true));
    });
    try {
      const outcome = await run([
        ...[endpoint(), ...withToken(token), '--node-name=again', '--cri-socket=unix:///run/nobody.sock'],
        ...[`--kubernetes-dir=${etc}`, `--root-dir=${inDir('again/kubelet')}`],
      ]);
      assert.equal(outcome.code, 1);
      assert.match(outcome.err, /this machine is not ready to join:/);
      assert.match(outcome.err, /\[FileAvailable-.*kubelet\.conf\] .* exists: this machine seems to have joined a cluster already/);
      assert.match(outcome.err, /\[Port-10250\] port 10250 is in use: is a kubelet or keelson running\? Stop it first/);
      assert.match(outcome.err, /\[CRI\] there is no container runtime at unix:\/\/\/run\/nobody\.sock: start one/);
      assert.equal(outcome.out, 'Checking this machine\n');
      assert.equal(existsSync(inDir('again/kubelet')), false);
    } finally {
      if (listening) await new Promise((resolve) => port10250.close(resolve));
    }
  });

  test("a clock that is wrong: a warning when certificates still hold, an error that says whose and by how much when they don't", async () => {
    const clock: Clock = { ...systemClock, wall: () => systemClock.wall() - 3_600_000 };
    const behind = await joinAs('skewed', [endpoint(), ...withToken(token), '--dry-run'], clock);
    assert.equal(behind.code, 0, behind.err);
    assert.match(
      behind.err,
      /warning: this machine's clock is 1h0m0s behind the server's: certificates and tokens depend on it, set it right/,
    );

    // The API server takes a certificate that holds from tomorrow on, which to a node is the same as its own clock a day behind.
    const pki = inDir('pki');
    const [certificate, saved] = [`${pki}/apiserver.crt`, readFileSync(`${pki}/apiserver.crt`)];
    const tomorrow = `${new Date(systemClock.wall() + 86_400_000).toISOString().replace(/[-:T]/g, '').slice(2, 14)}Z`;
    writeFileSync(
      inDir('ca.cnf'),
      `[ca]\ndefault_ca=d\n[d]\ndatabase=${inDir('index.txt')}\nserial=${inDir('serial')}\nnew_certs_dir=${dir}\ndefault_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n[x]\nextendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1\n`,
    );
    writeFileSync(inDir('index.txt'), '');
    writeFileSync(inDir('serial'), '1000\n');
    await execute('openssl', ['req', '-new', '-key', `${pki}/apiserver.key`, '-subj', '/CN=kube-apiserver', '-out', inDir('early.csr')]);
    await execute('openssl', [
      ...['ca', '-batch', '-notext', '-config', inDir('ca.cnf'), '-cert', `${pki}/ca.crt`, '-keyfile', `${pki}/ca.key`],
      ...['-startdate', tomorrow, '-days', '30', '-in', inDir('early.csr'), '-out', inDir('early.crt')],
    ]);
    try {
      copyFileSync(inDir('early.crt'), certificate);
      await waitFor('the API server to take the certificate', 90_000, async () => {
        const outcome = await joinAs('skewed', [endpoint(), ...withToken(token), '--dry-run', '--discovery-timeout=1s']);
        return /is not valid yet by this machine's clock: here it is .*valid from .*Set the clock/.test(errorOf(outcome))
          ? true
          : undefined;
      });
    } finally {
      writeFileSync(certificate, saved);
    }
    await waitFor('the API server to take the old certificate', 90_000, async () =>
      (await joinAs('skewed', [endpoint(), ...withToken(token), '--dry-run', '--discovery-timeout=1s'])).code === 0 ? true : undefined,
    );
  });

  test('an expired token', async () => {
    const expiring = 'expire.0123456789abcdef';
    await kubeadm('token', 'create', expiring, '--ttl', '2s', '--kubeconfig', inDir('admin.conf'));
    await waitFor('the token to be cleaned up', 30_000, async () =>
      admin.get(pathOf('v1', 'secrets', 'kube-system', 'bootstrap-token-expire'), signal).then(
        () => undefined,
        (error: unknown) => hasCode(error, 'NotFound') || undefined,
      ),
    );
    const outcome = await joinAs('bad', [endpoint(), ...withToken(expiring), '--discovery-timeout=2s']);
    assert.match(errorOf(outcome), /does not know token expire, or it has expired/);
  });

  test('a token that may sign but not authenticate', async () => {
    // kubeadm insists on groups, which go with authentication only: so the Secret itself.
    const stringData = { 'token-id': 'signer', 'token-secret': '0123456789abcdef', 'usage-bootstrap-signing': 'true' };
    const secret = {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'bootstrap-token-signer' },
      type: 'bootstrap.kubernetes.io/token',
      stringData,
    };
    await admin.create(pathOf('v1', 'secrets', 'kube-system'), secret, signal);
    const outcome = await joinAs('bad', [endpoint(), ...withToken('signer.0123456789abcdef')]);
    assert.match(errorOf(outcome), /does not accept bootstrap token signer: .*usage "authentication"/);
  });

  test('a Ready node of the same name is in the way', async () => {
    await admin.create(pathOf('v1', 'nodes'), { apiVersion: 'v1', kind: 'Node', metadata: { name: 'taken' } }, signal);
    const ready = { status: { conditions: [{ type: 'Ready', status: 'True' }] } };
    await admin.patch<Node>(pathOf('v1', 'nodes', undefined, 'taken', 'status'), ready, 'application/strategic-merge-patch+json', signal);
    assert.match(
      errorOf(await joinAs('taken', [endpoint(), ...withToken(token)])),
      /a Node named taken is in the cluster already, and Ready/,
    );
  });

  test('without automatic approval: waits, says which request to approve; another join finishes it', async () => {
    await kubectl('delete', 'clusterrolebinding', 'kubeadm:node-autoapprove-bootstrap');
    const waiting = await joinAs('slow', [endpoint(), ...withToken(token), '--tls-bootstrap-timeout=3s']);
    const name = /kubectl certificate approve (\S+)/.exec(errorOf(waiting))?.[1] ?? '';
    assert.match(name, /^node-csr-/);
    await kubectl('certificate', 'approve', name);
    const outcome = await joinAs('slow', [endpoint(), ...withToken(token)]);
    assert.equal(outcome.code, 0, outcome.out + outcome.err);
  });
});

describe('certificates of a running node', () => {
  const surroundings = (clock: Clock) => ({ clock, log: silentLog, userAgent: 'keelson-test' });
  const places = (name: string) => ({
    kubeconfig: inDir(`${name}/etc/kubelet.conf`),
    certDir: inDir(`${name}/kubelet/pki`),
    nodeName: name,
  });

  test('a kubeconfig that works is left alone; a broken one is replaced with the bootstrap kubeconfig', async () => {
    const { kubeconfig } = places('w1');
    const text = readFileSync(kubeconfig, 'utf8');
    await ensureNodeCredentials({ ...surroundings(systemClock), ...places('w1'), bootstrapKubeconfig: inDir('none.conf') }, signal);
    assert.equal(readFileSync(kubeconfig, 'utf8'), text);

    // Nodes approve their own renewals; bootstrap requests need the binding again.
    await kubectl(
      'create',
      'clusterrolebinding',
      'again',
      '--clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient',
      '--group=system:bootstrappers:kubeadm:default-node-token',
    );
    const ca = Buffer.from(readFileSync(inDir('pki/ca.crt'), 'utf8')).toString('base64');
    mkdirSync(inDir('w5/etc'), { recursive: true });
    writeFileSync(
      inDir('w5/etc/bootstrap.conf'),
      stringify({
        apiVersion: 'v1',
        kind: 'Config',
        clusters: [{ name: 'c', cluster: { server: `https://${endpoint()}`, 'certificate-authority-data': ca } }],
        users: [{ name: 'u', user: { token } }],
        contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
        'current-context': 'x',
      }),
    );
    writeFileSync(inDir('w5/etc/kubelet.conf'), 'nonsense');
    const auth = await ensureNodeCredentials(
      { ...surroundings(systemClock), ...places('w5'), bootstrapKubeconfig: inDir('w5/etc/bootstrap.conf') },
      signal,
    );
    await using node = clientOf(auth);
    await node.create(pathOf('v1', 'nodes'), { apiVersion: 'v1', kind: 'Node', metadata: { name: 'w5' } }, signal);
  });

  test('the client certificate is renewed before it expires, and the client takes the new one', async () => {
    const options = { ...surroundings({ ...systemClock, wall: () => Date.now() + 350 * 86_400_000 }), ...places('w1') };
    const pair = `${options.certDir}/kubelet-client-current.pem`;
    const before = leafFacts(readFileSync(pair, 'utf8'));
    await using rotation = await prepareClientRotation(await loadKubeconfig(options.kubeconfig), options, signal);
    await using node = clientOf(rotation.auth);
    await node.get(pathOf('v1', 'nodes', undefined, 'w1'), signal);
    const renewing = await rotation.start(node);
    assert.ok(renewing);
    // The signer knows no clock but its own: the new certificate is as old as the old one to ours, so only the first renewal counts.
    await waitFor('a new certificate', 20_000, () => (leafFacts(readFileSync(pair, 'utf8')).serial !== before.serial ? true : undefined));
    await renewing[Symbol.asyncDispose]();
    await node.get(pathOf('v1', 'nodes', undefined, 'w1'), signal);
    const names = (await admin.list<CertificateSigningRequest>(csrs, signal)).items.filter((c) => c.spec.username === 'system:node:w1');
    assert.ok(names.length >= 1, 'asked for by the node itself');
  });

  test('a serving certificate by request: says which one to approve, then covers the addresses', async () => {
    await using node = clientOf(await loadKubeconfig(inDir('w1/etc/kubelet.conf')));
    let addresses = [
      { type: 'Hostname', address: 'w1' },
      { type: 'InternalIP', address: '10.1.2.3' },
    ];
    const options = {
      ...surroundings(systemClock),
      certDir: inDir('w1/kubelet/pki'),
      nodeName: 'w1',
      hostname: 'w1',
      addresses: () => addresses,
      serverTLSBootstrap: true,
      client: node,
    };
    const approve = async (): Promise<void> => {
      const name = await waitFor('the request', 10_000, () => {
        const status = serving.status();
        return status?.kind === 'requested' ? status.csr : undefined;
      });
      await kubectl('certificate', 'approve', name);
    };
    await using serving = await startServingCertificate(options, signal);
    assert.equal(serving.current(), undefined);
    const message = await waitFor('the advice', 10_000, () => {
      const status = serving.status();
      return status?.kind === 'requested' && status.message.includes('approve') ? status.message : undefined;
    });
    assert.match(message, /awaits approval: kubectl certificate approve csr-/);
    await approve();
    const first = await waitFor('the certificate', 10_000, () => serving.current());
    writeFileSync(inDir('serving.pem'), first.certPem);
    const verdict = await execute('openssl', [
      'verify',
      '-purpose',
      'sslserver',
      '-verify_ip',
      '10.1.2.3',
      '-CAfile',
      inDir('pki/ca.crt'),
      inDir('serving.pem'),
    ]);
    assert.match(verdict.stdout, /OK/);
    assert.ok(existsSync(inDir('w1/kubelet/pki/kubelet-server-current.pem')));

    addresses = [...addresses, { type: 'InternalIP', address: 'fd00::3' }];
    serving.addressesChanged();
    await approve();
    const second = await waitFor('the next certificate', 10_000, () => (serving.current() === first ? undefined : serving.current()));
    assert.deepEqual(leafFacts(second.certPem).ipAddresses, ['10.1.2.3', 'fd00::3']);
  });
});
