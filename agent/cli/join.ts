import { readFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';
import { fetch } from 'undici';
import { type Clock, systemClock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import { type Log, silentLog } from '../base/log.ts';
import { formatDuration } from '../config/duration.ts';
import { writeAtomically } from '../drivers/files/atomic.ts';
import { readIfThere } from '../drivers/kube/certificates-store.ts';
import { createKubeClient, type KubeClient, pathOf } from '../drivers/kube/client.ts';
import { readClusterInfo } from '../drivers/kube/join.ts';
import { parseKubeconfig } from '../drivers/kube/kubeconfig.ts';
import { proxyAgentFor } from '../drivers/kube/tunnel.ts';
import { type BootstrapToken, judgeClusterInfo, readBootstrapToken } from '../identity/bootstrap-token.ts';
import { flagArguments, instanceConfigText, kubeadmFlagsText, kubeletConfigText, taintText } from '../identity/join-files.ts';
import {
  bootstrapKubeconfig,
  hasCredentials,
  type KubeconfigTarget,
  type KubeconfigUser,
  readKubeconfigTarget,
} from '../identity/kubeconfig-text.ts';
import { onlyCertificates, publicKeyPin, readCertificates } from '../identity/x509.ts';
import { decodeFileText } from '../model/file-text.ts';
import type { ConfigMap, Node } from '../model/generated/api.ts';
import { checkNodeName, type JoinSettings, joinFlags, parseJoinArguments } from './join-options.ts';
import { findCriSockets, preflightChecks } from './join-preflight.ts';
import { bootstrapWith } from './node-identity.ts';

/** What a command gets of the process that runs it. */
export interface JoinContext {
  /** Writes text as it is. */
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly userAgent: string;
  /** Starts the agent with these arguments (`run`, …) and gives its exit code; without it the command to start it is printed. */
  readonly start?: ((argv: readonly string[]) => Promise<number>) | undefined;
}

/** `keelson join`: makes this machine a node of a cluster, with kubeadm join's flags, protocol and files. */
export const joinCommand = {
  name: 'join',
  summary: 'join this machine to a cluster as a worker node',
  flags: joinFlags,
  /** 0: joined (or what `ctx.start` gives); 1: failed, `error: …` says why and what to do; 2: wrong usage. */
  async run(args: readonly string[], ctx: JoinContext): Promise<number> {
    try {
      const parsed = parseJoinArguments(args, readConfigFile);
      if (parsed.kind === 'help') {
        ctx.stdout(helpText());
        return 0;
      }
      for (const warning of parsed.settings.warnings) ctx.stderr(`warning: ${warning}\n`);
      const argv = await joinCluster(parsed.settings, ctx);
      if (argv === undefined) return 0;
      if (ctx.start !== undefined) return await ctx.start(argv);
      ctx.stdout(
        `\nThis machine has joined the cluster. Start the node:\n\n  keelson ${argv.join(' ')}\n\nor, with packaging/systemd/keelson.service installed: systemctl enable --now keelson\nThen, on the control plane: kubectl get nodes\n`,
      );
      return 0;
    } catch (error) {
      ctx.log.debug({ err: error }, 'join failed');
      ctx.stderr(`error: ${messageOf(error)}\n`);
      if (!hasCode(error, 'Usage')) return 1;
      ctx.stderr('See "keelson join --help".\n');
      return 2;
    }
  },
};

/** `keelson join` on this process's output. */
export function runJoin(args: readonly string[], signal: AbortSignal): Promise<number> {
  return joinCommand.run(args, {
    stdout: (text) => void process.stdout.write(text),
    stderr: (text) => void process.stderr.write(text),
    clock: systemClock,
    // What a person should know is printed; the rest is in the error.
    log: silentLog,
    signal,
    userAgent: 'keelson-join',
  });
}

function readConfigFile(path: string): string {
  try {
    return decodeFileText(readFileSync(path));
  } catch (error) {
    throw new AgentError('Usage', `cannot read --config ${path}: ${messageOf(error)}`, { cause: error });
  }
}

function helpText(): string {
  const rows = joinFlags
    .filter((flag) => flag.refused === undefined)
    .map((flag) => [`  --${flag.name}${flag.value === undefined ? '' : ` ${flag.value}`}`, flag.help] as const);
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  return [
    'Usage: keelson join HOST:PORT --token TOKEN --discovery-token-ca-cert-hash sha256:HEX [flags]',
    '       keelson join --discovery-file FILE|URL [flags]',
    '       keelson join --config FILE',
    '',
    'Joins this machine to a cluster as a worker node, as kubeadm join does.',
    '"kubeadm token create --print-join-command" on the control plane prints endpoint, token and hash.',
    '',
    ...rows.map(([left, right]) => left.padEnd(width) + right),
    '',
  ].join('\n');
}

/** A cluster that has proved itself, and who to be there until the node has a certificate. */
interface Discovered {
  readonly server: string;
  readonly caPem: string;
  readonly proxyUrl: string | undefined;
  readonly user: KubeconfigUser;
}

async function joinCluster(settings: JoinSettings, ctx: JoinContext): Promise<string[] | undefined> {
  const say = (text: string): void => ctx.stdout(`${text}\n`);
  const places = {
    kubeconfig: join(settings.kubernetesDir, 'kubelet.conf'),
    bootstrapKubeconfig: join(settings.kubernetesDir, 'bootstrap-kubelet.conf'),
    caPath: settings.caPath,
    kubeletConfig: join(settings.rootDir, 'config.yaml'),
    instanceConfig: join(settings.rootDir, 'instance-config.yaml'),
    flags: join(settings.rootDir, 'kubeadm-flags.env'),
    proxyConfig: join(settings.kubeProxyDir, 'config.conf'),
    proxyKubeconfig: join(settings.kubeProxyDir, 'kubeconfig.conf'),
  };
  const ownName = hostname().trim().toLowerCase();
  const overridden = settings.extraArgs.findLast((arg) => arg.name === 'hostname-override')?.value;
  const nodeName = (overridden ?? settings.nodeName ?? ownName).trim().toLowerCase();
  checkNodeName(nodeName);
  const criSocket = await chooseCriSocket(settings.criSocket);

  await preflight(settings, { ...places, criSocket }, ctx);
  const found =
    settings.discovery.kind === 'token'
      ? await discoverByToken(settings, settings.discovery, ctx)
      : await discoverByFile(settings, settings.discovery.path, ctx);
  const bootstrapText = bootstrapKubeconfig(found.server, found.caPem, found.user, found.proxyUrl);
  const bootstrapAuth = parseKubeconfig(bootstrapText, places.bootstrapKubeconfig);

  await using client = createKubeClient({ auth: bootstrapAuth, clock: ctx.clock, log: ctx.log, userAgent: ctx.userAgent });
  await checkNameIsFree(client, nodeName, settings, ctx.signal);
  const kubeletConfig = kubeletConfigText((await requiredConfigMap(client, 'kubelet-config', settings, ctx.signal)).data, {
    kubernetesDir: settings.kubernetesDir,
    criSocket,
    resolvConf: await systemdResolvConf(),
  });
  const proxy = await proxyConfigMap(client, ctx);
  say("The cluster's kubelet and kube-proxy configurations are here");

  const flags = effectiveFlags(settings, nodeName, ownName);
  const files: [string, string, number][] = [
    [places.instanceConfig, instanceConfigText(criSocket), 0o644],
    [places.kubeletConfig, kubeletConfig, 0o644],
    [places.flags, kubeadmFlagsText(flags), 0o644],
    ...(proxy?.['config.conf'] === undefined ? [] : [[places.proxyConfig, proxy['config.conf'], 0o644] satisfies [string, string, number]]),
    ...(proxy?.['kubeconfig.conf'] === undefined
      ? []
      : [[places.proxyKubeconfig, proxy['kubeconfig.conf'], 0o600] satisfies [string, string, number]]),
  ];
  const argv = [
    'run',
    `--kubeconfig=${places.kubeconfig}`,
    `--config=${places.kubeletConfig}`,
    ...(settings.rootDir === '/var/lib/kubelet' ? [] : [`--root-dir=${settings.rootDir}`]),
    ...flagArguments(flags),
    // kubeadm's clusters run kube-proxy as a DaemonSet, on this node too.
    '--no-proxy',
  ];
  if (settings.dryRun) {
    say(`\nDry run: nothing was changed. Node ${nodeName} would join ${found.server}, and these files would be written:`);
    for (const path of [places.caPath, places.kubeconfig, ...files.map(([path]) => path)]) say(`  ${path}`);
    say(`Then: keelson ${argv.join(' ')}`);
    return undefined;
  }

  for (const [path, text, mode] of files) await writeAtomically(path, text, { mode });
  // Written for tools that look for it, and gone when the node has a certificate of its own: it holds the token.
  await writeAtomically(places.bootstrapKubeconfig, bootstrapText, { mode: 0o600 });
  try {
    say(`Requesting a client certificate for node ${nodeName}`);
    await bootstrapWith(
      bootstrapAuth,
      {
        kubeconfig: places.kubeconfig,
        certDir: join(settings.rootDir, 'pki'),
        nodeName,
        timeoutMs: settings.tlsBootstrapTimeoutMs,
        onWaiting: (message) => say(`  waiting: ${message}`),
        clock: ctx.clock,
        log: ctx.log,
        userAgent: ctx.userAgent,
      },
      ctx.signal,
    );
  } catch (error) {
    throw tokenTrouble(error, settings) ?? error;
  } finally {
    await rm(places.bootstrapKubeconfig, { force: true });
  }
  // Written last: its presence stops another join, so it must not stay behind a failed one.
  if ((await readIfThere(places.caPath)) === undefined)
    await writeAtomically(places.caPath, onlyCertificates(found.caPem), { mode: 0o644 });
  say(`Node ${nodeName} has its client certificate; kubeconfig: ${places.kubeconfig}`);
  return argv;
}

async function chooseCriSocket(given: string | undefined): Promise<string> {
  if (given !== undefined && given !== '') return given.includes('://') ? given : `unix://${given}`;
  const found = await findCriSockets();
  if (found.length > 1)
    throw new AgentError(
      'Usage',
      `there are several container runtimes on this machine: choose one with --cri-socket (${found.join(', ')})`,
    );
  return found[0] ?? 'unix:///var/run/containerd/containerd.sock';
}

async function preflight(settings: JoinSettings, places: Parameters<typeof preflightChecks>[0], ctx: JoinContext): Promise<void> {
  ctx.stdout('Checking this machine\n');
  const endpoint = settings.discovery.kind === 'token' ? settings.discovery.endpoint : '';
  const problems: string[] = [];
  for (const check of preflightChecks(places, endpoint.startsWith('['))) {
    const problem = await check.run();
    if (problem === undefined) continue;
    if (settings.ignoredChecks.has('all') || settings.ignoredChecks.has(check.name.toLowerCase()))
      ctx.stderr(`warning: [${check.name}] ${problem}\n`);
    else problems.push(`[${check.name}] ${problem}`);
  }
  if (problems.length === 0) return;
  throw new AgentError(
    'Preflight',
    `this machine is not ready to join:\n  ${problems.join('\n  ')}\nTo join all the same: --ignore-preflight-errors=…`,
  );
}

// A new token is signed into cluster-info by a controller within a second or two; longer than this it does not take.
const signatureGraceMs = 15_000;
const attemptTimeoutMs = 10_000;

/** Tries until it succeeds: an unreachable server for as long as the user allows, what a cluster may still be about to make for a short while. */
async function patiently<T>(attempt: () => Promise<T>, settings: JoinSettings, ctx: JoinContext): Promise<T> {
  const { clock, signal } = ctx;
  const started = clock.mono();
  let said: string | undefined;
  for (let delayMs = 500; ; delayMs = Math.min(5_000, delayMs * 2)) {
    try {
      return await attempt();
    } catch (error) {
      const soon = hasCode(error, 'ClusterInfoMissing', 'UnknownToken');
      if (!soon && !hasCode(error, 'Unreachable')) throw error;
      const patienceMs = soon ? Math.min(signatureGraceMs, settings.discoveryTimeoutMs) : settings.discoveryTimeoutMs;
      if (clock.mono() - started + delayMs > patienceMs) throw error;
      // The signature of a token that has just been made comes a moment later: no reason yet to send anybody for another one.
      const message = hasCode(error, 'UnknownToken') ? 'the cluster information is not signed with this token yet' : messageOf(error);
      if (message !== said) ctx.stdout(`  ${message}; trying again for up to ${formatDuration(patienceMs)}\n`);
      said = message;
      await clock.sleep(delayMs, signal);
    }
  }
}

async function discoverByToken(
  settings: JoinSettings,
  discovery: { endpoint: string; token: string; pins: readonly string[] },
  ctx: JoinContext,
): Promise<Discovered> {
  const { clock, signal } = ctx;
  const token = readBootstrapToken(discovery.token);
  const endpoint = `https://${discovery.endpoint}`;
  ctx.stdout(`Asking ${endpoint} for its cluster information\n`);
  const first = await patiently(
    async () => {
      const info = await readClusterInfo({ server: endpoint, caPem: undefined, clock, timeoutMs: attemptTimeoutMs }, signal);
      return { ...info, kubeconfig: signedKubeconfig(info.data, token) };
    },
    settings,
    ctx,
  );
  const target = readKubeconfigTarget(first.kubeconfig, 'the kubeconfig in ConfigMap kube-public/cluster-info');
  const caPem = target.caPem;
  if (caPem === undefined)
    throw new AgentError('InvalidKubeconfig', 'the kubeconfig in ConfigMap kube-public/cluster-info holds no CA certificate');
  checkPins(caPem, discovery.pins);
  warnOfSkew(first.serverTime, ctx);

  // With a pin the answer must come again over the connection that the pinned CA vouches for; and the server that the node is going to use
  // must be reachable and trustworthy in any case, or the node would find out later, less clearly.
  const checks = new Set([...(discovery.pins.length > 0 ? [endpoint] : []), target.server.replace(/\/+$/, '')]);
  for (const server of checks) {
    const proxyUrl = server === endpoint ? undefined : target.proxyUrl;
    const second = await patiently(
      () => readClusterInfo({ server, caPem, proxyUrl, clock, timeoutMs: attemptTimeoutMs }, signal),
      settings,
      ctx,
    );
    if (second.data?.kubeconfig !== first.kubeconfig) {
      throw new AgentError(
        'Untrusted',
        `the cluster information from ${server} over the verified connection differs from what ${endpoint} said at first: somebody may stand between, or the cluster is just being changed; try again`,
      );
    }
  }
  ctx.stdout(`The cluster at ${target.server} is the one that the token${discovery.pins.length > 0 ? ' and the CA hash' : ''} vouch for\n`);
  return { server: target.server, caPem, proxyUrl: target.proxyUrl, user: { token: settings.tlsBootstrapToken ?? discovery.token } };
}

function signedKubeconfig(data: Readonly<Record<string, string>> | undefined, token: BootstrapToken): string {
  const verdict = judgeClusterInfo(data, token);
  switch (verdict.kind) {
    case 'trusted':
      return verdict.kubeconfig;
    case 'noKubeconfig':
      throw new AgentError(
        'ClusterInfoMissing',
        'ConfigMap kube-public/cluster-info holds no kubeconfig: run "kubeadm init phase bootstrap-token" on the control plane',
      );
    case 'badSignature':
      throw new AgentError(
        'WrongSecret',
        `the cluster information is not signed with this token: the secret (after the dot) of token ${token.id} is wrong, or somebody else's server answers here`,
      );
    case 'unknownToken': {
      const none = !Object.keys(data ?? {}).some((key) => key.startsWith('jws-kubeconfig-'));
      throw new AgentError(
        'UnknownToken',
        `the cluster does not know token ${token.id}, or it has expired: make a new one on the control plane with "kubeadm token create --print-join-command"` +
          (none ? ' (it knows no token at all: if there should be one, is the bootstrapsigner controller running?)' : ''),
      );
    }
  }
}

function checkPins(caPem: string, pins: readonly string[]): void {
  if (pins.length === 0) return;
  const actual = readCertificates(caPem).map(publicKeyPin);
  if (actual.some((pin) => pins.includes(pin))) return;
  throw new AgentError(
    'WrongHash',
    `the cluster's CA has the hash ${actual.join(' and ')}, not ${pins.join(' or ')}: the hash is wrong, or this is not the cluster that you mean`,
  );
}

function warnOfSkew(serverTime: number | undefined, ctx: JoinContext): void {
  if (serverTime === undefined) return;
  const behindMs = serverTime - ctx.clock.wall();
  if (Math.abs(behindMs) < 60_000) return;
  // The Date header has whole seconds and travelled for a while: more than the minute would be pretended.
  const minutes = Math.round(Math.abs(behindMs) / 60_000);
  ctx.stderr(
    `warning: this machine's clock is ${formatDuration(minutes * 60_000)} ${behindMs > 0 ? 'behind' : 'ahead of'} the server's: certificates and tokens depend on it, set it right\n`,
  );
}

async function discoverByFile(settings: JoinSettings, path: string, ctx: JoinContext): Promise<Discovered> {
  const { clock, signal } = ctx;
  const remote = path.startsWith('https://');
  ctx.stdout(`Reading the cluster information from ${path}\n`);
  const text = remote ? await download(path, ctx) : await readFileOrFail(path, 'discovery file');
  const target = readKubeconfigTarget(text, `discovery file ${path}`);
  const local = (file: string): string => {
    if (remote && !isAbsolute(file))
      throw new AgentError(
        'InvalidKubeconfig',
        `discovery file ${path} names the file ${file}, which cannot be fetched from there: embed its content`,
      );
    return isAbsolute(file) ? file : join(dirname(path), file);
  };
  const caPem =
    target.caPem ?? (target.caFile === undefined ? undefined : await readFileOrFail(local(target.caFile), 'certificate authority'));
  if (caPem === undefined || target.insecure) {
    throw new AgentError(
      'InvalidKubeconfig',
      `discovery file ${path} must hold the cluster's CA (certificate-authority-data), without insecure-skip-tls-verify: it is all that vouches for the server`,
    );
  }
  const info = await patiently(
    async () => {
      try {
        return await readClusterInfo(
          { server: target.server, caPem, proxyUrl: target.proxyUrl, clock, timeoutMs: attemptTimeoutMs },
          signal,
        );
      } catch (error) {
        // Whoever hands out discovery files may keep cluster-info to themselves; the connection was verified, and that is what counts.
        if (hasCode(error, 'ClusterInfoForbidden', 'ClusterInfoMissing')) return undefined;
        throw error;
      }
    },
    settings,
    ctx,
  );
  warnOfSkew(info?.serverTime, ctx);
  const { server, proxyUrl } = target;
  if (settings.tlsBootstrapToken !== undefined) return { server, caPem, proxyUrl, user: { token: settings.tlsBootstrapToken } };
  return { server, caPem, proxyUrl, user: await embedded(target, path, local) };
}

/** The file's user with the content of the files that it names, so that the bootstrap kubeconfig stands on its own. */
async function embedded(target: KubeconfigTarget, path: string, local: (file: string) => string): Promise<KubeconfigUser> {
  const { user } = target;
  if (!hasCredentials(user)) {
    throw new AgentError(
      'InvalidKubeconfig',
      `discovery file ${path} holds no credentials to request the node's certificate with: give --tls-bootstrap-token`,
    );
  }
  const { 'client-certificate': certFile, 'client-key': keyFile, tokenFile, ...rest } = user;
  const base64 = async (file: string): Promise<string> =>
    Buffer.from(await readFileOrFail(local(file), 'client credentials'), 'utf8').toString('base64');
  return {
    ...rest,
    ...(certFile && !rest['client-certificate-data'] ? { 'client-certificate-data': await base64(certFile) } : {}),
    ...(keyFile && !rest['client-key-data'] ? { 'client-key-data': await base64(keyFile) } : {}),
    ...(tokenFile ? { token: (await readFileOrFail(local(tokenFile), 'token file')).trim() } : {}),
  };
}

async function readFileOrFail(path: string, what: string): Promise<string> {
  try {
    return decodeFileText(await readFile(path));
  } catch (error) {
    throw new AgentError('NotFound', `cannot read ${what} ${path}: ${messageOf(error)}`, { cause: error });
  }
}

async function download(url: string, ctx: JoinContext): Promise<string> {
  using deadline = ctx.clock.deadline(ctx.signal, 30_000);
  const proxy = proxyAgentFor(url, process.env);
  try {
    const response = await fetch(url, { signal: deadline.signal, ...(proxy === undefined ? {} : { dispatcher: proxy }) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    return await response.text();
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? `: ${messageOf(error.cause)}` : '';
    throw new AgentError('Unreachable', `cannot fetch discovery file ${url}: ${messageOf(error)}${cause}`, { cause: error });
  } finally {
    await proxy?.destroy();
  }
}

/** An error of the API that bootstrap credentials explain, in those words; `undefined` for others. */
function tokenTrouble(error: unknown, settings: JoinSettings): AgentError | undefined {
  if (!hasCode(error, 'Unauthorized')) return undefined;
  const token = settings.tlsBootstrapToken ?? (settings.discovery.kind === 'token' ? settings.discovery.token : undefined);
  const who = token === undefined ? 'the credentials of the discovery file' : `bootstrap token ${token.split('.')[0]}`;
  return new AgentError(
    'Unauthorized',
    `the API server does not accept ${who}: it has expired or was deleted, its secret is wrong, or it lacks the usage "authentication"; make a new token on the control plane with "kubeadm token create --print-join-command"`,
    { cause: error },
  );
}

async function checkNameIsFree(client: KubeClient, nodeName: string, settings: JoinSettings, signal: AbortSignal): Promise<void> {
  let node: Node;
  try {
    node = await client.get<Node>(pathOf('v1', 'nodes', undefined, nodeName), signal);
  } catch (error) {
    if (hasCode(error, 'NotFound')) return;
    if (hasCode(error, 'Forbidden')) {
      throw new AgentError(
        'Forbidden',
        `cannot tell whether the name ${nodeName} is free: ${messageOf(error)}; bind the bootstrap credentials' group to ClusterRole kubeadm:get-nodes ("kubeadm init phase bootstrap-token" does)`,
        { cause: error },
      );
    }
    throw tokenTrouble(error, settings) ?? error;
  }
  if (node.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True')) {
    throw new AgentError(
      'NameTaken',
      `a Node named ${nodeName} is in the cluster already, and Ready: choose another name (--node-name), or delete that one (kubectl delete node ${nodeName})`,
    );
  }
}

async function requiredConfigMap(client: KubeClient, name: string, settings: JoinSettings, signal: AbortSignal): Promise<ConfigMap> {
  try {
    return await client.get<ConfigMap>(pathOf('v1', 'configmaps', 'kube-system', name), signal);
  } catch (error) {
    if (hasCode(error, 'Forbidden')) {
      throw new AgentError(
        'Forbidden',
        `the bootstrap credentials may not read ConfigMap kube-system/${name} (${messageOf(error)}): Role and RoleBinding kubeadm:kubelet-config are missing; "kubeadm init phase upload-config kubelet" on the control plane makes them`,
        { cause: error },
      );
    }
    if (hasCode(error, 'NotFound')) {
      throw new AgentError(
        'NotFound',
        `the cluster has no ConfigMap kube-system/${name}, so kubeadm has not made it: run "kubeadm init phase upload-config kubelet" on the control plane, or start the node without joining: keelson run --bootstrap-kubeconfig … --config …`,
        { cause: error },
      );
    }
    throw tokenTrouble(error, settings) ?? error;
  }
}

/** kube-proxy's ConfigMap; a cluster may do without (another proxy), which kubeadm tolerates too. */
async function proxyConfigMap(client: KubeClient, ctx: JoinContext): Promise<Readonly<Record<string, string>> | undefined> {
  try {
    return (await client.get<ConfigMap>(pathOf('v1', 'configmaps', 'kube-system', 'kube-proxy'), ctx.signal)).data;
  } catch (error) {
    if (!hasCode(error, 'NotFound', 'Forbidden')) throw error;
    ctx.stderr(`warning: no kube-proxy configuration from the cluster (${messageOf(error)}); defaults will be used\n`);
    return undefined;
  }
}

function effectiveFlags(settings: JoinSettings, nodeName: string, ownName: string): { name: string; value: string }[] {
  const flags = new Map<string, string>();
  if (settings.taints.length > 0) flags.set('register-with-taints', settings.taints.map(taintText).join(','));
  if (nodeName !== ownName) flags.set('hostname-override', nodeName);
  for (const { name, value } of settings.extraArgs) flags.set(name, value);
  return [...flags].map(([name, value]) => ({ name, value }));
}

const resolvedConf = '/run/systemd/resolve/resolv.conf';

/** systemd-resolved's real resolv.conf where /etc/resolv.conf is only its stub on loopback, useless inside pods. */
async function systemdResolvConf(): Promise<string | undefined> {
  const text = await readIfThere('/etc/resolv.conf');
  if (text === undefined || !/^nameserver\s+127\.0\.0\.53\s*$/m.test(text)) return undefined;
  return (await readIfThere(resolvedConf)) === undefined ? undefined : resolvedConf;
}
