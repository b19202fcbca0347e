import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { readMachine, readNetwork, thermalThrottles } from '../../../agent/drivers/proc/machine.ts';
import { countCpuList, countProcessors, parseDefaultRoutes, parseMeminfo, parseOsName } from '../../../agent/drivers/proc/parse.ts';

test('meminfo: kB are KiB', () => {
  const text =
    'MemTotal:       24684096 kB\nMemFree:        17308676 kB\nMemAvailable:   24171832 kB\nSwapCached:            0 kB\nSwapTotal:       1048572 kB\n';
  assert.deepEqual(parseMeminfo(text), { totalBytes: 25276514304, availableBytes: 24751955968, swapTotalBytes: 1073737728 });
});

test('meminfo of a kernel without MemAvailable and swap', () => {
  assert.deepEqual(parseMeminfo('MemTotal: 10 kB\n'), { totalBytes: 10240, availableBytes: undefined, swapTotalBytes: 0 });
});

for (const [name, text, want] of [
  ['double quotes', 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n', 'Debian GNU/Linux 12 (bookworm)'],
  ['single quotes', "PRETTY_NAME='Buildroot 2024.02'\n", 'Buildroot 2024.02'],
  ['no quotes', 'PRETTY_NAME=Alpine\n', 'Alpine'],
  ['none', 'ID=x\n', 'Linux'],
] as const)
  test(`os-release: ${name}`, () => assert.equal(parseOsName(text), want));

for (const [text, want] of [
  ['0-1\n', 2],
  ['0\n', 1],
  ['0-3,8,10-11\n', 7],
  ['\n', 0],
] as const)
  test(`CPU list ${JSON.stringify(text)}`, () => assert.equal(countCpuList(text), want));

test('processors of cpuinfo', () => assert.equal(countProcessors('processor\t: 0\nmodel name\t: x\n\nprocessor\t: 1\n'), 2));

test('default routes: IPv4 then IPv6, without the unreachable one of lo', () => {
  const ipv4 =
    'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n' +
    'eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n' +
    'eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n';
  const zero = '0'.repeat(32);
  const ipv6 =
    `fd000000000000000000000000000000 40 ${zero} 00 ${zero} 00000100 00000001 00000000 00000001     eth0\n` +
    `${zero} 00 ${zero} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth1\n` +
    `${zero} 00 ${zero} 00 ${zero} ffffffff 00000001 00000000 00200200       lo\n`;
  assert.deepEqual(parseDefaultRoutes(ipv4, ipv6), [
    { family: 4, interface: 'eth0' },
    { family: 6, interface: 'eth1' },
  ]);
});

test('this machine has facts', async () => {
  const machine = await readMachine('/');
  assert.ok(machine.cpus >= 1);
  assert.ok(machine.memoryBytes > 64 * 1024 * 1024);
  assert.ok((machine.storageBytes ?? 0) > 0);
  assert.ok(machine.maxPids > 100);
  assert.match(machine.bootId, /^[0-9a-f-]{36}$/);
  assert.ok(machine.bootTime > 0);
  assert.ok((await readNetwork()).addresses.some((a) => a.address === '127.0.0.1'));
});

test('a filesystem that is not there has no size', async () => {
  assert.equal((await readMachine('/does/not/exist')).storageBytes, undefined);
});

test('heat counters: of the CPUs that have any, in order', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'cpus-'));
  try {
    for (const cpu of ['cpu10', 'cpu2', 'cpufreq']) mkdirSync(join(folder, cpu, 'thermal_throttle'), { recursive: true });
    mkdirSync(join(folder, 'cpu3'));
    assert.deepEqual(await thermalThrottles(folder), [`${folder}/cpu2/thermal_throttle`, `${folder}/cpu10/thermal_throttle`]);
    assert.deepEqual(await thermalThrottles(join(folder, 'none')), []);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
