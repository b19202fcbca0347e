import { request } from 'node:https';
import { isIP } from 'node:net';
import { TLSSocket, connect as tlsConnect } from 'node:tls';
import type { Clock } from '../../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import { ownValue } from '../../base/own.ts';
import type { ConfigMap } from '../../model/generated/api.ts';
import { chooseProxy, type HttpProxy, hostnameOf } from './proxy.ts';
import { openTunnel } from './tunnel.ts';

/** kube-public/cluster-info as some server answered it. */
export interface ClusterInfo {
  readonly data: Readonly<Record<string, string>> | undefined;
  /** The server's own clock (its Date header, whole seconds), milliseconds since the epoch. */
  readonly serverTime: number | undefined;
}

export interface ClusterInfoRequest {
  /** `https://host:port`, perhaps with a path prefix. */
  readonly server: string;
  /** The authority to trust; `undefined`: whoever answers is listened to, and the answer must prove itself. */
  readonly caPem: string | undefined;
  /** Goes before what the environment says of proxies. */
  readonly proxyUrl?: string | undefined;
  /** Default the process's own. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined;
  readonly clock: Clock;
  readonly timeoutMs: number;
}

const path = '/api/v1/namespaces/kube-public/configmaps/cluster-info';
// cluster-info is a few kilobytes; whoever sends more than this is no API server.
const maxAnswerBytes = 4 << 20;

/**
 * Reads the cluster-info ConfigMap without credentials. Throws AgentError: `Unreachable` (nobody answers, or a 5xx: worth another try),
 * `NotTls`, `NotKubernetes`, `Untrusted` (the server's certificate is not from this authority, or not for this name), `ClockSkew`,
 * `ServerCertificateExpired`, `ClusterInfoMissing`, `ClusterInfoForbidden`.
 */
export async function readClusterInfo(options: ClusterInfoRequest, signal: AbortSignal): Promise<ClusterInfo> {
  const { server, clock } = options;
  const proxy = chooseProxy(server, options.proxyUrl, options.env ?? process.env);
  using deadline = clock.deadline(signal, options.timeoutMs);
  let answer: Answer;
  try {
    answer = await get(server, options.caPem, proxy, deadline.signal);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (deadline.signal.aborted) {
      throw new AgentError('Unreachable', `cannot reach ${server}: no answer within ${options.timeoutMs / 1000} s`, { cause: error });
    }
    const { code } = error as { code?: string };
    if (code === 'CERT_NOT_YET_VALID' || code === 'CERT_HAS_EXPIRED') {
      // Asked again without trust, only to say whose clock is wrong.
      const seen = await get(server, undefined, proxy, deadline.signal).catch(() => undefined);
      throw certificateTime(code, seen, error, options);
    }
    throw explained(error as Error & { code?: string }, server);
  }
  return { data: readAnswer(answer, server), serverTime: answer.serverTime };
}

interface Answer {
  readonly status: number;
  readonly serverTime: number | undefined;
  readonly certificate: { readonly validFromDate: Date; readonly validToDate: Date } | undefined;
  readonly text: string;
}

async function get(server: string, caPem: string | undefined, proxy: HttpProxy | undefined, signal: AbortSignal): Promise<Answer> {
  const url = new URL(server.replace(/\/+$/, '') + path);
  // A proxy that cannot be reached or refuses is worth another try, like a server.
  const tunnel =
    proxy === undefined
      ? undefined
      : await openTunnel(proxy, `${url.hostname}:${url.port || '443'}`, { ca: caPem, rejectUnauthorized: true }, signal).catch(
          (error: unknown) => {
            throw hasCode(error, 'Unavailable')
              ? new AgentError('Unreachable', `cannot reach ${server}: ${error.message}`, { cause: error })
              : error;
          },
        );
  const host = hostnameOf(url);
  const trust = { rejectUnauthorized: caPem !== undefined, ...(caPem === undefined ? {} : { ca: caPem }) };
  return await new Promise((resolve, reject) => {
    const call = request(
      url,
      {
        method: 'GET',
        // A connection of its own, never one that was opened under other rules of trust.
        ...(tunnel === undefined
          ? { agent: false, ...trust }
          : { createConnection: () => tlsConnect({ socket: tunnel, host, servername: isIP(host) === 0 ? host : '', ...trust }) }),
        headers: { accept: 'application/json', 'user-agent': 'keelson-join' },
        signal,
      },
      (response) => {
        const parts: Buffer[] = [];
        let size = 0;
        response.on('data', (part: Buffer) => {
          size += part.length;
          if (size > maxAnswerBytes) call.destroy(new AgentError('NotKubernetes', `${server} answers with more than an API server would`));
          else parts.push(part);
        });
        response.on('error', reject);
        const certificate = response.socket instanceof TLSSocket ? response.socket.getPeerX509Certificate() : undefined;
        const serverTime = Date.parse(response.headers.date ?? '');
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            serverTime: Number.isNaN(serverTime) ? undefined : serverTime,
            certificate,
            text: Buffer.concat(parts).toString('utf8'),
          }),
        );
      },
    );
    call.on('error', reject);
    call.end();
  });
}

function readAnswer(answer: Answer, server: string): ClusterInfo['data'] {
  let object: (ConfigMap & { message?: string }) | undefined;
  try {
    object = JSON.parse(answer.text);
  } catch {
    object = undefined;
  }
  const kind = object !== null && typeof object === 'object' ? object.kind : undefined;
  const said = object?.message ?? answer.text.trim().slice(0, 200);
  if (answer.status >= 500 || answer.status === 429) {
    throw new AgentError('Unreachable', `${server} is not ready: HTTP ${answer.status}${said === '' ? '' : `: ${said}`}`);
  }
  if (answer.status === 200 && kind === 'ConfigMap') return object?.data;
  if (kind !== 'Status') {
    throw new AgentError(
      'NotKubernetes',
      `${server} answers, but is not a Kubernetes API server (HTTP ${answer.status}${answer.text === '' ? '' : `: ${JSON.stringify(answer.text.trim().slice(0, 80))}`}): check host and port, the API server's is usually 6443`,
    );
  }
  if (answer.status === 404) {
    throw new AgentError(
      'ClusterInfoMissing',
      `${server} has no ConfigMap kube-public/cluster-info, so it cannot be joined by token: run "kubeadm init phase bootstrap-token" on the control plane, or use --discovery-file`,
    );
  }
  if (answer.status === 401 || answer.status === 403) {
    throw new AgentError(
      'ClusterInfoForbidden',
      `${server} does not show kube-public/cluster-info to strangers (${said}): anonymous access is off or Role kubeadm:bootstrap-signer-clusterinfo is missing; use --discovery-file instead`,
    );
  }
  throw new AgentError('NotKubernetes', `${server} answers the request for cluster-info with HTTP ${answer.status}: ${said}`);
}

const unverified = new Set([
  'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'CERT_SIGNATURE_FAILURE',
  'INVALID_CA',
  'INVALID_PURPOSE',
]);

/** Puts a connection error into words. */
function explained(error: Error & { code?: string }, server: string): AgentError {
  if (error instanceof AgentError) return error;
  const { hostname, port } = new URL(server);
  const code = error.code ?? '';
  const fail = (kind: string, message: string): AgentError => new AgentError(kind, message, { cause: error });
  if (unverified.has(code)) {
    return fail(
      'Untrusted',
      `the certificate of ${server} is not from the cluster's certificate authority (${code}): another server, or somebody between, answers there`,
    );
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return fail(
      'Untrusted',
      `the certificate of ${server} is not for this name: ${error.message}; use one of its names, or add this one to the API server's certificate (apiServer.certSANs)`,
    );
  }
  if (/^ERR_SSL_|^EPROTO$|^HPE_/.test(code)) {
    return fail('NotTls', `${server} does not speak TLS (${messageOf(error)}): check host and port, the API server's is usually 6443`);
  }
  const reasons: Record<string, string> = {
    ECONNREFUSED: `nothing listens on port ${port || '443'} of ${hostname}`,
    ENOTFOUND: `the name ${hostname} is unknown to DNS`,
    EAI_AGAIN: `DNS does not answer for ${hostname}`,
    ENETUNREACH: 'there is no route to it',
    EHOSTUNREACH: 'there is no route to it',
    ETIMEDOUT: 'no answer (a firewall that drops packets?)',
    ECONNRESET: 'the connection was reset',
  };
  return fail('Unreachable', `cannot reach ${server}: ${ownValue(reasons, code) ?? messageOf(error)}`);
}

/** Whose clock is wrong when a certificate is not valid now: ours, or nobody's and the certificate has really run out. */
function certificateTime(code: string, seen: Answer | undefined, cause: unknown, { server, clock }: ClusterInfoRequest): AgentError {
  const ours = clock.wall();
  const early = code === 'CERT_NOT_YET_VALID';
  const { serverTime, certificate } = seen ?? {};
  const bounds =
    certificate === undefined
      ? ''
      : early
        ? `, valid from ${iso(certificate.validFromDate.getTime())}`
        : `, valid until ${iso(certificate.validToDate.getTime())}`;
  const skewed = serverTime !== undefined && (early ? serverTime - ours : ours - serverTime) > 60_000;
  if (early || skewed) {
    const apart =
      serverTime === undefined
        ? ''
        : `, ${duration(Math.abs(serverTime - ours))} ${serverTime > ours ? 'behind' : 'ahead of'} the server's clock (${iso(serverTime)})`;
    return new AgentError(
      'ClockSkew',
      `the certificate of ${server} is ${early ? 'not valid yet' : 'no longer valid'} by this machine's clock: here it is ${iso(ours)}${apart}; the certificate is${bounds.slice(1) || ' not valid at that time'}. Set the clock (timedatectl set-ntp true, or date -u -s …) and join again`,
      { cause },
    );
  }
  return new AgentError(
    'ServerCertificateExpired',
    `the certificate of ${server} has expired${bounds}: renew it on the control plane (kubeadm certs renew apiserver)`,
    { cause },
  );
}

function iso(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`;
}

function duration(ms: number): string {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 120) return `${minutes} min`;
  return minutes < 2 * 24 * 60 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 60 / 24)} days`;
}
