import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseDu } from '../../../agent/drivers/sys/disk-usage.ts';
import { parseCgroup, parsePressure, statsOf } from '../../../agent/stats/cgroup-files.ts';
import { parseLoadavg, parseNetDev, parseNode } from '../../../agent/stats/proc-files.ts';
import { createRates } from '../../../agent/stats/rates.ts';
import { ephemeralStorage, summaryJson } from '../../../agent/stats/summary.ts';

describe('cgroup files', () => {
  test('version 1', () => {
    const reading = parseCgroup(
      1,
      {
        'memory.usage_in_bytes': '10940416\n',
        'memory.stat':
          'cache 1\ninactive_file 5\ntotal_inactive_file 4096\ntotal_rss 9973760\ntotal_pgfault 12\ntotal_pgmajfault 3\ntotal_swap 0\n',
        'memory.limit_in_bytes': '9223372036854771712\n',
        'memory.memsw.limit_in_bytes': '9223372036854771712\n',
        'cpuacct.usage': '192640434\n',
        'cgroup.procs': '17\n18\n',
      },
      5,
    );
    const calm = { total: 0, avg10: 0, avg60: 0, avg300: 0 };
    const psi = { full: calm, some: calm };
    assert.deepEqual(statsOf(reading, 7), {
      cpu: { time: 5, usageNanoCores: 7, usageCoreNanoSeconds: 192640434, psi },
      memory: {
        time: 5,
        usageBytes: 10940416,
        workingSetBytes: 10936320,
        rssBytes: 9973760,
        pageFaults: 12,
        majorPageFaults: 3,
        availableBytes: undefined,
        psi,
      },
      io: { time: 5, psi },
      swap: { time: 5, swapUsageBytes: 0, swapAvailableBytes: undefined },
    });
    assert.deepEqual(reading.processes, [17, 18]);
  });
  test('version 2', () => {
    const reading = parseCgroup(
      2,
      {
        'memory.current': '1048576\n',
        'memory.stat': 'anon 524288\nfile 4096\ninactive_file 2048\npgfault 9\npgmajfault 1\n',
        'memory.max': '2097152\n',
        'memory.swap.current': '10\n',
        'memory.swap.max': 'max\n',
        'cpu.stat': 'usage_usec 1500\nuser_usec 1000\n',
        'cpu.pressure': 'some avg10=1.50 avg60=0.20 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n',
      },
      5,
    );
    const { cpu, memory, swap } = statsOf(reading, undefined);
    assert.equal(cpu.usageCoreNanoSeconds, 1_500_000);
    assert.deepEqual(cpu.psi?.some, { total: 1234, avg10: 1.5, avg60: 0.2, avg300: 0 });
    assert.equal(memory.workingSetBytes, 1046528);
    assert.equal(memory.availableBytes, 2097152 - 1046528);
    assert.deepEqual(swap, { time: 5, swapUsageBytes: 10, swapAvailableBytes: undefined });
  });
  test('a cgroup that is gone', () => {
    const { memory, cpu, swap } = statsOf(parseCgroup(2, {}, 5), undefined);
    assert.deepEqual([memory.workingSetBytes, cpu.usageCoreNanoSeconds, swap], [0, undefined, undefined]);
  });
  test('no pressure file', () => assert.equal(parsePressure(undefined), undefined));
});

describe('/proc', () => {
  test('memory and CPU of the node', () => {
    const meminfo =
      'MemTotal:    1000 kB\nMemFree:     300 kB\nInactive:    250 kB\nInactive(file):  200 kB\nSwapTotal:  100 kB\nSwapFree:    40 kB\n';
    assert.deepEqual(parseNode(meminfo, 'cpu  1000 20 300 4000 50 6 7 8 9 10\ncpu0 1 2 3\n'), {
      memoryBytes: 1000 * 1024,
      usedBytes: 700 * 1024,
      workingSetBytes: 500 * 1024,
      swapBytes: 100 * 1024,
      swapUsedBytes: 60 * 1024,
      cpuNs: 13_330_000_000,
    });
  });
  test('processes', () => assert.equal(parseLoadavg('0.20 0.18 0.12 1/80 11206\n'), 80));
  test('interfaces: eth0 stands for all, the far ends of pods do not count', () => {
    const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 5000      10    1    0    0     0          0         0     700       7    2    0    0     0       0          0
vethab1: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0
`;
    const eth0 = { name: 'eth0', rxBytes: 5000, rxErrors: 1, txBytes: 700, txErrors: 2 };
    assert.deepEqual(parseNetDev(text, 9), { time: 9, ...eth0, interfaces: [eth0] });
  });
});

test('rates: over the last ten seconds and more where that is known', () => {
  const rates = createRates();
  assert.equal(rates.rate('a', 1000, 0), undefined);
  assert.equal(rates.rate('a', 1100, 100), undefined, 'a moment says nothing');
  assert.equal(rates.rate('a', 2000, 1000), 1000);
  assert.equal(rates.rate('a', 12_000, 11_000), 1000);
  assert.equal(rates.rate('a', 14_000, 12_000), Math.round((13_000 * 1000) / 12_000));
  // The reading at 11 s is old enough to be reckoned from.
  assert.equal(rates.rate('a', 14_000, 21_000), Math.round((2_000 * 1000) / 10_000));
  // A counter that began anew.
  assert.equal(rates.rate('a', 5, 23_000), undefined);
});

test('rates: one that is asked for every second tells of the last seconds, not of all its life', () => {
  const rates = createRates();
  for (let s = 0; s <= 100; s++) rates.rate('a', 0, s * 1000);
  let last: number | undefined;
  for (let s = 101; s <= 125; s++) last = rates.rate('a', (s - 100) * 500, s * 1000);
  assert.equal(last, 500);
});

test('rates: a new one since it was made, and not over the moment since it was first read', () => {
  const rates = createRates();
  assert.equal(rates.rate('a', 500, 2_500, 2_000), undefined);
  assert.equal(rates.rate('a', 1500, 5_000, 2_000), 500);
  assert.equal(rates.rate('a', 1500, 5_105, 2_000), Math.round((1500 * 1000) / 3_105));
});

test('du: a last entry that was cut off is left out', () => {
  assert.deepEqual(
    [...parseDu('4096\t/a b\n c\x008192\t/d\x0012')],
    [
      ['/a b\n c', 4096],
      ['/d', 8192],
    ],
  );
});

test('a pod’s storage: layers, logs, local volumes and what the agent wrote', () => {
  const fs = (usedBytes: number, time = 1) => ({ time, usedBytes, inodesUsed: 1 });
  const nodeFs = { time: 2, availableBytes: 10, capacityBytes: 20, usedBytes: 10 };
  assert.deepEqual(
    ephemeralStorage(nodeFs, [{ name: 'a', startTime: 0, rootfs: fs(100), logs: fs(10) }], [fs(1000, 3)], [undefined, fs(1)]),
    { time: 3, availableBytes: 10, capacityBytes: 20, usedBytes: 1111, inodesUsed: 4 },
  );
});

test('times are told in whole seconds, and what is not known not at all', () => {
  const text = summaryJson({
    node: { nodeName: 'n', systemContainers: [], startTime: 1_800_000_000_900, swap: { time: 0, swapUsageBytes: undefined } },
    pods: [],
  });
  assert.equal(
    text,
    '{"node":{"nodeName":"n","systemContainers":[],"startTime":"2027-01-15T08:00:00Z","swap":{"time":"1970-01-01T00:00:00Z"}},"pods":[]}',
  );
});
