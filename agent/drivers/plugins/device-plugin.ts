import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Server, ServerCredentials, status } from '@grpc/grpc-js';
import type {
  AllocateResponse,
  ContainerAllocateResponse,
  Device,
  DevicePluginOptions,
  ListAndWatchResponse,
  PreferredAllocationResponse,
  RegisterRequest,
} from '../../../cri-protos/generated/device-plugin.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { loadServices, type Method } from '../grpc/contract.ts';
import { fromFsError } from '../sys/errno.ts';
import { connectUnix } from './unix-grpc.ts';

let contract: ReturnType<typeof loadServices<'v1beta1.Registration' | 'v1beta1.DevicePlugin'>> | undefined;

function methodOf(service: 'v1beta1.Registration' | 'v1beta1.DevicePlugin', name: string): Method {
  contract ??= loadServices('device-plugin.proto', ['v1beta1.Registration', 'v1beta1.DevicePlugin']);
  const method = contract[service].get(name);
  if (method === undefined) throw new AgentError('Internal', `the contract of device plugins has no ${service}.${name}`);
  return method;
}

/** A device plugin's calls (v1beta1). All reject with AgentErrors that end in the plugin's own words. */
export interface DevicePluginClient extends Disposable {
  options(signal: AbortSignal): Promise<DevicePluginOptions>;
  /** All devices, whenever one has changed; ends or throws with the plugin. */
  watch(signal: AbortSignal): AsyncIterable<readonly Device[]>;
  /** For one container; undefined when the plugin answers nothing. */
  allocate(ids: readonly string[], signal: AbortSignal): Promise<ContainerAllocateResponse | undefined>;
  preStart(ids: readonly string[], signal: AbortSignal): Promise<void>;
  preferred(available: readonly string[], mustInclude: readonly string[], size: number, signal: AbortSignal): Promise<readonly string[]>;
}

export async function connectDevicePlugin(socket: string, clock: Clock, signal: AbortSignal): Promise<DevicePluginClient> {
  const method = (name: string): Method => methodOf('v1beta1.DevicePlugin', name);
  const client = await connectUnix(socket, clock, signal);
  return {
    options: (s) => client.call<DevicePluginOptions>(method('GetDevicePluginOptions'), {}, s),
    async *watch(s) {
      for await (const { devices } of client.stream<ListAndWatchResponse>(method('ListAndWatch'), {}, s)) yield devices ?? [];
    },
    async allocate(ids, s) {
      const request = { container_requests: [{ devices_ids: [...ids] }] };
      return (await client.call<AllocateResponse>(method('Allocate'), request, s)).container_responses?.[0];
    },
    async preStart(ids, s) {
      await client.call(method('PreStartContainer'), { devices_ids: [...ids] }, s);
    },
    async preferred(available, mustInclude, size, s) {
      const one = { available_deviceIDs: [...available], must_include_deviceIDs: [...mustInclude], allocation_size: size };
      const request = { container_requests: [one] };
      const response = await client.call<PreferredAllocationResponse>(method('GetPreferredAllocation'), request, s);
      return response.container_responses?.[0]?.deviceIDs ?? [];
    },
    [Symbol.dispose]: () => client[Symbol.dispose](),
  };
}

/** The bytes of one container's answer, as a checkpoint keeps them. */
export function encodeAllocateResponse(response: ContainerAllocateResponse): Buffer {
  // The message that holds it alone, less the tag of the field and the length.
  const whole = methodOf('v1beta1.DevicePlugin', 'Allocate').responseSerialize({ container_responses: [response] });
  let start = 1;
  while ((whole[start] ?? 0) >= 0x80) start++;
  return whole.subarray(start + 1);
}

/** Throws when these are not such bytes. */
export function decodeAllocateResponse(bytes: Uint8Array): ContainerAllocateResponse {
  const length: number[] = [];
  for (let left = bytes.length; ; left = Math.floor(left / 128)) {
    if (left < 0x80) {
      length.push(left);
      break;
    }
    length.push((left % 128) | 0x80);
  }
  const whole = Buffer.concat([Buffer.from([0x0a, ...length]), bytes]);
  const message: AllocateResponse = methodOf('v1beta1.DevicePlugin', 'Allocate').responseDeserialize(whole);
  return message.container_responses?.[0] ?? {};
}

/** A socket's address holds this many bytes (sockaddr_un, less the last one). */
const longestSocketPath = 107;

export interface RegistrationOptions {
  /** `<root-dir>/device-plugins`; made when it is not there. Plugins' sockets of an earlier time are removed: whoever lives makes its own anew. */
  readonly folder: string;
  readonly log: Log;
  /** Why the plugin cannot be taken, in one line; undefined when it can. */
  readonly problem: (resource: string, versions: readonly string[]) => string | undefined;
  /** Rejects with what the plugin is to be told. */
  readonly register: (resource: string, socket: string) => Promise<void>;
}

/** Serves `kubelet.sock`, where device plugins register; that it is made anew tells those that run to do so again. Throws AgentError. */
export async function serveDeviceRegistration({ folder, log, problem, register }: RegistrationOptions): Promise<AsyncDisposable> {
  const path = join(folder, 'kubelet.sock');
  if (Buffer.byteLength(path) > longestSocketPath)
    throw new AgentError(
      'NameTooLong',
      `device plugins cannot register: the path of their socket is longer than ${longestSocketPath} bytes: ${path}`,
    );
  try {
    await mkdir(folder, { recursive: true, mode: 0o750 });
    for (const entry of await readdir(folder, { withFileTypes: true }))
      if (entry.isSocket()) await rm(join(folder, entry.name), { force: true });
  } catch (error) {
    throw fromFsError(error, `cannot prepare the folder of device plugins ${folder}`);
  }
  const server = new Server();
  server.addService(
    { Register: methodOf('v1beta1.Registration', 'Register') },
    {
      Register(call: { request: RegisterRequest }, answer: (error: object | null, response?: object) => void) {
        const { version = '', endpoint = '', resource_name = '' } = call.request;
        const refuse = (why: string): void => {
          log.warn({ resource: resource_name, endpoint, err: why }, 'device plugin cannot be used');
          answer({ code: status.UNKNOWN, details: why });
        };
        const wrong = problem(resource_name, [version]) ?? endpointProblem(folder, endpoint);
        if (wrong !== undefined) refuse(wrong);
        else
          register(resource_name, join(folder, endpoint)).then(
            () => answer(null, {}),
            (error: unknown) => refuse(messageOf(error)),
          );
      },
    },
  );
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve();
      else reject(new AgentError('Unavailable', `cannot listen on ${path} for device plugins: ${error.message}`, { cause: error }));
    });
  });
  return {
    async [Symbol.asyncDispose]() {
      server.forceShutdown();
      await rm(path, { force: true });
    },
  };
}

function endpointProblem(folder: string, endpoint: string): string | undefined {
  return join(folder, endpoint).startsWith(`${folder}/`)
    ? undefined
    : `the endpoint ${JSON.stringify(endpoint)} is not the name of a socket in the folder of device plugins`;
}
