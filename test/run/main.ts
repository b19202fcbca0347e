// `./keelson test`: every check and test in order, one heavy thing at a time, ending with one line that sums them up. On a fresh machine it installs and
// builds what they need first.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, globSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { cgroupProcs, makeCgroup, processesIn, removeCgroup } from '../testbed/cgroups.ts';
import { stopLab } from '../testbed/lab.ts';
import { labNames } from '../testbed/record.ts';
import { stopVm, vmNames } from '../testbed/vm.ts';
import { addSums, nothing, type Outcome, parseSum, readLines, type Sum, sumOf, sumText } from './outcomes.ts';

const repository = resolve(import.meta.dirname, '../..');
const minute = 60_000;
// A cold run is done in an hour; whoever runs this gives it ninety minutes, and the sum has to be out before.
const wholeLimit = 85 * minute;

type Step =
  /** A command that passes or fails as one. */
  | { readonly check: string; readonly argv: readonly string[] }
  /** Files for node:test, several at a time; no such file is nothing to do. */
  | { readonly tests: string; readonly concurrency: number }
  /** The same one by one: a file that does not end within its limit fails, and the next gets its turn. */
  | { readonly tests: string; readonly fileLimitMs: number }
  /** A suite of test/e2e/suites: all its specs have to pass. */
  | { readonly suite: string };

interface Stage {
  readonly name: string;
  readonly says: string;
  /** Whether prepare.ts has something to install for it. */
  readonly prepared: boolean;
  /** A hang fails the stage, and what comes after still gets its turn. */
  readonly limitMs: number;
  /** Only when it is asked for by name. */
  readonly onRequest?: true;
  readonly steps: readonly Step[];
}

const bin = (name: string): string => join(repository, 'node_modules/.bin', name);

const stages: readonly Stage[] = [
  {
    name: 'check',
    says: 'types, format and lint, unused code, architecture',
    prepared: false,
    limitMs: 5 * minute,
    steps: [
      { check: 'types (tsc)', argv: [bin('tsc'), '--noEmit'] },
      { check: 'format and lint (biome)', argv: [bin('biome'), 'check', '--error-on-warnings', '.'] },
      { check: 'unused code (knip)', argv: [bin('knip'), '--no-progress'] },
      { tests: 'test/architecture.test.ts', concurrency: 1 },
    ],
  },
  {
    name: 'unit',
    says: 'unit tests',
    prepared: true,
    limitMs: 10 * minute,
    steps: [{ tests: 'test/unit/**/*.test.ts', concurrency: 2 }],
  },
  {
    name: 'proxy',
    says: 'Services by packets between network namespaces',
    prepared: true,
    limitMs: 5 * minute,
    steps: [{ tests: 'test/proxy/*.test.ts', fileLimitMs: 3 * minute }],
  },
  {
    name: 'containerd',
    says: 'tests on real containerds',
    prepared: true,
    limitMs: 20 * minute,
    steps: [{ tests: 'test/containerd/*.test.ts', fileLimitMs: 8 * minute }],
  },
  {
    name: 'cluster',
    says: 'tests on a real control plane',
    prepared: true,
    limitMs: 30 * minute,
    steps: [{ tests: 'test/cluster/*.test.ts', fileLimitMs: 15 * minute }],
  },
  {
    name: 'e2e',
    says: 'upstream e2e specs on a lab with our node',
    prepared: true,
    limitMs: 40 * minute,
    steps: [{ suite: 'smoke' }, { suite: 'node-conformance-fast' }],
  },
  {
    name: 'vm',
    says: 'cgroup v2, systemd and swap in an emulated machine, beside upstream (only when asked for)',
    prepared: true,
    limitMs: 75 * minute,
    // An emulated CPU is more than ten times slower than a real one.
    onRequest: true,
    steps: [{ tests: 'test/vm/*.test.ts', fileLimitMs: 40 * minute }],
  },
];

// Builds of Kubernetes are the longest thing of a cold run: the API server alone takes minutes on two cores.
const prepareLimit = 40 * minute;

const help = `usage: ./keelson test [--only STAGE[,STAGE]] [--suite NAME]

Runs every check and test, installing and building first what they need, and ends with "N passed, N failed, N skipped".

stages: ${stages.map(({ name, says }) => `${name.padEnd(11)} ${says}`).join('\n        ')}

--suite  the suite of test/e2e/suites for the e2e stage (default: smoke and node-conformance-fast)
`;

// ------------------------------------------------------------------------------------------------------------------ running commands

interface Ended {
  readonly code: number;
  readonly output: string;
  /** Why it was cut short. */
  readonly cut?: string | undefined;
}

let interrupted: NodeJS.Signals | undefined;
let current: ChildProcess | undefined;
const startedAt = performance.now();
const since = (from: number): string => {
  const seconds = Math.round((performance.now() - from) / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
};
const print = (line: string): void => void process.stdout.write(`${line}\n`);

const isRoot = process.getuid?.() === 0;
const cgroup = `/keelson-test-${process.pid}`;
const labName = `ci${process.pid}`;

/** Runs a command in the run's cgroup, its output shown and kept; after `limitMs` it is ended, TERM first. */
function run(argv: readonly string[], limitMs: number, env: Record<string, string> = {}): Promise<Ended> {
  return new Promise((settle, reject) => {
    const procs = isRoot ? cgroupProcs(cgroup) : [];
    const script = 'for f in $KEELSON_CGROUP; do echo 0 > "$f" || exit 1; done; unset KEELSON_CGROUP; exec "$@"';
    const child = spawn('sh', ['-c', script, 'sh', ...argv], {
      cwd: repository,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env, KEELSON_CGROUP: procs.join(' ') },
    });
    current = child;
    let output = '';
    let cut: string | undefined;
    const end = (why: string): void => {
      cut ??= why;
      child.kill('SIGTERM');
      setTimeout(() => child.kill('SIGKILL'), 20_000).unref();
    };
    const from = performance.now();
    let heardAt = from;
    const ticker = setInterval(() => {
      if (performance.now() - heardAt >= minute) print(`  … still running (${since(from)})`);
    }, minute);
    const limit = setTimeout(() => end(`it took longer than ${Math.round(limitMs / minute)} min`), limitMs);
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => {
        heardAt = performance.now();
        process.stdout.write(chunk);
        output += chunk.toString();
      });
    child.on('error', reject);
    child.on('exit', () => {
      clearTimeout(limit);
      clearInterval(ticker);
      // A stray that holds our pipe must not hold us: what it could still say was not asked for.
      setTimeout(() => {
        child.stdout.destroy();
        child.stderr.destroy();
      }, 5000).unref();
    });
    child.on('close', (code) => {
      current = undefined;
      settle({ code: code ?? 1, output, cut: interrupted ?? cut });
    });
  });
}

const failure = (name: string, message: string): Outcome => ({ kind: 'failed', name, file: '', message, seconds: 0 });

interface Result {
  readonly sum: Sum;
  readonly failures: readonly Outcome[];
  readonly skips: readonly Outcome[];
}

const resultOf = (outcomes: readonly Outcome[]): Result => ({
  sum: sumOf(outcomes),
  failures: outcomes.filter(({ kind }) => kind === 'failed'),
  skips: outcomes.filter(({ kind }) => kind === 'skipped'),
});

// ------------------------------------------------------------------------------------------------------------------ kinds of steps

async function runCheck(name: string, argv: readonly string[], limitMs: number): Promise<Result> {
  const from = performance.now();
  const { code, cut } = await run(argv, limitMs);
  if (code === 0 && cut === undefined) print(`  ${name}: passed (${since(from)})`);
  return resultOf([
    code === 0 && cut === undefined
      ? { kind: 'passed', name, file: '', message: '', seconds: 0 }
      : failure(name, cut ?? `exit code ${code}, see above`),
  ]);
}

const filesOf = (pattern: string): string[] => globSync(pattern, { cwd: repository }).sort();

async function runTests(what: string, files: readonly string[], concurrency: number, limitMs: number, folder: string): Promise<Result> {
  if (files.length === 0) return resultOf([]);
  const outcomesFile = join(folder, 'outcomes.jsonl');
  rmSync(outcomesFile, { force: true });
  const { code, cut } = await run(
    [
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      '--test',
      `--test-concurrency=${concurrency}`,
      `--test-reporter=${join(repository, 'test/run/reporter.ts')}`,
      ...files,
    ],
    limitMs,
    { KEELSON_TEST_OUTCOMES: outcomesFile },
  );
  const { outcomes, unfinished } = readLines(existsSync(outcomesFile) ? readFileSync(outcomesFile, 'utf8') : '');
  const all = [...outcomes];
  if (cut !== undefined) all.push(failure(what, `${cut}; not finished: ${unfinished.join(', ') || 'nothing'}`));
  else if (outcomes.length === 0) all.push(failure(what, `no test was run (exit code ${code})`));
  else if (code !== 0 && sumOf(outcomes).failed === 0) all.push(failure(what, `the test runner ended with exit code ${code}`));
  return resultOf(all);
}

async function runSuite(suite: string, limitMs: number): Promise<Result> {
  const lab = [process.execPath, '--disable-warning=ExperimentalWarning', join(repository, 'test/testbed/main.ts')];
  try {
    const { code, output, cut } = await run([...lab, 'e2e', suite, '--agent', 'keelson', '--name', labName], limitMs);
    const sum = parseSum(output);
    const failures = [...output.matchAll(/^FAILED (.*)$/gm)].map((match) => failure(match[1] ?? '', ''));
    const trouble =
      cut ??
      (sum === undefined
        ? `no sum (exit code ${code}), see above`
        : code !== 0 && sum.failed === 0
          ? `exit code ${code}, see above`
          : undefined);
    if (trouble === undefined) return { sum: sum ?? nothing, failures, skips: [] };
    return {
      sum: addSums(sum ?? nothing, { ...nothing, failed: 1 }),
      failures: [...failures, failure(`e2e ${suite}`, trouble)],
      skips: [],
    };
  } finally {
    await stopLab(labName);
  }
}

/** Ends what a step has left running; resolves to a line for each such process. */
async function sweep(): Promise<string[]> {
  if (!isRoot) return [];
  const strays = processesIn(cgroup).map((pid) => {
    try {
      return `${pid} ${readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').slice(0, 120)}`;
    } catch {
      return String(pid); // it has just ended
    }
  });
  await removeCgroup(cgroup);
  // Network namespaces of private containerds are named after the process that made them.
  const namespaces = existsSync('/run/netns') ? readdirSync('/run/netns') : [];
  for (const name of namespaces) {
    const pid = /^kt-.*-(\d+)-[12]$/.exec(name)?.[1];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    await removeCgroup(`/${name}`);
    await new Promise<void>((done) => spawn('ip', ['netns', 'del', name], { stdio: 'inherit' }).on('close', () => done()));
    strays.push(`network namespace ${name}`);
  }
  // So are the labs of tests, which are in cgroups of their own.
  for (const name of labNames()) {
    const pid = /^[a-z]+-(\d+)$/.exec(name)?.[1];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    await stopLab(name);
    strays.push(`lab ${name}`);
  }
  for (const name of vmNames()) {
    const pid = /^[a-z]+-(\d+)$/.exec(name)?.[1];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    await stopVm(name);
    strays.push(`virtual machine ${name}`);
  }
  return strays;
}

// ------------------------------------------------------------------------------------------------------------------ the run

async function runStage(stage: Stage, folder: string): Promise<Result> {
  const remaining = (): number => Math.max(0, wholeLimit - (performance.now() - startedAt));
  const results: Result[] = [];
  if (isRoot) await makeCgroup(cgroup);
  if (stage.prepared) {
    const from = performance.now();
    const prepare = [process.execPath, '--disable-warning=ExperimentalWarning', join(repository, 'test/run/prepare.ts'), stage.name];
    const { code, cut } = await run(prepare, Math.min(prepareLimit, remaining()));
    if (performance.now() - from > 5000) print(`  what it needs is there (${since(from)})`);
    if (code !== 0 || cut !== undefined) return resultOf([failure(`what ${stage.name} needs`, cut ?? `exit code ${code}, see above`)]);
  }
  const until = performance.now() + stage.limitMs;
  for (const step of stage.steps) {
    const limitMs = Math.min(until - performance.now(), remaining());
    if (limitMs <= 0 || interrupted !== undefined)
      results.push(resultOf([failure(JSON.stringify(step), interrupted ?? 'no time was left to run it')]));
    else if ('check' in step) results.push(await runCheck(step.check, step.argv, limitMs));
    else if ('concurrency' in step) results.push(await runTests(step.tests, filesOf(step.tests), step.concurrency, limitMs, folder));
    else if ('tests' in step)
      for (const file of filesOf(step.tests)) {
        const left = Math.min(step.fileLimitMs, until - performance.now(), remaining());
        results.push(
          left <= 0 || interrupted !== undefined
            ? resultOf([failure(file, interrupted ?? 'no time was left to run it')])
            : await runTests(file, [file], 1, left, folder),
        );
      }
    else results.push(await runSuite(step.suite, limitMs));
  }
  return {
    sum: results.reduce((sum, result) => addSums(sum, result.sum), nothing),
    failures: results.flatMap((result) => result.failures),
    skips: results.flatMap((result) => result.skips),
  };
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { only: { type: 'string' }, suite: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return 0;
  }
  const wanted = values.only?.split(',');
  const unknown = wanted?.find((name) => !stages.some((stage) => stage.name === name));
  if (unknown !== undefined) throw new Error(`no stage is called "${unknown}": ${stages.map(({ name }) => name).join(', ')}`);
  const chosen = stages
    .filter(({ name, onRequest }) => wanted?.includes(name) ?? onRequest !== true)
    .map((stage) => (values.suite === undefined || stage.name !== 'e2e' ? stage : { ...stage, steps: [{ suite: values.suite }] }));
  if (!isRoot && chosen.some(({ name }) => name !== 'check' && name !== 'unit'))
    throw new Error(
      'tests on real containerds and clusters make network namespaces and mounts: run this as root, or with --only check,unit',
    );

  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => {
      interrupted = signal;
      current?.kill('SIGTERM');
    });

  const folder = mkdtempSync(join(tmpdir(), 'keelson-test-'));
  const table: { stage: string; took: string; result: Result }[] = [];
  try {
    for (const stage of chosen) {
      if (interrupted !== undefined) break;
      print(`\n== ${stage.name}: ${stage.says}`);
      const from = performance.now();
      let result: Result;
      try {
        result = await runStage(stage, folder);
      } catch (error) {
        result = resultOf([failure(stage.name, error instanceof Error ? (error.stack ?? error.message) : String(error))]);
      }
      const strays = await sweep();
      if (strays.length > 0) print(`  ended what the stage had left behind:\n    ${strays.join('\n    ')}`);
      print(`== ${stage.name}: ${sumText(result.sum)} (${since(from)})`);
      table.push({ stage: stage.name, took: since(from), result });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }

  const failures = table.flatMap(({ stage, result }) => result.failures.map((each) => ({ stage, ...each })));
  const skips = table.flatMap(({ stage, result }) => result.skips.map((each) => ({ stage, ...each })));
  print('');
  for (const { stage, file, name, message } of skips) print(`skipped ${stage} ${file} ${name}${message === '' ? '' : `: ${message}`}`);
  for (const { stage, file, name, message } of failures)
    print(`FAILED ${stage} ${file} ${name}${message === '' ? '' : `: ${message.split('\n')[0]}`}`);
  for (const { stage, took, result } of table) print(`${stage.padEnd(11)} ${took.padStart(12)}   ${sumText(result.sum)}`);
  print(`${'all'.padEnd(11)} ${since(startedAt).padStart(12)}`);
  let sum = table.reduce((total, { result }) => addSums(total, result.sum), nothing);
  if (interrupted !== undefined) {
    print(`interrupted by ${interrupted}`);
    sum = addSums(sum, { ...nothing, failed: sum.failed === 0 ? 1 : 0 });
  }
  print(sumText(sum));
  return sum.failed === 0 && sum.passed > 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`error: ${error instanceof Error ? error.message : error}\n\n${help}`);
  process.exitCode = 2;
}
