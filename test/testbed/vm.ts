// Virtual machines: what this machine's kernel cannot show (cgroup v2 with all controllers, systemd units, swap, CAP_SYS_RESOURCE) is tested in an emulated
// one. No hardware virtualisation is needed, and nothing in it reaches a network.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { endProcess, isAlive, spawnTracked, type Tracked, tailOf } from './process.ts';
import { connectGuest, type Guest, type GuestResult } from './vm-guest.ts';
import { ensurePartsDisk, ensureQemu, ensureSystemDisk, makeSourceDisk } from './vm-parts.ts';

export interface Vm extends AsyncDisposable {
  /** Runs a shell script in the guest; rejects with what it wrote when it fails. Resolves to its stdout. */
  run(script: string, options?: { readonly input?: string; readonly timeoutMs?: number }): Promise<string>;
  /** The same, whatever its exit code. */
  sh: Guest['sh'];
  /** Writes a file in the guest, folders included. */
  write(path: string, text: string): Promise<void>;
  /** The end of the guest's console. */
  console(lines?: number): string;
}

const root = '/run/keelson-vm';
const pathsOf = (name: string) => {
  const folder = join(root, name);
  return {
    folder,
    record: join(folder, 'vm.json'),
    socket: join(folder, 'guest.sock'),
    console: join(folder, 'console.log'),
    log: join(folder, 'qemu.log'),
    source: join(folder, 'source.img'),
  };
};

/** Names of the machines that there are, running or crashed. */
export const vmNames = (): string[] => (existsSync(root) ? readdirSync(root) : []);

/** Makes whatever a machine is started from. */
export const ensureVmParts = async (): Promise<{
  qemu: string[];
  system: Awaited<ReturnType<typeof ensureSystemDisk>>;
  parts: string;
}> => ({
  qemu: await ensureQemu(),
  system: await ensureSystemDisk(),
  parts: await ensurePartsDisk(),
});

const bootMs = 600_000;

// Without what only slows an emulated CPU down: each switch of V8's memory protection keys would flush the TLB, supervisor access prevention ends a block of
// translated code at each copy from a process, and page tables of five levels are a level longer.
const cpu = 'max,-pku,-la57,-smap,-smep,-umip';

/** Starts a machine with this checkout in /opt/keelson, after ending the one of this name; resolves when it has booted. Its disks forget what is written. */
export const startVm = async (name: string, options: { readonly memoryMib?: number } = {}): Promise<Vm> => {
  if (!/^[a-z0-9-]{1,40}$/.test(name)) throw new Error(`a machine's name is of a-z, 0-9 and "-": ${name}`);
  const { qemu, system, parts } = await ensureVmParts();
  await stopVm(name);
  const paths = pathsOf(name);
  mkdirSync(paths.folder, { recursive: true });
  await makeSourceDisk(paths.source);
  const drive = (file: string): string[] => ['-drive', `file=${file},if=virtio,format=raw,snapshot=on`];
  const argv = [
    ...qemu,
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-net', 'none'],
    ...['-accel', 'tcg,thread=multi', '-smp', '2', '-cpu', cpu, '-m', String(options.memoryMib ?? 3072)],
    ...[
      '-kernel',
      system.kernel,
      '-initrd',
      system.initrd,
      '-append',
      'root=/dev/vda rw console=ttyS0 panic=-1 quiet mitigations=off modprobe.blacklist=kvm,kvm_amd,kvm_intel',
    ],
    ...drive(system.disk),
    ...drive(parts),
    ...drive(paths.source),
    ...['-serial', `file:${paths.console}`],
    ...['-chardev', `socket,path=${paths.socket},server=on,wait=off,id=guest`, '-device', 'virtio-serial'],
    ...['-device', 'virtserialport,chardev=guest,name=org.qemu.guest_agent.0'],
    ...['-device', 'virtio-rng-pci'],
  ];
  // What the disks are not to remember goes to a file here that has no name, and is gone with the process.
  const tracked = await spawnTracked(argv, { logFile: paths.log, env: { TMPDIR: paths.folder } });
  writeFileSync(paths.record, JSON.stringify(tracked));
  try {
    return { ...(await openVm(name)), [Symbol.asyncDispose]: () => stopVm(name) };
  } catch (error) {
    const said = `${tailOf(paths.log)}\n${tailOf(paths.console, 30)}`;
    await stopVm(name);
    throw new Error(`the virtual machine ${name} did not come up: ${error instanceof Error ? error.message : error}\n${said}`, {
      cause: error,
    });
  }
};

/** A machine that runs. One at a time may be connected to it. */
export const openVm = async (name: string): Promise<Vm> => {
  const paths = pathsOf(name);
  const tracked = recordOf(name);
  if (tracked === undefined || !isAlive(tracked)) throw new Error(`no virtual machine "${name}" runs`);
  const guest = await connectGuest(paths.socket, bootMs, () => isAlive(tracked));
  const run: Vm['run'] = async (script, options) => {
    const result: GuestResult = await guest.sh(script, options);
    if (result.code !== 0) throw new Error(`in the guest, exit code ${result.code}: ${script}\n${result.out}${result.err}`);
    return result.out;
  };
  return {
    run,
    sh: guest.sh,
    write: async (path, text) => void (await run(`mkdir -p "$(dirname '${path}')" && cat > '${path}'`, { input: text })),
    console: (lines) => tailOf(paths.console, lines),
    async [Symbol.asyncDispose]() {
      guest[Symbol.dispose]();
    },
  };
};

const recordOf = (name: string): Tracked | undefined => {
  const { record } = pathsOf(name);
  return existsSync(record) ? (JSON.parse(readFileSync(record, 'utf8')) as Tracked) : undefined;
};

/** Ends the machine of this name and removes what it made; no such machine is fine. */
export const stopVm = async (name: string): Promise<void> => {
  const tracked = recordOf(name);
  if (tracked !== undefined) await endProcess(tracked, 'SIGKILL');
  rmSync(pathsOf(name).folder, { recursive: true, force: true });
};
