// The lab's command line.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ensureBinary } from './binaries.ts';
import { labStatus, loadImages, openLab, restartAgent, restartApiserver, restartProxy, restartRuntime, startLab, stopLab } from './lab.ts';
import { type AgentKind, enter, labNames, labPaths, type ProxyKind, type ProxyMode } from './record.ts';
import type { RuntimeKind } from './runtimes.ts';

const help = `usage: test/lab COMMAND [--name NAME] …

  up        [--agent keelson|upstream] [--nodes N] [--zones Z] [--proxy keelson|upstream]
            [--proxy-mode nftables|iptables|ipvs]
            [--runtime containerd-1.6|containerd-2] [--ready-timeout SECONDS] [--images NAME,…] [--no-registry]
            [--join] [--machines] [--reuse]
            start a cluster, after ending the one of this name; with --reuse one that runs is left as it is; with --join
            nodes join by token, as keelson join does it; with --machines they have a login by ssh and a journal
  load      ARCHIVE import a tar of images into the nodes
  e2e       SUITE|REGEX [--agent keelson|upstream] [--proxy keelson|upstream]
            [--only REGEX] [--unsettled] [--procs N] [--nodes N] [--record]
            run the upstream e2e suite: a file of test/e2e/suites, or the specs whose full name matches
  parity    pods [--only REGEX] [--width N] [--keep]
            the same pods on keelson and on upstream's kubelet, side by side; prints what they do not tell alike (test/parity)
  kubectl   … as kubectl, as cluster administrator
  exec      cp|out|NODE COMMAND … inside the control plane's or the outside's network, or inside a node
  status    what runs
  logs      [COMPONENT] [-f] e.g. apiserver, n1/agent, n1/containerd
  restart-agent, restart-proxy, restart-runtime [--node ID] [--signal KILL]
  restart-apiserver [--signal KILL]
  down      end it and remove everything it made ("down --all": every lab)

NAME is "lab" when not given.`;

class UsageError extends Error {}

const oneOf = <T extends string>(flag: string, value: string | undefined, allowed: readonly T[]): T | undefined => {
  if (value === undefined) return undefined;
  const found = allowed.find((each) => each === value);
  if (found === undefined) throw new UsageError(`--${flag} must be one of ${allowed.join(', ')}, not ${value}`);
  return found;
};

const count = (flag: string, value: string | undefined, least: number): number | undefined => {
  if (value === undefined) return undefined;
  const number = Number(value);
  if (!Number.isInteger(number) || number < least)
    throw new UsageError(`--${flag} must be a whole number of at least ${least}, not ${value}`);
  return number;
};

const signalOf = (value: string | undefined): NodeJS.Signals | undefined =>
  value === undefined ? undefined : (`SIG${value.replace(/^SIG/, '')}` as NodeJS.Signals);

const agents: readonly AgentKind[] = ['keelson', 'upstream'];
const proxies: readonly ProxyKind[] = ['keelson', 'upstream'];
const proxyModes: readonly ProxyMode[] = ['nftables', 'iptables', 'ipvs'];
const runtimes: readonly RuntimeKind[] = ['containerd-1.6', 'containerd-2'];

/** Takes `--name NAME` out of arguments that are otherwise passed on untouched. */
const takeName = (args: readonly string[]): { name: string; rest: string[] } => {
  const [first, second, ...others] = args;
  if (first === '--name' && second !== undefined) return { name: second, rest: others };
  if (first?.startsWith('--name=')) return { name: first.slice('--name='.length), rest: args.slice(1) };
  return { name: 'lab', rest: [...args] };
};

/** Runs a command on our own terminal; resolves to its exit code. */
const foreground = (argv: readonly string[], env: Record<string, string> = {}): Promise<number> =>
  new Promise((resolve, reject) => {
    const [command = '', ...args] = argv;
    const child = spawn(command, args, { stdio: 'inherit', env: { ...process.env, ...env } });
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });

const commands: Record<string, (args: string[]) => Promise<number>> = {
  up: async (args) => {
    const { values } = parseArgs({
      args,
      options: {
        name: { type: 'string' },
        agent: { type: 'string' },
        nodes: { type: 'string' },
        zones: { type: 'string' },
        proxy: { type: 'string' },
        'proxy-mode': { type: 'string' },
        runtime: { type: 'string' },
        'ready-timeout': { type: 'string' },
        images: { type: 'string' },
        'no-registry': { type: 'boolean' },
        join: { type: 'boolean' },
        machines: { type: 'boolean' },
        reuse: { type: 'boolean' },
      },
    });
    const readySeconds = count('ready-timeout', values['ready-timeout'], 1);
    await startLab({
      name: values.name,
      agent: oneOf('agent', values.agent, agents),
      nodes: count('nodes', values.nodes, 1),
      zones: count('zones', values.zones, 0),
      proxy: oneOf('proxy', values.proxy, proxies),
      proxyMode: oneOf('proxy-mode', values['proxy-mode'], proxyModes),
      runtime: oneOf('runtime', values.runtime, runtimes),
      readyTimeoutMs: readySeconds === undefined ? undefined : readySeconds * 1000,
      images: values.images?.split(',').filter((image) => image !== ''),
      registry: values['no-registry'] !== true,
      join: values.join,
      machines: values.machines,
      reuse: values.reuse,
    });
    return 0;
  },
  down: async (args) => {
    const { values } = parseArgs({ args, options: { name: { type: 'string' }, all: { type: 'boolean' } } });
    for (const name of values.all === true ? labNames() : [values.name ?? 'lab']) await stopLab(name);
    return 0;
  },
  status: async (args) => {
    const { values } = parseArgs({ args, options: { name: { type: 'string' } } });
    const names = values.name === undefined ? labNames() : [values.name];
    console.log(names.length === 0 ? 'no lab: start one with test/lab up' : names.map((name) => labStatus(name)).join('\n'));
    return 0;
  },
  load: async (args) => {
    const { name, rest } = takeName(args);
    const [archive, ...more] = rest;
    if (archive === undefined || more.length > 0) throw new UsageError('load needs one archive');
    await loadImages(name, archive);
    return 0;
  },
  kubectl: async (args) => {
    const { name, rest } = takeName(args);
    const lab = openLab(name);
    if (lab.alone === true) throw new UsageError(`lab ${name} is a node without a cluster: see test/lab exec --name ${name} n1 …`);
    return foreground([...enter(lab, { network: 'cp' }), await ensureBinary('kubectl'), ...rest], {
      KUBECONFIG: labPaths(name).kubeconfig,
      KUBECACHEDIR: labPaths(name).kubectlCache,
    });
  },
  exec: async (args) => {
    const { name, rest } = takeName(args);
    const [where, ...command] = rest[0] === '--' ? rest.slice(1) : rest;
    if (where === undefined || command.length === 0)
      throw new UsageError('exec needs a place (cp, out or a node such as n1) and a command');
    return foreground([...enter(openLab(name), where === 'cp' || where === 'out' ? { network: where } : { node: where }), ...command]);
  },
  logs: async (args) => {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { name: { type: 'string' }, follow: { type: 'boolean', short: 'f' } },
    });
    const folder = labPaths(values.name ?? 'lab').logs;
    const files = existsSync(folder) ? readdirSync(folder) : [];
    const [component] = positionals;
    const file = `${component?.replaceAll('/', '-')}.log`;
    if (component === undefined || !files.includes(file)) {
      console.log(
        `${component === undefined ? 'logs' : `no log of ${component}`}; there are: ${files.map((each) => each.replace(/\.log$/, '')).join(', ') || 'none'}`,
      );
      return component === undefined ? 0 : 1;
    }
    return foreground(values.follow === true ? ['tail', '-n', '100', '-f', join(folder, file)] : ['cat', join(folder, file)]);
  },
  parity: async (args) => {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { name: { type: 'string' }, only: { type: 'string' }, width: { type: 'string' }, keep: { type: 'boolean' } },
    });
    if (positionals.length !== 1 || positionals[0] !== 'pods') throw new UsageError('parity compares pods: test/lab parity pods');
    const { runParity } = await import('../parity/run.ts');
    return runParity({
      name: values.name ?? 'parity',
      only: values.only,
      width: count('width', values.width, 1) ?? 12,
      keep: values.keep === true,
    });
  },
  e2e: async (args) => {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        name: { type: 'string' },
        agent: { type: 'string' },
        proxy: { type: 'string' },
        procs: { type: 'string' },
        nodes: { type: 'string' },
        runtime: { type: 'string' },
        only: { type: 'string' },
        unsettled: { type: 'boolean' },
        record: { type: 'boolean' },
      },
    });
    const [what, ...more] = positionals;
    if (what === undefined || more.length > 0) throw new UsageError('e2e needs one suite name or regex (quote it)');
    const { runE2e } = await import('./e2e.ts');
    return runE2e({
      what,
      name: values.name ?? 'lab',
      agent: oneOf('agent', values.agent, agents),
      proxy: oneOf('proxy', values.proxy, proxies),
      procs: count('procs', values.procs, 1),
      nodes: count('nodes', values.nodes, 1),
      runtime: oneOf('runtime', values.runtime, runtimes),
      only: values.only,
      unsettled: values.unsettled,
      record: values.record,
    });
  },
};

const restarts = {
  'restart-agent': restartAgent,
  'restart-proxy': restartProxy,
  'restart-runtime': restartRuntime,
  'restart-apiserver': restartApiserver,
};
for (const [command, work] of Object.entries(restarts))
  commands[command] = async (args) => {
    const { values } = parseArgs({ args, options: { name: { type: 'string' }, node: { type: 'string' }, signal: { type: 'string' } } });
    await work(values.name ?? 'lab', { node: values.node, signal: signalOf(values.signal) });
    return 0;
  };

const [name = 'help', ...args] = process.argv.slice(2);
try {
  const command = commands[name];
  if (command !== undefined) process.exitCode = await command(args);
  else {
    console.log(help);
    process.exitCode = name === 'help' || name === '--help' ? 0 : 2;
  }
} catch (error) {
  const usage =
    error instanceof UsageError || (error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS'));
  console.error(`test/lab ${name}: ${error instanceof Error ? error.message : error}`);
  if (usage) console.error('see test/lab help');
  process.exitCode = usage ? 2 : 1;
}
