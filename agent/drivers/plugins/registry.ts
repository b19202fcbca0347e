import { type FSWatcher, watch } from 'node:fs';
import { lstat, mkdir, readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { PluginInfo } from '../../../cri-protos/generated/plugin-registration.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { startLoop } from '../../base/loop.ts';
import { ownValue } from '../../base/own.ts';
import { loadServices, type Method } from '../grpc/contract.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import { connectUnix } from './unix-grpc.ts';

let contract: ReturnType<typeof loadServices<'pluginregistration.Registration'>> | undefined;

function methodOf(name: string): Method {
  contract ??= loadServices('plugin-registration.proto', ['pluginregistration.Registration']);
  const method = contract['pluginregistration.Registration'].get(name);
  if (method === undefined) throw new AgentError('Internal', `the contract of plugin registration has no ${name}`);
  return method;
}

/** Who takes plugins of one type. */
export interface PluginHandler {
  /** Why it cannot be taken; undefined when it can. */
  problem(name: string, versions: readonly string[]): string | undefined;
  /** Rejects with what the plugin is to be told. */
  register(name: string, endpoint: string): Promise<void>;
  deregister(name: string): void;
}

export interface RegistryOptions {
  /** `<root-dir>/plugins_registry`: sockets in it and below are plugins that want to register. */
  readonly folder: string;
  /** By type: `DevicePlugin`. */
  readonly handlers: Readonly<Record<string, PluginHandler>>;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

// kubelet's (pkg/kubelet/pluginmanager/operationexecutor): 10 s to connect, 1 s for GetInfo, 5 s to be told.
const connectLimitMs = 10_000;
const infoLimitMs = 1_000;
const notifyLimitMs = 5_000;

/** Follows the folder and registers what appears in it, again and again until it succeeds or is gone. Throws AgentError when the folder cannot be made. */
export async function watchPlugins({ folder, handlers, clock, log, signal }: RegistryOptions): Promise<AsyncDisposable> {
  await mkdir(folder, { recursive: true, mode: 0o750 }).catch((error: unknown) => {
    throw fromFsError(error, `cannot make the folder where plugins register ${folder}`);
  });
  // By path: which socket it is (one that was made anew is another).
  let found = new Map<string, string>();
  const taken = new Map<string, { identity: string; type: string; name: string }>();
  const watchers = new Map<string, FSWatcher>();

  const loop = startLoop({
    name: 'plugins',
    clock,
    log,
    signal,
    backoff: { initialMs: 500, maxMs: 120_000 },
    run: async (path, loopSignal) => {
      if (path === folder) await scan();
      else await settle(path, loopSignal);
      return undefined;
    },
  });

  async function scan(): Promise<void> {
    const next = new Map<string, string>();
    const folders = new Set<string>();
    await walk(folder, next, folders);
    for (const [path, watcher] of watchers) {
      if (folders.has(path)) continue;
      watcher.close();
      watchers.delete(path);
    }
    const before = found;
    found = next;
    for (const path of new Set([...before.keys(), ...next.keys()])) if (before.get(path) !== next.get(path)) loop.enqueue(path);
  }

  async function walk(at: string, sockets: Map<string, string>, folders: Set<string>): Promise<void> {
    folders.add(at);
    // Watched before it is read: what comes in between is told.
    if (!watchers.has(at)) {
      const watcher = watch(at, (event, name) => {
        // The folder itself was removed or moved (IN_DELETE_SELF): this watch is dead, and one that is made anew needs another.
        if (event === 'rename' && name === basename(at) && watchers.get(at) === watcher) {
          watcher.close();
          watchers.delete(at);
        }
        loop.enqueue(folder);
      });
      watcher.on('error', () => loop.enqueue(folder));
      watchers.set(at, watcher);
    }
    for (const entry of await readdir(at, { withFileTypes: true })) {
      const path = join(at, entry.name);
      if (entry.name.startsWith('.')) continue;
      try {
        if (entry.isDirectory()) await walk(path, sockets, folders);
        else if (entry.isSocket()) {
          const { ino, ctimeMs } = await lstat(path);
          sockets.set(path, `${ino} ${ctimeMs}`);
        }
      } catch (error) {
        // Gone meanwhile, which is told too.
        if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
      }
    }
  }

  /** Brings what is registered in line with the socket that is there, or is not. */
  async function settle(path: string, loopSignal: AbortSignal): Promise<void> {
    const identity = found.get(path);
    const last = taken.get(path);
    if (last?.identity === identity) return;
    if (last !== undefined) {
      taken.delete(path);
      ownValue(handlers, last.type)?.deregister(last.name);
      log.info({ socket: path, plugin: last.name }, 'plugin is gone');
    }
    if (identity !== undefined) await register(path, identity, loopSignal);
  }

  async function register(path: string, identity: string, loopSignal: AbortSignal): Promise<void> {
    using connecting = clock.deadline(loopSignal, connectLimitMs);
    using client = await connectUnix(path, clock, connecting.signal);
    using asking = clock.deadline(loopSignal, infoLimitMs);
    const info = await client.call<PluginInfo>(methodOf('GetInfo'), {}, asking.signal);
    const { type = '', name = '', supported_versions = [] } = info;
    const endpoint = info.endpoint === undefined || info.endpoint === '' ? path : info.endpoint;
    const handler = ownValue(handlers, type);
    const problem =
      handler === undefined
        ? `RegisterPlugin error -- no handler registered for plugin type: ${type} at socket ${path}`
        : handler.problem(name, supported_versions);
    let error =
      problem === undefined || handler === undefined
        ? (problem ?? '')
        : `RegisterPlugin error -- plugin validation failed with err: ${problem}`;
    if (handler !== undefined && problem === undefined) {
      try {
        await handler.register(name, endpoint);
        taken.set(path, { identity, type, name });
      } catch (failure) {
        error = `RegisterPlugin error -- plugin registration failed with err: ${messageOf(failure)}`;
      }
    }
    using telling = clock.deadline(loopSignal, notifyLimitMs);
    await client.call(methodOf('NotifyRegistrationStatus'), { plugin_registered: error === '', error }, telling.signal);
    if (error !== '') throw new AgentError('Refused', error);
    log.info({ socket: path, plugin: name, type }, 'plugin registered');
  }

  loop.enqueue(folder);
  return {
    async [Symbol.asyncDispose]() {
      for (const watcher of watchers.values()) watcher.close();
      watchers.clear();
      await loop[Symbol.asyncDispose]();
    },
  };
}
