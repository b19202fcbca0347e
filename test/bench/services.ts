// What a change of a Service costs, as clients see it: the nftables backend in network namespaces, without an
// API server before it (`node --expose-gc test/bench/services.ts`; root; the machine to itself). Figures are of one run each.
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { systemClock } from '../../agent/base/clock.ts';
import { createNftables } from '../../proxy/backends/nftables/worker.ts';
import { anEndpoint, aService, aSlice } from '../fakes/services.ts';
import { type Driven, drive } from '../proxy/drive.ts';
import { netfilterOn } from '../proxy/netfilter.ts';
import { createNetwork, type Network } from '../proxy/network.ts';
import type { PeerAnswer } from '../proxy/peer.ts';

const { values } = parseArgs({
  options: {
    counts: { type: 'string', default: '100,1000,5000,10000' },
    changes: { type: 'string', default: '15' },
    transport: { type: 'string', default: 'netlink' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write('usage: node test/bench/services.ts [--counts 100,1000,5000,10000] [--changes 15] [--transport netlink|text]\n');
  process.exit(0);
}

const endpointsEach = 5;
const port = 8080;
const signal = new AbortController().signal;

const clusterIP = (index: number): string => `10.${96 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`;
/** All of 10.128.0.0/10 is pod-a's, which answers on every address of it. */
const endpointIP = (number: number): string => `10.${128 + (number >> 16)}.${(number >> 8) & 255}.${number & 255}`;
const serviceOf = (index: number) => aService({ name: `s${index}`, spec: { clusterIP: clusterIP(index) } });
const sliceOf = (index: number, first = index * endpointsEach, count = endpointsEach) =>
  aSlice(
    Array.from({ length: count }, (_, slot) => anEndpoint(endpointIP(first + slot))),
    { service: `s${index}` },
  );

const quantile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
const spread = (times: readonly number[]): string => {
  const sorted = [...times].sort((a, b) => a - b);
  return `p50 ${quantile(sorted, 0.5).toFixed(1)} p90 ${quantile(sorted, 0.9).toFixed(1)}`;
};

/** CPU of this process and of its children that ended, ms. */
function cpuMs(): number {
  const fields = readFileSync('/proc/self/stat', 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  // utime, stime, cutime, cstime: fields 14 to 17 of proc(5), in hundredths of a second.
  return fields.slice(11, 15).reduce((sum, each) => sum + Number(each), 0) * 10;
}

/** Makes a change while a client connects every millisecond: from the change to the SYN of the first new outcome, ms. */
async function seen(network: Network, address: string, change: () => void, isNew: (said: string) => boolean): Promise<number> {
  const probing = network.ask('outside', { do: 'probe', address, port: 80, everyMs: 1, forMs: 400, timeoutMs: 300 });
  await systemClock.sleep(100, signal);
  const at = performance.timeOrigin + performance.now();
  change();
  const answers: readonly PeerAnswer[] = await probing;
  const first = answers.find((answer) => (answer.at ?? 0) >= at && isNew(answer.said));
  return first?.at === undefined ? Number.POSITIVE_INFINITY : first.at - at;
}

async function changes(network: Network, driven: Driven, count: number): Promise<Record<'add' | 'move' | 'delete', number[]>> {
  const times = { add: [] as number[], move: [] as number[], delete: [] as number[] };
  const spare = 200_000;
  for (let turn = 0; turn < Number(values.changes); turn++) {
    const index = count + 1000 + turn;
    const from = (said: string): string => said.split(':')[0] ?? '';
    const isNew = (first: number) => (said: string) => from(said) === endpointIP(first);
    times.add.push(await seen(network, clusterIP(index), () => driven.set(serviceOf(index), sliceOf(index, spare, 1)), isNew(spare)));
    times.move.push(await seen(network, clusterIP(index), () => driven.set(sliceOf(index, spare + 1, 1)), isNew(spare + 1)));
    times.delete.push(
      await seen(
        network,
        clusterIP(index),
        () => driven.deleteService(`default/s${index}`),
        (said) => !said.startsWith('10.'),
      ),
    );
  }
  return times;
}

async function sampled(network: Network, count: number): Promise<void> {
  const step = Math.max(1, Math.floor(count / 200));
  for (let index = 0; index < count; index += step) {
    const request = { do: 'connect', protocol: 'tcp', address: clusterIP(index), port: 80, count: 1, timeoutMs: 2000 } as const;
    for (;;) {
      const [answer] = await network.ask('outside', request);
      if (answer?.said.startsWith('10.')) break;
    }
  }
}

async function measure(network: Network, count: number): Promise<void> {
  network.run('node', 'nft', 'flush', 'ruleset');
  const backend = () =>
    createNftables('ip', netfilterOn(network, values.transport === 'text' ? 'text' : 'netlink'), () => performance.now());
  const objects = Array.from({ length: count }, (_, index) => [serviceOf(index), sliceOf(index)]).flat();
  globalThis.gc?.();
  const before = process.memoryUsage();
  const cpu = cpuMs();
  const started = performance.now();
  {
    await using driven = await drive(backend(), { objects });
    const programmed = performance.now() - started;
    await sampled(network, count);
    const connected = performance.now() - started;
    const coldCpu = cpuMs() - cpu;
    const changing = cpuMs();
    const times = await changes(network, driven, count);
    const each = (cpuMs() - changing) / (3 * Number(values.changes));
    globalThis.gc?.();
    const after = process.memoryUsage();
    const grown = (what: 'rss' | 'heapUsed'): string => `+${((after[what] - before[what]) / 1024 ** 2).toFixed(0)} MB`;
    process.stdout.write(
      `${count} Services: cold ${programmed.toFixed(0)} ms, 200 sampled connect ${connected.toFixed(0)} ms, CPU ${coldCpu} ms\n` +
        `  add ${spread(times.add)}   move ${spread(times.move)}   delete ${spread(times.delete)} ms; CPU ${each.toFixed(1)} ms a change; memory ${grown('rss')}, of it live ${grown('heapUsed')}\n`,
    );
  }
  const again = performance.now();
  await using _driven = await drive(backend(), { objects });
  process.stdout.write(`  restart, adopting ${(performance.now() - again).toFixed(0)} ms\n`);
}

await using network = await createNetwork();
network.run('node', 'ip', 'route', 'add', '10.128.0.0/10', 'dev', 'veth0');
network.run('pod-a', 'ip', 'route', 'add', 'local', '10.128.0.0/10', 'dev', 'lo');
network.run('pod-a', 'sysctl', '-qw', 'net.ipv4.ip_nonlocal_bind=1');
await network.ask('pod-a', { do: 'serve', protocol: 'tcp', address: '0.0.0.0', port });
for (const count of values.counts.split(',')) await measure(network, Number(count));
