import { connect } from 'node:net';
import { Client, credentials } from '@grpc/grpc-js';
import type { ExecSyncRequest, ExecSyncResponse } from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import { hasCode, messageOf } from '../base/errors.ts';
import { grpcSockets } from '../base/grpc-sockets.ts';
import { grpcCodeName, grpcStatusText } from '../base/grpc-status.ts';
import { dialErrorText, isConnectionRefused, joinHostPort } from '../base/net-errors.ts';

/** How one attempt of a probe ended. */
export type Attempt =
  | { readonly kind: 'success' }
  /** Good enough, but somebody should look. */
  | { readonly kind: 'warning'; readonly message: string }
  | {
      readonly kind: 'failure';
      readonly message: string;
      /** Nobody listens: the application has not noticed the attempt. */
      readonly refused?: boolean;
    }
  /** The probe itself could not be carried out: it says nothing about the container. */
  | { readonly kind: 'error'; readonly message: string };

// kubelet's maxReadLength (pkg/probe/exec).
const maxOutputBytes = 10 * 1024;

/** Opens a TCP connection and closes it. */
export async function tcpAttempt(host: string, port: number, timeoutMs: number, clock: Clock, signal: AbortSignal): Promise<Attempt> {
  using deadline = clock.deadline(signal, timeoutMs);
  return await new Promise<Attempt>((resolve) => {
    const socket = connect({ host, port });
    const end = (attempt: Attempt): void => {
      deadline.signal.removeEventListener('abort', onTimeout);
      socket.destroy();
      resolve(attempt);
    };
    const onTimeout = (): void => end({ kind: 'failure', message: `dial tcp ${joinHostPort(host, port)}: i/o timeout` });
    deadline.signal.addEventListener('abort', onTimeout, { once: true });
    socket.once('connect', () => end({ kind: 'success' }));
    socket.on('error', (error) => end({ kind: 'failure', message: dialErrorText(error, host, port), refused: isConnectionRefused(error) }));
    if (deadline.signal.aborted) onTimeout();
  });
}

/** Runs a command in a container through the runtime, which ends it when its time is over. */
export type ExecSync = (request: ExecSyncRequest, signal: AbortSignal) => Promise<ExecSyncResponse>;

/** Runs `command`, which the probe has `written`. Exit code 0 is good. What keeps the command from being run at all is an error, except that its time was over. */
export async function execAttempt(
  execSync: ExecSync,
  containerId: string,
  { command, written }: { readonly command: readonly string[]; readonly written: readonly string[] },
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Attempt> {
  try {
    const { exit_code, stdout, stderr } = await execSync(
      { container_id: containerId, cmd: [...command], timeout: timeoutMs / 1000 },
      signal,
    );
    if (!exit_code) return { kind: 'success' };
    const output = Buffer.concat([Buffer.from(stdout ?? []), Buffer.from(stderr ?? [])]);
    return { kind: 'failure', message: output.subarray(0, maxOutputBytes).toString('utf8') };
  } catch (error) {
    if (hasCode(error, 'DeadlineExceeded')) {
      // As it was written: what its variables stand for may be secret, and events are read by many.
      return { kind: 'failure', message: `command timed out: "${written.join(' ')}" timed out after ${timeoutMs / 1000}s` };
    }
    return { kind: 'error', message: messageOf(error) };
  }
}

const healthCheckPath = '/grpc.health.v1.Health/Check';
const servingStatuses = ['UNKNOWN', 'SERVING', 'NOT_SERVING', 'SERVICE_UNKNOWN'];
const grpcUnimplemented = 12;
const grpcDeadlineExceeded = 4;

/** Asks a gRPC server for the health of a service (empty: of the whole server), in the clear. Every failure is the container's. */
export async function grpcAttempt(
  host: string,
  port: number,
  service: string,
  timeoutMs: number,
  userAgent: string,
  clock: Clock,
  signal: AbortSignal,
): Promise<Attempt> {
  const failure = (message: string): Attempt => ({ kind: 'failure', message });
  const address = joinHostPort(host, port);
  using sockets = grpcSockets(credentials.createInsecure());
  const client = new Client(address, sockets.credentials, {
    'grpc.primary_user_agent': userAgent,
    'grpc.enable_http_proxy': 0,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.service_config_disable_resolution': 1,
    'grpc.initial_reconnect_backoff_ms': 100,
  });
  const deadline = clock.wall() + timeoutMs;
  const calledOff = Promise.withResolvers<Attempt>();
  const onAbort = (): void => {
    client.close();
    // waitForReady does not hear of the closing: it would hold up whoever stops for the whole timeout.
    calledOff.resolve(failure(`error: health rpc probe failed: ${messageOf(signal.reason)}`));
  };
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  const timeoutText = `${timeoutMs / 1000}s`;
  async function ask(): Promise<Attempt> {
    const connected = await new Promise<boolean>((resolve) => client.waitForReady(deadline, (error) => resolve(error === undefined)));
    if (!connected) return failure(`timeout: failed to connect service "${address}" within ${timeoutText}: context deadline exceeded`);
    return await new Promise<Attempt>((resolve) => {
      client.makeUnaryRequest<string, number>(
        healthCheckPath,
        encodeHealthRequest,
        decodeHealthResponse,
        service,
        { deadline },
        (error, status) => {
          if (error?.code === grpcUnimplemented) {
            const protocol = 'this server does not implement the grpc health protocol (grpc.health.v1.Health)';
            resolve(failure(`error: ${protocol}: ${error.details}`));
          } else if (error?.code === grpcDeadlineExceeded) resolve(failure(`timeout: health rpc did not complete within ${timeoutText}`));
          else if (error !== null)
            resolve(failure(`error: health rpc probe failed: ${grpcStatusText(grpcCodeName(error.code), error.details)}`));
          else if (status !== 1) resolve(failure(`service unhealthy (responded with "${servingStatuses[status ?? 0] ?? status}")`));
          else resolve({ kind: 'success' });
        },
      );
    });
  }
  try {
    return await Promise.race([ask(), calledOff.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    client.close();
  }
}

/** `HealthCheckRequest { string service = 1 }` on the wire. */
export function encodeHealthRequest(service: string): Buffer {
  if (service === '') return Buffer.alloc(0);
  const text = Buffer.from(service, 'utf8');
  const length: number[] = [];
  for (let left = text.length; ; left >>>= 7) {
    if (left < 0x80) {
      length.push(left);
      break;
    }
    length.push((left & 0x7f) | 0x80);
  }
  return Buffer.concat([Buffer.from([0x0a, ...length]), text]);
}

/** The `status = 1` of a HealthCheckResponse, which has no other field; 0 when it is left out. */
export function decodeHealthResponse(message: Buffer): number {
  return message[0] === 0x08 ? (message[1] ?? 0) : 0;
}
