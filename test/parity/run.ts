// `test/lab parity pods`: the same pods on our node and on upstream's, at the same time, on the same kernel and runtime; what they tell must be alike.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { api } from '../testbed/control-plane.ts';
import { say } from '../testbed/images-debian.ts';
import { startLab, stopLab } from '../testbed/lab.ts';
import type { LabRecord } from '../testbed/record.ts';
import { type Case, isReached, type Until, untilText } from './case.ts';
import { type Acceptance, type Accepted, createAcceptance, type Difference, differences, printed } from './difference.ts';
import { linesOf } from './normalise.ts';
import { cases } from './pods/all.ts';
import { agnhost, busybox, nonroot } from './pods/parts.ts';
import { type LiveSide, openSide } from './side.ts';

export type ParityOptions = {
  /** Of the lab. */
  readonly name: string;
  /** Only the pods whose name matches; then no accepted line is called stale. */
  readonly only: string | undefined;
  /** How many pods are looked at at once, on each side. */
  readonly width: number;
  /** The lab is left running, and one that runs is used. */
  readonly keep: boolean;
};

const lookEveryMs = 150;
const stepMs = 120_000;
// How long two nodes may take to tell the same once both have got there.
const settleMs = 25_000;

type Sides = { readonly keelson: LiveSide; readonly upstream: LiveSide };

/** Runs the comparison; resolves to the exit code: 1 when something differs that is not accepted, or an accepted line is stale. */
export async function runParity(options: ParityOptions): Promise<number> {
  const accepted = JSON.parse(readFileSync(join(import.meta.dirname, 'accepted.json'), 'utf8')) as Accepted[];
  const acceptance = createAcceptance(accepted);
  const chosen = cases.filter(({ name }) => options.only === undefined || new RegExp(options.only).test(name));
  if (chosen.length === 0) throw new Error(`no pod of the table matches ${options.only}`);
  const startedAt = performance.now();
  const lab = await startLab({
    name: options.name,
    nodes: 2,
    agents: ['keelson', 'upstream'],
    images: [agnhost, busybox, nonroot],
    reuse: options.keep,
  });
  try {
    const [ours, theirs] = lab.nodes;
    if (ours === undefined || theirs === undefined) throw new Error('a comparison takes two nodes');
    await makeRuntimeClass(lab);
    // Of the same length, since some of what is told is cut at a length. A lab that is used again has those of earlier runs.
    const run = process.pid;
    await using keelson = await openSide(lab, ours, `parity-${run}-a`);
    await using upstream = await openSide(lab, theirs, `parity-${run}-b`);
    const sides = { keelson, upstream };
    const found = await compareAll(chosen, sides, acceptance, options.width);
    const ofNodes = differences('node', await nodeLines(keelson), await nodeLines(upstream));
    for (const each of ofNodes) if (!acceptance.accepts(each)) console.log(`node\n${printed(each)}`);
    found.push(...ofNodes);
    const seconds = Math.round((performance.now() - startedAt) / 1000);
    return report(found, acceptance, { pods: chosen.length, seconds, whole: options.only === undefined });
  } finally {
    if (!options.keep) await stopLab(options.name);
  }
}

async function makeRuntimeClass(lab: LabRecord): Promise<void> {
  const path = '/apis/node.k8s.io/v1/runtimeclasses';
  const { items } = await api<{ items: { metadata: { name: string } }[] }>(lab, path);
  if (items.some(({ metadata }) => metadata.name === 'parity-handler')) return;
  await api(lab, path, { method: 'POST', body: { metadata: { name: 'parity-handler' }, handler: 'no-such-handler' } });
}

const nodeLines = async (side: LiveSide): Promise<string[]> => linesOf({ pod: undefined, events: await side.nodeEvents() }, side);

async function compareAll(chosen: readonly Case[], sides: Sides, acceptance: Acceptance, width: number): Promise<Difference[]> {
  const found: Difference[] = [];
  const queue = [...chosen];
  let done = 0;
  const worker = async (): Promise<void> => {
    for (let one = queue.shift(); one !== undefined; one = queue.shift()) {
      const seen = await compareOne(one, sides, acceptance).catch((error: unknown): Difference[] => [
        // The API refuses the pod or a step: the table is wrong, and no line can make that right.
        { pod: one.name, only: 'upstream', line: `fault of the table: ${error instanceof Error ? error.message : error}` },
      ]);
      const open = seen.filter((each) => !acceptance.accepts(each));
      if (open.length > 0) console.log(`${one.name}\n${open.map(printed).join('\n')}`);
      found.push(...seen);
      if (++done % 25 === 0) say(`${done} of ${chosen.length} pods compared`);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return found;
}

async function compareOne(one: Case, sides: Sides, acceptance: Acceptance): Promise<Difference[]> {
  const both = [sides.keelson, sides.upstream];
  const missed = new Map<LiveSide, string[]>(both.map((side) => [side, []]));
  const reach = async (side: LiveSide, until: Until): Promise<void> => {
    if (!(await reached(side, one, until))) missed.get(side)?.push(`never reached: ${untilText(until)}`);
  };
  await Promise.all(
    both.map(async (side) => {
      await side.create(one);
      await reach(side, one.until ?? 'ready');
      for (const step of one.steps ?? []) {
        await side.act(one, step);
        await reach(side, step.until);
      }
    }),
  );
  const look = (): Difference[] => {
    const lines = (side: LiveSide): string[] => [...side.lines(one), ...(missed.get(side) ?? [])];
    return differences(one.name, lines(sides.keelson), lines(sides.upstream));
  };
  const giveUpAt = performance.now() + settleMs;
  let seen = look();
  while (seen.some((each) => !acceptance.accepts(each)) && performance.now() < giveUpAt) {
    await sleep(lookEveryMs);
    seen = look();
  }
  await Promise.all(both.map((side) => side.remove(one)));
  return seen;
}

async function reached(side: LiveSide, one: Case, until: Until): Promise<boolean> {
  const giveUpAt = performance.now() + stepMs;
  for (;;) {
    const { pod, events } = side.view(one);
    const isGone = side.isGone(one);
    if (pod !== undefined && isReached(until, isGone ? undefined : pod, events)) return true;
    if (performance.now() > giveUpAt) return false;
    await sleep(lookEveryMs);
  }
}

type Totals = { readonly pods: number; readonly seconds: number; readonly whole: boolean };

function report(found: readonly Difference[], acceptance: Acceptance, { pods, seconds, whole }: Totals): number {
  const open = new Set(found.filter((each) => !acceptance.accepts(each)).map(({ pod }) => pod));
  const stale = whole ? acceptance.stale() : [];
  for (const { pod, only, line } of stale) console.log(`accepted, and not needed any more: ${pod} (${only}): ${line}`);
  const differing = new Set(found.map(({ pod }) => pod)).size;
  console.log(
    `${pods} pods: ${pods - differing} alike, ${differing - open.size} alike but for what is accepted, ${open.size} differ, ${stale.length} accepted lines stale; ${seconds} s`,
  );
  return open.size > 0 || stale.length > 0 ? 1 : 0;
}
