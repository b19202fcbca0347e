// Pure parts of running the upstream e2e suite: which specs a suite names, and what a run of them means.
import type { ProxyMode } from './record.ts';

/** test/e2e/suites/NAME.json. Entries are full spec names, or regexes between slashes. */
export type Suite = {
  description: string;
  /** The suite for a node by itself (test/e2e_node) instead of the one for clusters (test/e2e): those of its specs that the other has not. */
  node?: boolean;
  focus: string[];
  skip?: string[];
  /** Nodes the suite needs; default 1. */
  nodes?: number;
  zones?: number;
  /** How Services are made in the lab; default: any way. */
  proxyMode?: ProxyMode;
  /** Nodes need a login by ssh and a journal. */
  machines?: boolean;
  /** Specs at a time; default 12. */
  procs?: number;
};

/** One line of test/e2e/exclusions.json: a spec that upstream itself can't pass on the machines the lab runs on. */
export type Exclusion = { spec: string; reason: string };

/** Spec names out of what `e2e.test --list-tests` prints: "    FILE:LINE: NAME"; those of files in `folder` alone, when given. */
export const parseSpecList = (text: string, folder?: string): string[] =>
  text.split('\n').flatMap((line) => {
    const [, file = '', name] = /^\s+(\S+):\d+: (.*)$/.exec(line) ?? [];
    return name === undefined || (folder !== undefined && !file.includes(`/${folder}/`)) ? [] : [name];
  });

const matcher = (entry: string): ((name: string) => boolean) => {
  const regex = /^\/(.*)\/$/.exec(entry)?.[1];
  if (regex === undefined) return (name) => name === entry;
  const compiled = new RegExp(regex);
  return (name) => compiled.test(name);
};

/** The specs of a suite, in the order of `all`. An entry that names no spec throws: upstream has renamed it, or it is misspelt. */
export const selectSpecs = (suite: Suite, all: readonly string[]): string[] => {
  const skips = (suite.skip ?? []).map(matcher);
  const chosen = new Set<string>();
  for (const entry of suite.focus) {
    const found = all.filter(matcher(entry));
    if (found.length === 0) throw new Error(`no spec of the e2e suite matches ${entry}`);
    for (const name of found) if (!skips.some((skip) => skip(name))) chosen.add(name);
  }
  return all.filter((name) => chosen.has(name));
};

/** The part of ginkgo's JSON report that we read (ginkgo v2, types/types.go). Times are nanoseconds. */
export type SpecReport = {
  ContainerHierarchyTexts: string[] | null;
  LeafNodeType: string;
  LeafNodeText: string;
  State: string;
  RunTime: number;
  Failure?: { Message: string };
};

export type SpecResult = { name: string; state: 'passed' | 'failed' | 'skipped'; seconds: number; message: string };

const resultOf = (name: string, report: SpecReport | undefined): SpecResult => {
  if (report === undefined) return { name, state: 'failed', seconds: 0, message: 'the run ended without it' };
  const state = report.State === 'passed' ? 'passed' : report.State === 'skipped' || report.State === 'pending' ? 'skipped' : 'failed';
  return { name, state, seconds: report.RunTime / 1e9, message: report.Failure?.Message ?? (state === 'failed' ? report.State : '') };
};

/** The result of each chosen spec. */
export const resultsOf = (chosen: readonly string[], reports: readonly SpecReport[]): SpecResult[] => {
  const byName = new Map<string, SpecReport>();
  for (const report of reports) {
    if (report.LeafNodeType !== 'It') continue;
    byName.set([...(report.ContainerHierarchyTexts ?? []), report.LeafNodeText].filter((text) => text !== '').join(' '), report);
  }
  return chosen.map((name) => resultOf(name, byName.get(name)));
};

/** Failures outside specs, such as of the suite's set-up, after which nothing runs. */
export const suiteFailures = (reports: readonly SpecReport[]): string[] =>
  reports
    .filter(
      (report) => report.LeafNodeType !== 'It' && report.Failure !== undefined && report.State !== 'passed' && report.State !== 'skipped',
    )
    .map((report) => `${report.LeafNodeType}: ${report.Failure?.Message}`);

export type Verdict = {
  passed: string[];
  /** In a suite a spec that skips itself has failed: the lab is there to supply what it wants. */
  failed: SpecResult[];
  skipped: SpecResult[];
  /** Specs of the pass list that did not pass. */
  regressions: string[];
  /** Specs that pass and are not in the pass list yet. */
  gains: string[];
};

/** `passList` is undefined when there is none: then every failure counts. */
export const judge = (results: readonly SpecResult[], options: { isSuite: boolean; passList: readonly string[] | undefined }): Verdict => {
  const passed = results.filter(({ state }) => state === 'passed').map(({ name }) => name);
  const failed = results.filter(({ state }) => state === 'failed' || (state === 'skipped' && options.isSuite));
  const skipped = results.filter(({ state }) => state === 'skipped' && !options.isSuite);
  const has = new Set(passed);
  const must = options.passList ?? failed.map(({ name }) => name);
  const listed = new Set(options.passList ?? passed);
  return { passed, failed, skipped, regressions: must.filter((name) => !has.has(name)), gains: passed.filter((name) => !listed.has(name)) };
};

/** How often upstream's node passed a spec here, of how many runs. */
export type Tally = { passed: number; runs: number };

/** Tallies by spec name out of test/e2e/upstream-runs.tsv: "PASSED<tab>RUNS<tab>SPEC" a line, under a line of headings. */
export const parseTallies = (text: string): Map<string, Tally> =>
  new Map(
    text
      .split('\n')
      .slice(1)
      .filter((line) => line !== '')
      .map((line) => {
        const [passed = '', runs = '', ...spec] = line.split('\t');
        if (!/^\d+$/.test(passed) || !/^\d+$/.test(runs) || spec.length !== 1) throw new Error(`not a line of tallies: ${line}`);
        return [spec.join(''), { passed: Number(passed), runs: Number(runs) }];
      }),
  );

/** What `parseTallies` reads, in the order of names. */
export const formatTallies = (tallies: ReadonlyMap<string, Tally>): string =>
  [
    'passed\truns\tspec',
    ...[...tallies].sort(([a], [b]) => (a < b ? -1 : 1)).map(([spec, { passed, runs }]) => `${passed}\t${runs}\t${spec}`),
    '',
  ].join('\n');

/** The tallies after one more run of upstream. A spec that the run's end cut off (no time spent in it) was not run. */
export const tallied = (tallies: ReadonlyMap<string, Tally>, results: readonly SpecResult[]): Map<string, Tally> => {
  const sums = new Map(tallies);
  for (const { name, state, seconds } of results) {
    if (state === 'failed' && seconds === 0) continue;
    const { passed, runs } = sums.get(name) ?? { passed: 0, runs: 0 };
    sums.set(name, { passed: passed + (state === 'passed' ? 1 : 0), runs: runs + 1 });
  }
  return sums;
};

/** Whether upstream passes a spec: in at least two of three runs. */
export const passesSteadily = (tally: Tally | undefined): boolean =>
  tally !== undefined && tally.passed >= 2 && tally.passed * 3 >= tally.runs * 2;

/** Whether more runs would hardly say more: passed steadily, or failed twice. */
export const isSettled = (tally: Tally | undefined): boolean =>
  tally !== undefined && (passesSteadily(tally) || tally.runs - tally.passed >= 2);
