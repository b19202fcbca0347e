import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { readYaml } from '../../model/yaml.ts';
import { readText } from '../files/look.ts';
import type { ExecPlugin, KubeAuth, PemSource } from './kubeconfig.ts';

/** What a TLS connection is made with. A new object whenever any part changed. */
export interface TlsMaterial {
  readonly ca?: string | undefined;
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
}

/** The living side of a KubeAuth: tokens that expire and certificates that rotate. */
export interface Credentials extends Disposable {
  /** The same object until something changed. Throws AgentError `InvalidConfig` naming the file. */
  tls(signal: AbortSignal): Promise<TlsMaterial>;
  /** The bearer token of now, if this identity has one. */
  token(signal: AbortSignal): Promise<string | undefined>;
  /** After a 401 with `token`: gets new credentials. True when trying again makes sense. */
  renew(token: string | undefined, signal: AbortSignal): Promise<boolean>;
  /** Reads certificate files again if they changed on disk. */
  reload(): Promise<void>;
  /** True when certificates live in files that may be replaced. */
  readonly hasFiles: boolean;
}

// client-go reads a token file again each minute (transport.NewCachedFileTokenSource).
const tokenFileMaxAgeMs = 60_000;
const execTimeoutMs = 60_000;
// A plugin whose clock runs behind prints credentials that look expired: they are tried, rather than the plugin run for each call.
const execMinAgeMs = 5_000;

interface ExecResult {
  readonly token: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
  /** Milliseconds since the epoch; undefined: good until refused. */
  readonly expiresAt: number | undefined;
  /** On the clock's mono. */
  readonly ranAt: number;
}

/** Opens the credentials of `auth`; files are first read and plugins first run when asked for. */
export function createCredentials(auth: KubeAuth, clock: Clock, log: Log): Credentials {
  const files = [auth.ca, auth.clientCert, auth.clientKey].flatMap((source) => (source?.kind === 'file' ? [source.path] : []));
  const stopping = new AbortController();
  let material: TlsMaterial | undefined;
  let fingerprint = '';
  let loading: Promise<void> | undefined;
  let fileToken: { value: string; readAt: number } | undefined;
  let execResult: ExecResult | undefined;
  let execRunning: Promise<ExecResult> | undefined;

  async function load(): Promise<void> {
    const before = await fingerprintOf(files);
    const exec = auth.exec === undefined ? undefined : execResult;
    const [ca, cert, key] = await Promise.all([
      readPem(auth.ca, 'certificate authority'),
      readPem(auth.clientCert, 'client certificate'),
      readPem(auth.clientKey, 'client key'),
    ]);
    const next: TlsMaterial = { ca, cert: exec?.cert ?? cert, key: exec?.key ?? key };
    fingerprint = before;
    if (material === undefined || material.ca !== next.ca || material.cert !== next.cert || material.key !== next.key) material = next;
  }

  function loadOnce(): Promise<void> {
    loading ??= load().finally(() => {
      loading = undefined;
    });
    return loading;
  }

  async function execCredential(signal: AbortSignal): Promise<ExecResult> {
    const plugin = auth.exec as ExecPlugin;
    if (execResult !== undefined) {
      const { expiresAt, ranAt } = execResult;
      if (expiresAt === undefined || expiresAt > clock.wall() || clock.mono() - ranAt < execMinAgeMs) return execResult;
    }
    if (execRunning === undefined) {
      // One run serves every caller, so it belongs to none of their signals.
      execRunning = runExecPlugin(plugin, auth, clock, stopping.signal).finally(() => {
        execRunning = undefined;
      });
      execRunning.catch(() => undefined);
    }
    const result = await settled(execRunning, signal);
    if (result !== execResult) {
      const changed = execResult?.cert !== result.cert || execResult?.key !== result.key;
      execResult = result;
      log.debug({ command: plugin.command, expiresAt: result.expiresAt }, 'credential plugin answered');
      if (changed && material !== undefined) await loadOnce();
    }
    return result;
  }

  return {
    hasFiles: files.length > 0,
    async tls(signal) {
      if (auth.exec !== undefined) await execCredential(signal);
      if (material === undefined) await loadOnce();
      return material as TlsMaterial;
    },
    async token(signal) {
      if (auth.exec !== undefined) return (await execCredential(signal)).token;
      if (auth.tokenFile === undefined) return auth.token;
      if (fileToken === undefined || clock.mono() - fileToken.readAt >= tokenFileMaxAgeMs) {
        const value = await readToken(auth.tokenFile, fileToken?.value, log);
        fileToken = { value, readAt: clock.mono() };
      }
      return fileToken.value;
    },
    async renew(token, signal) {
      if (auth.exec !== undefined) {
        // Another caller may have renewed since this token was sent.
        if (execResult?.token === token) execResult = undefined;
        await execCredential(signal);
        return true;
      }
      if (auth.tokenFile !== undefined) {
        fileToken = { value: await readToken(auth.tokenFile, fileToken?.value, log), readAt: clock.mono() };
        return fileToken.value !== token;
      }
      if (files.length === 0) return false;
      const old = material;
      await loadOnce();
      return material !== old;
    },
    async reload() {
      if (files.length === 0 || material === undefined) return;
      if ((await fingerprintOf(files)) !== fingerprint) await loadOnce();
    },
    [Symbol.dispose]() {
      stopping.abort(new AgentError('Canceled', 'client closed'));
    },
  };
}

async function readPem(source: PemSource | undefined, what: string): Promise<string | undefined> {
  if (source === undefined) return undefined;
  if (source.kind === 'data') return source.pem;
  try {
    return await readText(source.path);
  } catch (error) {
    throw new AgentError('InvalidConfig', `${what} ${source.path}: ${messageOf(error)}`, { cause: error });
  }
}

// stat follows symbolic links, so swapping `kubelet-client-current.pem` changes the inode here.
async function fingerprintOf(files: readonly string[]): Promise<string> {
  const parts = await Promise.all(
    files.map(async (file) => {
      try {
        const s = await stat(file, { bigint: true });
        return `${s.dev}:${s.ino}:${s.size}:${s.mtimeNs}`;
      } catch (error) {
        return messageOf(error);
      }
    }),
  );
  return parts.join('|');
}

// A token goes into the header of every request.
const mostTokenBytes = 1024 * 1024;

async function readToken(path: string, previous: string | undefined, log: Log): Promise<string> {
  try {
    const token = (await readText(path, mostTokenBytes)).trim();
    if (token === '') throw new Error('the file is empty');
    return token;
  } catch (error) {
    // As client-go: a token that was good a minute ago is worth more than none.
    if (previous !== undefined) {
      log.warn({ path, err: messageOf(error) }, 'token file could not be read again; the old token stays in use');
      return previous;
    }
    throw new AgentError('InvalidConfig', `token file ${path}: ${messageOf(error)}`, { cause: error });
  }
}

async function runExecPlugin(plugin: ExecPlugin, auth: KubeAuth, clock: Clock, signal: AbortSignal): Promise<ExecResult> {
  const spec: Record<string, unknown> = { interactive: false };
  if (plugin.provideClusterInfo) {
    const ca = await readPem(auth.ca, 'certificate authority');
    spec.cluster = {
      server: auth.server,
      ...(auth.tlsServerName === undefined ? {} : { 'tls-server-name': auth.tlsServerName }),
      ...(auth.insecureSkipVerify === true ? { 'insecure-skip-tls-verify': true } : {}),
      ...(ca === undefined ? {} : { 'certificate-authority-data': Buffer.from(ca).toString('base64') }),
      ...(auth.proxyUrl === undefined ? {} : { 'proxy-url': auth.proxyUrl }),
      ...(plugin.clusterConfig === undefined ? {} : { config: plugin.clusterConfig }),
    };
  }
  const info = JSON.stringify({ apiVersion: plugin.apiVersion, kind: 'ExecCredential', spec });
  const env = { ...process.env, ...Object.fromEntries(plugin.env.map((e) => [e.name, e.value])), KUBERNETES_EXEC_INFO: info };
  // A bare name is looked up in PATH; a relative path belongs to the kubeconfig's folder.
  const command = plugin.command.includes('/') && !isAbsolute(plugin.command) ? join(plugin.baseDir, plugin.command) : plugin.command;
  const fail = (problem: string, cause?: unknown): never => {
    throw new AgentError('Unauthorized', `credential plugin ${command}: ${problem}`, { cause });
  };
  using deadline = clock.deadline(signal, execTimeoutMs);
  const stdout = await new Promise<string>((resolve, reject) => {
    const child = execFile(command, [...plugin.args], { env, signal: deadline.signal, maxBuffer: 4 << 20 }, (error, out, stderr) => {
      if (error === null) resolve(out);
      else reject(new Error(explainExec(error, stderr, plugin.installHint), { cause: error }));
    });
    child.stdin?.end();
  }).catch((error: unknown) => fail(messageOf(error), error));

  let answer: {
    apiVersion?: string;
    kind?: string;
    status?: { token?: string; expirationTimestamp?: string | null; clientCertificateData?: string; clientKeyData?: string };
  };
  try {
    // client-go takes YAML too. Nothing of the text goes into the error: it may be a secret.
    answer = (readYaml(stdout)?.value ?? {}) as typeof answer;
  } catch {
    return fail('printed something that is neither JSON nor YAML');
  }
  if (answer.kind !== 'ExecCredential') return fail(`printed kind ${answer.kind ?? '(none)'}, expected ExecCredential`);
  if (answer.apiVersion !== plugin.apiVersion) {
    return fail(`printed apiVersion ${answer.apiVersion ?? '(none)'}, but the kubeconfig says ${plugin.apiVersion}`);
  }
  const status = answer.status ?? fail('printed no status');
  const { token, clientCertificateData: cert, clientKeyData: key } = status;
  if (!token && !cert && !key) fail('printed neither a token nor a client certificate');
  if (Boolean(cert) !== Boolean(key)) fail('printed a client certificate without its key, or a key without its certificate');
  // Go's encoders print null for a time that is not set.
  const expiresAt = typeof status.expirationTimestamp === 'string' ? Date.parse(status.expirationTimestamp) : undefined;
  if (expiresAt !== undefined && Number.isNaN(expiresAt))
    fail(`printed expirationTimestamp ${status.expirationTimestamp}, which is not a time`);
  return { token: token || undefined, cert: cert || undefined, key: key || undefined, expiresAt, ranAt: clock.mono() };
}

function explainExec(error: Error & { code?: string | number | null }, stderr: string, installHint: string | undefined): string {
  if (error.code === 'ENOENT') return `not found${installHint === undefined ? '' : `. ${installHint}`}`;
  const said = stderr.trim().slice(-500);
  return typeof error.code === 'number'
    ? `exit code ${error.code}${said === '' ? '' : `: ${said}`}`
    : `${error.message}${said === '' ? '' : `: ${said}`}`;
}

/** Waits for a shared promise on behalf of one caller, who may give up earlier. */
function settled<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
