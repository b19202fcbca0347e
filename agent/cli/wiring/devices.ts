import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { registrationProblem } from '../../devices/offers.ts';
import { type Devices, type DevicesOptions, startDevices } from '../../devices/worker.ts';
import { openDeviceCheckpoint } from '../../drivers/journal/device-checkpoint.ts';
import { connectDevicePlugin, serveDeviceRegistration } from '../../drivers/plugins/device-plugin.ts';
import { watchPlugins } from '../../drivers/plugins/registry.ts';

export interface NodeDevicesOptions extends Pick<DevicesOptions, 'amountsChanged' | 'healthChanged' | 'observe'> {
  readonly rootDir: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** The devices room, and the two ways in which plugins come to it: by a call to `kubelet.sock`, and by a socket in `plugins_registry`. */
export async function openNodeDevices(options: NodeDevicesOptions): Promise<AsyncDisposable & { readonly devices: Devices }> {
  const { rootDir, clock, log, signal } = options;
  const folder = join(rootDir, 'device-plugins');
  await using stack = new AsyncDisposableStack();
  const devices = stack.use(
    await startDevices({
      clock,
      log,
      signal,
      connect: (socket, s) => connectDevicePlugin(socket, clock, s),
      openCheckpoint: (current) => openDeviceCheckpoint(join(folder, 'kubelet_internal_checkpoint'), current, clock, log),
      amountsChanged: options.amountsChanged,
      healthChanged: options.healthChanged,
      observe: options.observe,
    }),
  );
  try {
    const server = await serveDeviceRegistration({ folder, log, problem: registrationProblem, register: devices.register });
    stack.use(server);
  } catch (error) {
    // A root folder with such a name is nobody's node; what else is wrong keeps the agent from starting, as it does a kubelet.
    if (!hasCode(error, 'NameTooLong')) throw error;
    log.warn({ err: messageOf(error) }, 'no device plugins');
  }
  stack.use(
    await watchPlugins({
      folder: join(rootDir, 'plugins_registry'),
      handlers: { DevicePlugin: { problem: registrationProblem, register: devices.register, deregister: devices.deregister } },
      clock,
      log,
      signal,
    }),
  );
  const open = stack.move();
  return { devices, [Symbol.asyncDispose]: () => open.disposeAsync() };
}
