import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Writable } from 'node:stream';
import type {
  AttachRequest,
  AttachResponse,
  ExecRequest,
  ExecResponse,
  ExecSyncRequest,
  ExecSyncResponse,
  PortForwardRequest,
  PortForwardResponse,
} from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import type { Pod, SubjectAccessReviewSpec } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import type { TokenVerdict } from './authenticate.ts';
import type { AccessVerdict } from './authorize.ts';
import type { HealthCheck } from './healthz.ts';
import type { MetricsRegistry } from './metrics.ts';
import type { LookWithin } from './node-logs.ts';
import type { UpgradedClient } from './stream-proxy.ts';

/** The certificate that the node shows, as whoever keeps it (self-signed, from files, by CSR) has it now. */
export interface ServingCertificate {
  /** Undefined while there is none yet: handshakes fail until then. */
  current(): { readonly certPem: string; readonly keyPem: string } | undefined;
  onChange(listener: () => void): Disposable;
}

/** The fields of KubeletConfiguration that the servers follow. Durations in milliseconds. */
export interface ServerSettings {
  readonly address: string;
  /** 10250; 0 takes any free one (for tests). */
  readonly port: number;
  /** 0 is off. */
  readonly readOnlyPort: number;
  readonly healthzBindAddress: string;
  /** 0 is off. */
  readonly healthzPort: number;
  readonly tlsMinVersion?: string | undefined;
  readonly tlsCipherSuites?: readonly string[] | undefined;
  /** Numbers of TLS groups. */
  readonly tlsCurvePreferences?: readonly number[] | undefined;
  readonly clientCaFile?: string | undefined;
  readonly anonymous: boolean;
  readonly tokenWebhook: boolean;
  readonly tokenTtlMs: number;
  readonly authorizationMode: 'Webhook' | 'AlwaysAllow';
  readonly authorizedTtlMs: number;
  readonly unauthorizedTtlMs: number;
  readonly enableDebuggingHandlers: boolean;
  readonly enableSystemLogHandler: boolean;
  readonly enableDebugFlagsHandler: boolean;
  readonly streamingConnectionIdleTimeoutMs: number;
  /** The feature gate PodLogsQuerySplitStreams. */
  readonly splitLogStreams: boolean;
}

/** What the server asks of the pods' tables. */
export interface NodeView {
  /** Every pod that the node holds, its spec with the current status. */
  pods(): Iterable<AgentPod>;
  /** By name; of several with one name, the one that runs or runs next. */
  pod(namespace: string, name: string): AgentPod | undefined;
  /** The pods that the runtime has, whoever asked for them. */
  runningPods(): Iterable<Pod>;
  /** The ID of the newest container of that name that runs, by the runtime's word. */
  runningContainer(podUid: string, name: string): string | undefined;
  /** The ID of the pod's newest ready sandbox. */
  readySandbox(podUid: string): string | undefined;
  /** Undefined when the runtime has no such container any more. */
  containerLog(id: string): { readonly path: string } | undefined;
  isRunning(containerId: string): boolean;
  /** Calls `listener` when the container has changed or gone. */
  onContainerChange(containerId: string, listener: () => void): Disposable;
}

/** The runtime's calls behind streams. They throw AgentErrors whose codes NotFound and ResourceExhausted are told apart. */
export interface StreamingRuntime {
  exec(request: ExecRequest, signal: AbortSignal): Promise<ExecResponse>;
  attach(request: AttachRequest, signal: AbortSignal): Promise<AttachResponse>;
  portForward(request: PortForwardRequest, signal: AbortSignal): Promise<PortForwardResponse>;
  execSync(request: ExecSyncRequest, signal: AbortSignal): Promise<ExecSyncResponse>;
}

/** How a container's log file is read; the first chunk, perhaps empty, comes as soon as the file is open. */
export type ReadContainerLog = (
  path: string,
  options: {
    readonly tailLines?: number | undefined;
    readonly limitBytes?: number | undefined;
    /** RFC 3339. */
    readonly since?: string | undefined;
    readonly timestamps?: boolean | undefined;
    readonly stream?: 'stdout' | 'stderr' | undefined;
    readonly follow?: { running(): boolean; onChange(listener: () => void): Disposable } | undefined;
  },
  signal: AbortSignal,
) => AsyncIterable<Buffer>;

/** A page that another room writes: `/metrics/resource`, `/stats/summary`, … */
export type Page = (query: URLSearchParams, signal: AbortSignal) => Promise<{ readonly contentType: string; readonly body: string }>;

/**
 * Runs journalctl to its end and writes what it prints, stdout and stderr, to `out`, which stays open. Resolves to its exit code, undefined when it cannot
 * be run or is killed; the signal kills it.
 */
export type RunJournalctl = (args: readonly string[], out: Writable, signal: AbortSignal) => Promise<number | undefined>;

export interface ServerOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeName: string;
  readonly settings: ServerSettings;
  readonly certificate: ServingCertificate;
  readonly node: NodeView;
  readonly runtime: StreamingRuntime;
  readonly readLog: ReadContainerLog;
  /** For files of `nodeLogFolder`. */
  readonly lookWithin: LookWithin;
  /** Posts a TokenReview and gives its status. */
  readonly reviewToken: (token: string, signal: AbortSignal) => Promise<TokenVerdict>;
  /** Posts a SubjectAccessReview and gives its status. */
  readonly reviewAccess: (spec: SubjectAccessReviewSpec, signal: AbortSignal) => Promise<AccessVerdict>;
  /** The object that `/configz` shows under `kubeletconfig`. */
  readonly configz: () => object;
  readonly checks: readonly HealthCheck[];
  /** What `/metrics` shows; the server adds its own. */
  readonly metrics: MetricsRegistry;
  /** Further pages by path; a path that is not here is not found. */
  readonly pages?: Readonly<Record<string, Page>> | undefined;
  /** `PUT /debug/flags/v`. */
  readonly setVerbosity?: ((level: number) => void) | undefined;
  /** Where `/logs/` reads; default `/var/log`. */
  readonly nodeLogFolder?: string | undefined;
  /** `/logs/` takes queries for the logs of services (`enableSystemLogQuery`). */
  readonly journalctl?: RunJournalctl | undefined;
}

/** One request under way. */
export interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly upgraded: UpgradedClient | undefined;
  readonly query: URLSearchParams;
  /** Aborts when the client has gone or the server closes. */
  readonly signal: AbortSignal;
  /** Aborts when the server closes. */
  readonly closing: AbortSignal;
}
