// Runs the upstream e2e suite against a lab, in parallel, from outside the nodes.
import { spawn } from 'node:child_process';
import { cpSync, createWriteStream, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ensureBinary } from './binaries.ts';
import { cgroupProcs, makeCgroup, processesIn } from './cgroups.ts';
import { type Harness, nodeSuite, startLoneNode } from './e2e-node.ts';
import {
  type Exclusion,
  formatTallies,
  isSettled,
  judge,
  parseSpecList,
  parseTallies,
  passesSteadily,
  resultsOf,
  type SpecReport,
  type Suite,
  selectSpecs,
  suiteFailures,
  type Tally,
  tallied,
} from './e2e-report.ts';
import { run, say } from './images-debian.ts';
import { labState, startLab } from './lab.ts';
import { ensureMachineTools, sshEnvironment, suiteBinds } from './machine.ts';
import { type AgentKind, bootId, componentCgroup, enter, type LabRecord, labPaths, type ProxyKind } from './record.ts';
import type { RuntimeKind } from './runtimes.ts';

const folder = resolve(import.meta.dirname, '../e2e');

export type E2eOptions = {
  /** A suite's name, or a regex on full spec names. */
  what: string;
  /** The lab's name; it is started when it is not up, or when it has another agent than asked for. */
  name: string;
  agent?: AgentKind | undefined;
  proxy?: ProxyKind | undefined;
  /** ginkgo processes; they mostly wait. Default 12. */
  procs?: number | undefined;
  nodes?: number | undefined;
  runtime?: RuntimeKind | undefined;
  /** Of a suite only the specs whose full name matches this regex. */
  only?: string | undefined;
  /** Of a suite only the specs that upstream has neither passed nor failed twice here. */
  unsettled?: boolean | undefined;
  /** Counts the results in test/e2e/upstream-runs.tsv, and adds what upstream has passed in two of three runs to the suite's pass list. */
  record?: boolean | undefined;
};

const readSuite = (what: string): Suite | undefined => {
  const file = join(folder, 'suites', `${what}.json`);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Suite) : undefined;
};

const passFile = (what: string): string => join(folder, 'passes', `${what}.txt`);

const readPasses = (what: string): string[] | undefined =>
  existsSync(passFile(what))
    ? readFileSync(passFile(what), 'utf8')
        .split('\n')
        .filter((line) => line !== '')
    : undefined;

const tallyFile = join(folder, 'upstream-runs.tsv');

const readTallies = (): Map<string, Tally> => parseTallies(existsSync(tallyFile) ? readFileSync(tallyFile, 'utf8') : '');

const suitableLab = async (options: E2eOptions, suite: Suite | undefined): Promise<LabRecord> => {
  const lab = labState(options.name);
  const nodes = options.nodes ?? suite?.nodes;
  const fits =
    lab?.complete === true &&
    lab.alone !== true &&
    lab.bootId === bootId() &&
    (options.agent === undefined || lab.agent === options.agent) &&
    (options.runtime === undefined || lab.runtime === options.runtime) &&
    (options.proxy === undefined || (lab.proxy ?? 'upstream') === options.proxy) &&
    (nodes === undefined || lab.nodes.length === nodes) &&
    (suite?.zones === undefined || new Set(lab.nodes.map(({ zone }) => zone)).size === suite.zones) &&
    (suite?.proxyMode === undefined || lab.proxyMode === suite.proxyMode) &&
    (suite?.machines !== true || lab.machines === true);
  if (fits) return lab;
  const agent = options.agent ?? lab?.agent;
  return startLab({
    name: options.name,
    agent,
    nodes,
    zones: suite?.zones,
    runtime: options.runtime ?? lab?.runtime,
    proxy: options.proxy ?? lab?.proxy,
    proxyMode: suite?.proxyMode ?? lab?.proxyMode,
    machines: suite === undefined || suite.machines === true,
  });
};

/** How to run the suite for clusters, from beyond the nodes. */
const clusterSuite = async (lab: LabRecord, reports: string): Promise<Harness> => {
  const paths = labPaths(lab.name);
  const tools = await ensureMachineTools();
  const mounts = suiteBinds(lab).flatMap(({ from, to }) => [from, to]);
  const script = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"';
  return {
    prefix: [...enter(lab, { network: 'out' }), 'unshare', '--mount', 'sh', '-c', script, 'sh', ...mounts, '--'],
    binary: await ensureBinary('e2e.test'),
    args: [
      // A cluster of no provider, in which nodes can be logged in to.
      '--provider=local',
      `--kubeconfig=${paths.kubeconfig}`,
      `--kubectl-path=${await ensureBinary('kubectl')}`,
      '--node-os-distro=debian',
      `--num-nodes=${lab.nodes.length}`,
      `--dns-domain=cluster.local`,
      `--e2e-output-dir=${reports}`,
    ],
    env: { KUBECACHEDIR: paths.kubectlCache, PATH: `${tools}:${process.env.PATH}`, ...sshEnvironment(lab) },
    cgroup: componentCgroup(lab, { network: 'out' }, 'e2e'),
  };
};

const escapeRegex = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** Runs a suite or a regex; prints failures and ends with "N passed, N failed, N skipped". Resolves to the exit code: 0 when all that must pass passes. */
export const runE2e = async (options: E2eOptions): Promise<number> => {
  const named = readSuite(options.what);
  const suite: Suite = named ?? { description: options.what, focus: [`/${options.what}/`] };
  const ginkgoBinary = await ensureBinary('ginkgo');
  const all =
    suite.node === true
      ? parseSpecList(await run(await ensureBinary('e2e_node.test'), ['--list-tests']), 'e2e_node')
      : parseSpecList(await run(await ensureBinary('e2e.test'), ['--list-tests']));
  const only = options.only === undefined ? undefined : new RegExp(options.only);
  const tallies = readTallies();
  const isWanted = (name: string): boolean => (only?.test(name) ?? true) && !(options.unsettled === true && isSettled(tallies.get(name)));
  const whole = selectSpecs(suite, all);
  const selected = whole.filter(isWanted);
  if (selected.length === 0) throw new Error(`no spec of "${options.what}" is left to run`);
  const exclusions = (JSON.parse(readFileSync(join(folder, 'exclusions.json'), 'utf8')) as Exclusion[]).filter(({ spec }) =>
    selected.includes(spec),
  );
  const chosen = selected.filter((name) => !exclusions.some(({ spec }) => spec === name));
  const lab = suite.node === true ? await startLoneNode(options) : await suitableLab(options, named);
  if (options.record === true && (named === undefined || lab.agent !== 'upstream'))
    throw new Error('--record keeps what upstream passes of a named suite: run it with a suite and --agent upstream');

  const reports = join(folder, 'reports', `${options.name}-${options.what.replaceAll(/[^A-Za-z0-9-]+/g, '_').slice(0, 60)}-${lab.agent}`);
  rmSync(reports, { recursive: true, force: true });
  mkdirSync(reports, { recursive: true });
  const procs = Math.max(1, Math.min(options.procs ?? suite.procs ?? 12, chosen.length));
  say(`${chosen.length} specs of "${options.what}" with agent ${lab.agent}, ${procs} at a time; reports in ${reports}`);
  const harness = suite.node === true ? await nodeSuite(lab, reports) : await clusterSuite(lab, reports);
  const ginkgo = [
    ginkgoBinary,
    'run',
    `--procs=${procs}`,
    '--timeout=3h',
    '--no-color',
    '--junit-report=junit.xml',
    '--json-report=report.json',
    `--output-dir=${reports}`,
    // ginkgo matches a spec's text with something in front of it: the end is what can be anchored.
    ...chosen.map((name) => `--focus=${escapeRegex(name)}$`),
    harness.binary,
    '--',
    ...harness.args,
  ];
  // In the lab's cgroup, so that what is left of an interrupted run ends with the lab.
  await makeCgroup(harness.cgroup);
  const joinCgroup = ['sh', '-c', 'for f in $LAB_CGROUP_PROCS; do echo 0 > "$f" || exit 1; done; unset LAB_CGROUP_PROCS; exec "$@"', 'sh'];
  const env = { LAB_CGROUP_PROCS: cgroupProcs(harness.cgroup).join(' '), ...harness.env };
  const interrupt = (): void => {
    // As a terminal would, all that run specs: ginkgo passes nothing on, nor does what has entered a node's namespaces. SIGTERM counts as SIGINT, and is
    // never ignored, as SIGINT is in what a shell has put into the background.
    for (const pid of processesIn(harness.cgroup)) if (runsSpecs(pid)) process.kill(pid, 'SIGTERM');
  };
  await runWithProgress([...joinCgroup, ...harness.prefix, ...ginkgo], env, join(reports, 'ginkgo.log'), chosen.length, interrupt);

  const reportFile = join(reports, 'report.json');
  if (!existsSync(reportFile)) {
    const log = readFileSync(join(reports, 'ginkgo.log'), 'utf8').trim().split('\n').slice(-30).join('\n');
    throw new Error(`the e2e suite wrote no report; the end of its log:\n${log}`);
  }
  const specReports = (JSON.parse(readFileSync(reportFile, 'utf8')) as { SpecReports: SpecReport[] | null }[]).flatMap(
    (each) => each.SpecReports ?? [],
  );
  const results = resultsOf(chosen, specReports);
  const listed = named === undefined ? undefined : readPasses(options.what);
  const isWhole = only === undefined && options.unsettled !== true;
  const passList = isWhole ? listed : listed?.filter((name) => selected.includes(name));
  const verdict = judge(results, { isSuite: named !== undefined, passList });
  for (const failure of suiteFailures(specReports)) console.log(`OUTSIDE SPECS ${indent(failure)}`);
  for (const { name, state, message, seconds } of verdict.failed)
    console.log(`FAILED ${name} (${state}, ${seconds.toFixed(1)} s)\n${indent(message)}`);
  for (const { spec, reason } of exclusions) console.log(`EXCLUDED ${spec}: ${reason}`);
  if (options.record === true) {
    const counted = tallied(readTallies(), results);
    writeFileSync(tallyFile, formatTallies(counted));
    const steady = whole.filter((name) => passesSteadily(counted.get(name)));
    const passes = [...new Set([...(readPasses(options.what) ?? []), ...steady])].sort();
    writeFileSync(passFile(options.what), `${passes.join('\n')}\n`);
  } else if (verdict.gains.length > 0) console.log(`${verdict.gains.length} specs pass that are not in ${passFile(options.what)} yet`);
  for (const name of verdict.regressions) console.log(`MUST PASS ${name}`);
  if (verdict.failed.length > 0) {
    // Logs go with the lab, and what failed once may not fail again.
    cpSync(labPaths(lab.name).logs, join(reports, 'lab-logs'), { recursive: true });
    say(`the lab's logs: ${join(reports, 'lab-logs')}`);
  }
  console.log(`${verdict.passed.length} passed, ${verdict.failed.length} failed, ${verdict.skipped.length + exclusions.length} skipped`);
  return verdict.regressions.length === 0 && verdict.passed.length > 0 ? 0 : 1;
};

/** Whether it is ginkgo or one of its processes; the etcd and API server that the suite for nodes starts of itself are needed until specs have cleaned up. */
const runsSpecs = (pid: number): boolean => {
  try {
    const [command = '', ...args] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    return /(^|\/)(ginkgo|e2e(_node)?\.test)$/.test(command) && !args.includes('--run-services-mode');
  } catch {
    return false; // ended meanwhile
  }
};

const indent = (text: string): string =>
  text
    .trim()
    .split('\n')
    .slice(0, 12)
    .map((line) => `    ${line.slice(0, 300)}`)
    .join('\n');

/** Runs ginkgo with its output in a file, telling now and then how many specs have ended. Failures are read from the report, so its exit code says nothing more. */
const runWithProgress = (
  argv: readonly string[],
  env: Record<string, string>,
  logFile: string,
  total: number,
  interrupt: () => void,
): Promise<void> =>
  new Promise((settle, reject) => {
    const [command = '', ...args] = argv;
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    const log = createWriteStream(logFile);
    const startedAt = performance.now();
    let ended = 0;
    let failed = 0;
    let told = '';
    const ticker = setInterval(() => {
      const now = `${ended} of ${total} specs ended${failed > 0 ? `, ${failed} failed` : ''}`;
      if (now !== told) say(`[${Math.round((performance.now() - startedAt) / 1000)} s] ${now}`);
      told = now;
    }, 15_000);
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => {
        log.write(chunk);
        // ginkgo prints a bullet for each spec that ran, followed by the state when it did not pass.
        const text = chunk.toString();
        ended += text.split('•').length - 1;
        failed += text.split('• [FAILED]').length - 1;
      });
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupt);
    child.on('error', reject);
    child.on('close', () => {
      clearInterval(ticker);
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.removeListener(signal, interrupt);
      log.end(() => settle());
    });
  });
