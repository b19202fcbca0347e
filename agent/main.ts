// The composition root: finds the command and runs it. Nobody imports this file, and process.exit is called here alone.

import { messageOf } from './base/errors.ts';
import { ownValue } from './base/own.ts';
import { during } from './base/work.ts';
import { onUnhandledError } from './cli/unhandled.ts';

type Command = (args: readonly string[], signal: AbortSignal) => Promise<number>;

// Commands are loaded when asked for: `keelson status` must not pay for the whole node.
const commands: Record<string, { summary: string; load: () => Promise<Command> }> = {
  run: {
    summary: 'run this machine as a Kubernetes node (kubelet flags and configuration)',
    load: async () => (await import('./cli/run.ts')).run,
  },
  kubelet: {
    summary: "run in a kubelet's place, beside a kube-proxy; also when keelson is called by a link named kubelet",
    load: async () => (await import('./cli/run.ts')).runKubelet,
  },
  proxy: {
    summary: "program this machine's Services alone, without the rest of a node (kube-proxy flags and configuration)",
    load: async () => (await import('./cli/proxy.ts')).proxy,
  },
  rbac: {
    summary: 'print what a cluster needs for nodes that program Services themselves',
    load: async () => (await import('./cli/rbac.ts')).rbac,
  },
  up: {
    summary: 'run the pods of a folder of manifests on this machine (--cluster: in a cluster made for them)',
    load: async () => (await import('./cli/up.ts')).up,
  },
  down: { summary: 'end what up has started, and leave nothing behind', load: async () => (await import('./cli/down.ts')).down },
  status: { summary: 'what the pods of this machine are doing', load: async () => (await import('./cli/status.ts')).status },
  why: { summary: 'why a pod is in the state it is in: steps, times, events', load: async () => (await import('./cli/why.ts')).why },
  services: {
    summary: "what is programmed for this node's Services, and why an endpoint is out (--verify: read the kernel back)",
    load: async () => (await import('./cli/services.ts')).services,
  },
  logs: { summary: 'what a container has written', load: async () => (await import('./cli/logs.ts')).logs },
  exec: { summary: 'run a command in a container', load: async () => (await import('./cli/exec.ts')).exec },
  kubectl: {
    summary: 'kubectl for the cluster that up --cluster has started',
    load: async () => (await import('./cli/kubectl.ts')).kubectl,
  },
  join: {
    summary: 'join this machine to a cluster as a worker node (kubeadm join flags)',
    load: async () => (await import('./cli/join.ts')).runJoin,
  },
  test: { summary: 'run every check and test of this checkout', load: async () => (await import('./cli/test.ts')).test },
};

function usage(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`);
  return `keelson: a Kubernetes node in one daemon\n\nUsage: keelson COMMAND [flags]\n\nCommands:\n${lines.join('\n')}\n\nkeelson COMMAND --help tells more.\n`;
}

onUnhandledError((text) => {
  process.stderr.write(text);
  process.exit(1);
});
const [name = '', ...args] = process.argv.slice(2);
const stop = new AbortController();
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort(new Error(`received ${signal}`)));

if (name === '' || name === 'help' || name === '--help' || name === '-h') {
  process.stdout.write(usage());
  process.exit(name === '' ? 2 : 0);
}
const command = ownValue(commands, name);
if (command === undefined) {
  process.stderr.write(`error: unknown command "${name}"\n\n${usage()}`);
  process.exit(2);
}
try {
  const run = await command.load();
  process.exit(await during(`command ${name}`, () => run(args, stop.signal)));
} catch (error) {
  process.stderr.write(`error: ${messageOf(error)}\n`);
  const usage = error instanceof Error && 'code' in error && /^(Usage|ERR_PARSE_ARGS.*)$/.test(String(error.code));
  if (usage && !messageOf(error).includes('Usage:')) process.stderr.write(`See keelson ${name} --help.\n`);
  process.exit(usage ? 2 : 1);
}
