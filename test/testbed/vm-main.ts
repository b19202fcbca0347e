// The command line of virtual machines, for looking around in one by hand.
import { ensureVmParts, openVm, startVm, stopVm, vmNames } from './vm.ts';

const help = `usage: test/machine COMMAND [--name NAME]

  prepare   make what machines are started from
  up        boot Debian 13 with this checkout in /opt/keelson; ends the machine of this name first
  exec      SCRIPT [TIMEOUT SECONDS] run a shell script in it
  console   the end of its console
  list      names of machines
  down      end it

NAME is "machine" when not given.
`;

const args = process.argv.slice(2);
const flag = args.indexOf('--name');
const name = flag < 0 ? 'machine' : (args.splice(flag, 2)[1] ?? '');
const [command, ...rest] = args;

const main = async (): Promise<number> => {
  switch (command) {
    case 'prepare':
      await ensureVmParts();
      return 0;
    case 'up': {
      const from = performance.now();
      await startVm(name);
      process.stdout.write(`booted in ${((performance.now() - from) / 1000).toFixed(1)} s\n`);
      return 0;
    }
    case 'exec': {
      const vm = await openVm(name);
      const { code, out, err } = await vm.sh(rest[0] ?? '', { timeoutMs: Number(rest[1] ?? 300) * 1000 });
      process.stdout.write(out);
      process.stderr.write(err);
      return code;
    }
    case 'console': {
      await using vm = await openVm(name);
      process.stdout.write(`${vm.console(100)}\n`);
      return 0;
    }
    case 'list':
      process.stdout.write(
        vmNames()
          .map((each) => `${each}\n`)
          .join(''),
      );
      return 0;
    case 'down':
      await stopVm(name);
      return 0;
    default:
      process.stderr.write(help);
      return 2;
  }
};

try {
  process.exit(await main());
} catch (error) {
  process.stderr.write(`error: ${error instanceof Error ? error.message : error}\n`);
  process.exit(1);
}
