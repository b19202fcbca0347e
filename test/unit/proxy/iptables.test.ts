import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { batchRefused } from '../../../proxy/backends/backend.ts';
import { chooseVariant, type Iptables } from '../../../proxy/backends/iptables/iptables.ts';
import { parseSave } from '../../../proxy/backends/iptables/listing.ts';
import { endpointChain, isServiceChain, serviceChain, type TableName } from '../../../proxy/backends/iptables/names.ts';
import { canonical, probability, ruleText } from '../../../proxy/backends/iptables/rule.ts';
import { createIptablesBackend, removeIptables } from '../../../proxy/backends/iptables/worker.ts';
import { anEndpoint, aService, aSlice } from '../../fakes/services.ts';
import { drive, settingsOf } from '../../proxy/drive.ts';

const web = { service: 'default/web', portName: 'http', protocol: 'tcp' } as const;
const svc = serviceChain('SVC', web);
const ext = serviceChain('EXT', web);
const sepA = endpointChain(web, '10.244.1.10:8080');
const sepB = endpointChain(web, '10.244.1.11:8080');

/** The tables, by lines of iptables-restore; what it was given is kept. */
function fakeIptables(start: Partial<Record<TableName, string>> = {}, refuses?: (text: string) => boolean) {
  const tables = new Map<TableName, Map<string, string[]>>();
  const restored: string[] = [];
  for (const table of ['filter', 'nat', 'mangle'] as const) {
    const builtin = { filter: ['INPUT', 'FORWARD', 'OUTPUT'], nat: ['PREROUTING', 'OUTPUT', 'POSTROUTING'], mangle: [] as string[] }[table];
    tables.set(table, new Map([...builtin.map((name): [string, string[]] => [name, []])]));
    for (const [id, rules] of parseSave(table, start[table] ?? '')) tables.get(table)?.set(id.split(' ')[1] ?? '', [...rules]);
  }
  const refuse = (line: string): never => {
    throw new AgentError(batchRefused, `line: ${line}`);
  };
  const carryOut = (chains: Map<string, string[]>, line: string): void => {
    const [, op = '', name = '', rest = ''] = /^(:|-[AIDX] )(\S+) ?(.*)$/.exec(line) ?? refuse(line);
    if (op === ':') return void chains.set(name, []);
    const rules = chains.get(name) ?? refuse(line);
    if (op === '-A ') rules.push(rest);
    else if (op === '-I ') rules.unshift(rest.replace(/^1 /, ''));
    else if (op === '-D ') {
      const at = rules.indexOf(rest);
      if (at < 0) refuse(line);
      rules.splice(at, 1);
    } else {
      if ([...chains.values()].flat().some((rule) => rule.split(' ').includes(name))) refuse(line);
      chains.delete(name);
    }
    const target = / -j (KUBE-\S+)/.exec(` ${rest}`)?.[1];
    if (op !== '-D ' && target !== undefined && !chains.has(target)) refuse(line);
  };
  const iptables: Iptables = {
    variant: 'nft',
    choose: async () => undefined,
    inUse: async () => true,
    read: async (table) => {
      const chains = [...(tables.get(table) ?? [])];
      const lines = [
        ...chains.map(([name]) => `:${name} - [0:0]`),
        ...chains.flatMap(([name, rules]) => rules.map((rule) => `-A ${name} ${rule}`)),
      ];
      return parseSave(table, lines.join('\n'));
    },
    readChain: async (table, chain) => tables.get(table)?.get(chain),
    async restore(text) {
      restored.push(text);
      let table: TableName = 'nat';
      let copy = new Map<string, string[]>();
      for (const line of text.trimEnd().split('\n')) {
        if (line.startsWith('*')) {
          table = line.slice(1) as TableName;
          copy = structuredClone(tables.get(table) ?? new Map());
        } else if (line === 'COMMIT') {
          if (table === 'nat' && refuses?.(text)) refuse(text);
          tables.set(table, copy);
        } else carryOut(copy, line);
      }
    },
    routeLoopbackTo: async () => undefined,
    liberalTcp: async () => false,
  };
  const chain = (table: TableName, name: string): string[] | undefined => tables.get(table)?.get(name);
  return { iptables, restored, chain, tables };
}

const webPort = { name: 'http', port: 80, nodePort: 30080, targetPort: 8080 };
const here = (ip: string) => anEndpoint(ip, { node: 'node' });
const two = [aService({ ports: [webPort], spec: { type: 'NodePort' } }), aSlice([here('10.244.1.10'), here('10.244.1.11')])];
const backendOn = (fake: { iptables: Iptables }) => createIptablesBackend('ip', fake.iptables, 1000);

describe('names of chains', () => {
  test('are those of upstream', () => {
    // From rules that kube-proxy made for the Service default/kubernetes, port https.
    assert.equal(serviceChain('SVC', { service: 'default/kubernetes', portName: 'https', protocol: 'tcp' }), 'KUBE-SVC-NPX46M4PTMTKRN6Y');
    assert.equal(serviceChain('SVC', { service: 'kube-system/kube-dns', portName: 'dns', protocol: 'udp' }), 'KUBE-SVC-TCOU7JCQXEZGVUNU');
    assert.equal(
      serviceChain('SVC', { service: 'kube-system/kube-dns', portName: 'dns-tcp', protocol: 'tcp' }),
      'KUBE-SVC-ERIFXISQEP7F7OF4',
    );
  });
});

describe('rules as text', () => {
  test('what iptables-save prints has one spelling, and ours is in it', () => {
    const ours = ruleText({ destination: '10.0.0.1/32', protocol: 'tcp', port: 80, comment: 'a/b:c x', jump: 'RETURN' });
    assert.equal(ours, '-d 10.0.0.1/32 -p tcp -m comment --comment "a/b:c x" -m tcp --dport 80 -j RETURN');
    const table = {
      [ours]: ours,
      '-p tcp -d 10.0.0.1/32 -m tcp --dport 80 -m comment --comment "a/b:c x" -j RETURN': ours,
      '-p udp -m udp -m comment --comment web -j DNAT --to-destination 1.2.3.4:80':
        '-p udp -m comment --comment "web" -j DNAT --to-destination 1.2.3.4:80',
      '-m statistic --mode random --probability 0.33333333349 -j X': `-m statistic --mode random --probability ${probability(3)} -j X`,
      '! -s 10.0.0.0/8 ! -i cni+ -m mark ! --mark 0x1/0x1 -j X': '! -s 10.0.0.0/8 ! -i cni+ -m mark ! --mark 0x1/0x1 -j X',
    };
    for (const [printed, wanted] of Object.entries(table)) {
      assert.equal(canonical(printed), wanted);
      assert.equal(canonical(wanted), wanted);
    }
  });

  test('probabilities keep the value that ten digits have in the kernel', () => {
    for (let n = 2; n < 2000; n++) {
      const text = probability(n);
      assert.equal(Math.round(Number(text) * 2 ** 31), Math.round(Number((1 / n).toFixed(10)) * 2 ** 31), `1/${n}`);
      assert.equal(canonical(`-m statistic --mode random --probability ${text}`).split(' ').at(-1), text);
    }
  });

  test('a comment cannot end its quotes', () => {
    assert.equal(ruleText({ comment: 'a" -j ACCEPT\n-X \\', jump: 'X' }), '-m comment --comment "a? -j ACCEPT?-X ?" -j X');
  });
});

describe('which binaries', () => {
  const rule = '-A X -j Y\n';
  const table: Record<string, { nft: string | undefined; legacy: string | undefined; is: string }> = {
    'kubelet’s hint by nft': { nft: ':KUBE-IPTABLES-HINT - [0:0]\n', legacy: rule + rule, is: 'nft' },
    'kubelet’s hint by legacy': { nft: rule + rule, legacy: ':KUBE-KUBELET-CANARY - [0:0]\n', is: 'legacy' },
    'more rules by legacy': { nft: rule, legacy: rule + rule, is: 'legacy' },
    'nothing anywhere': { nft: '', legacy: '', is: 'nft' },
    'no nft binaries': { nft: undefined, legacy: '', is: 'legacy' },
    'no legacy binaries': { nft: '', legacy: undefined, is: 'nft' },
  };
  for (const [name, { nft, legacy, is }] of Object.entries(table)) test(name, () => assert.equal(chooseVariant(nft, legacy), is));
});

describe('the iptables backend', () => {
  test('a Service with a node port: its chains, and rules in those that all share', async () => {
    const fake = fakeIptables();
    await using _driven = await drive(backendOn(fake), { objects: two });
    assert.deepEqual(fake.chain('nat', svc), [
      '! -s 10.244.1.0/24 -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ',
      `-m comment --comment "default/web:http -> 10.244.1.10:8080" -m statistic --mode random --probability 0.50000000000 -j ${sepA}`,
      `-m comment --comment "default/web:http -> 10.244.1.11:8080" -j ${sepB}`,
    ]);
    assert.deepEqual(fake.chain('nat', sepA), [
      '-s 10.244.1.10/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ',
      '-p tcp -m comment --comment "default/web:http" -j DNAT --to-destination 10.244.1.10:8080',
    ]);
    assert.deepEqual(fake.chain('nat', ext), [
      '-m comment --comment "masquerade traffic for default/web:http external destinations" -j KUBE-MARK-MASQ',
      `-j ${svc}`,
    ]);
    assert.deepEqual(fake.chain('nat', 'KUBE-NODEPORTS'), [
      `-p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j ${ext}`,
    ]);
    assert.deepEqual(fake.chain('nat', 'KUBE-SERVICES'), [
      `-d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j ${svc}`,
      '! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -j KUBE-NODEPORTS',
    ]);
    assert.deepEqual(fake.chain('nat', 'KUBE-POSTROUTING'), [
      '-m mark ! --mark 0x4000/0x4000 -j RETURN',
      '-j MARK --set-xmark 0x4000/0x0',
      '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
    ]);
  });

  test('a change sends what changed alone', async () => {
    const fake = fakeIptables();
    const backend = backendOn(fake);
    await using driven = await drive(backend, { objects: two });
    fake.restored.length = 0;
    driven.set(aSlice([here('10.244.1.10')]));
    await driven.settled();
    assert.deepEqual(backend.ruleCounts?.(), [
      { table: 'filter', total: 0, last: 0 },
      { table: 'nat', total: 8, last: 2 },
    ]);
    assert.deepEqual(fake.restored.join('').match(/^(:\S+|-[AIDX] \S+)/gm), [
      `:${svc}`,
      `:${sepB}`,
      `-A ${svc}`,
      `-A ${svc}`,
      `-X ${sepB}`,
    ]);
    fake.restored.length = 0;
    driven.set(aSlice([]));
    await driven.settled();
    const text = fake.restored.join('');
    assert.match(text, /-I KUBE-SERVICES 1 .*has no endpoints.* -j REJECT --reject-with tcp-reset\n/);
    assert.match(text, /-D KUBE-SERVICES .*cluster IP/);
    assert.doesNotMatch(text, /must be the last/);
    driven.deleteService('default/web');
    await driven.settled();
    assert.deepEqual([...(fake.tables.get('nat')?.keys() ?? [])].filter(isServiceChain), []);
    assert.deepEqual(fake.chain('filter', 'KUBE-SERVICES'), []);
    assert.deepEqual(fake.chain('filter', 'KUBE-EXTERNAL-SERVICES'), []);
  });

  test('a restart changes nothing, and removes what is left over', async () => {
    const fake = fakeIptables();
    const other = aService({ name: 'other', spec: { clusterIP: '10.96.0.2' } });
    {
      await using _driven = await drive(backendOn(fake), { objects: [...two, other, aSlice([here('10.244.1.10')], { service: 'other' })] });
    }
    fake.restored.length = 0;
    {
      await using _driven = await drive(backendOn(fake), { objects: [...two, other, aSlice([here('10.244.1.10')], { service: 'other' })] });
    }
    assert.deepEqual(fake.restored, []);
    fake.chain('nat', 'KUBE-NODEPORTS')?.push('-j RETURN');
    await using _driven = await drive(backendOn(fake), { objects: two });
    assert.equal([...(fake.tables.get('nat')?.keys() ?? [])].filter(isServiceChain).length, 4);
    assert.equal(fake.chain('nat', 'KUBE-NODEPORTS')?.length, 1);
  });

  test('a refused batch is undone in the table that took it, and its Service is told alone', async () => {
    const fake = fakeIptables({}, (text) => text.includes('"default/bad'));
    const bad = aService({ name: 'bad', spec: { clusterIP: '10.96.0.66', externalIPs: ['192.0.2.66'], externalTrafficPolicy: 'Local' } });
    const objects = [...two, bad, aSlice([anEndpoint('10.244.2.10')], { service: 'bad' })];
    await using driven = await drive(backendOn(fake), { objects });
    assert.deepEqual(
      driven.events.map(({ service }) => service?.name),
      ['bad'],
    );
    assert.equal(fake.chain('nat', svc)?.length, 3);
    // Its rules in the filter table went in first.
    assert.deepEqual(fake.chain('filter', 'KUBE-EXTERNAL-SERVICES'), []);
  });

  test('an audit hears of what somebody else did', async () => {
    const fake = fakeIptables();
    const backend = backendOn(fake);
    const { signal } = new AbortController();
    await backend.open(settingsOf({}, 'ip'), signal);
    await backend.complete(signal);
    assert.equal(await backend.audit('structure', signal), true);
    assert.equal(await backend.audit('everything', signal), true);
    fake.chain('nat', 'KUBE-SERVICES')?.push('-j RETURN');
    assert.equal(await backend.audit('everything', signal), false);
    fake.tables.get('mangle')?.delete('KUBE-PROXY-CANARY');
    assert.equal(await backend.audit('structure', signal), false);
  });

  test('removing leaves nothing of ours and all of others', async () => {
    const others = {
      filter: ':INPUT - [0:0]\n:FORWARD - [0:0]\n:OUTPUT - [0:0]\n:DOCKER - [0:0]\n-A FORWARD -j DOCKER\n',
      nat: ':PREROUTING - [0:0]\n:OUTPUT - [0:0]\n:POSTROUTING - [0:0]\n:CNI-X - [0:0]\n-A CNI-X -j KUBE-MARK-MASQ\n:KUBE-MARK-MASQ - [0:0]\n',
    };
    const fake = fakeIptables(others);
    {
      await using _driven = await drive(backendOn(fake), { objects: two });
    }
    await removeIptables(fake.iptables, new AbortController().signal);
    const left = (table: TableName): string[] => [...(fake.tables.get(table)?.keys() ?? [])];
    assert.deepEqual(left('filter'), ['INPUT', 'FORWARD', 'OUTPUT', 'DOCKER']);
    assert.deepEqual(left('nat'), ['PREROUTING', 'OUTPUT', 'POSTROUTING', 'CNI-X', 'KUBE-MARK-MASQ']);
    assert.deepEqual(fake.chain('nat', 'OUTPUT'), []);
    // CNI's portmap masquerades by it.
    assert.deepEqual(fake.chain('nat', 'KUBE-MARK-MASQ'), ['-j MARK --set-xmark 0x4000/0x4000']);
    assert.deepEqual(fake.chain('filter', 'FORWARD'), ['-j DOCKER']);
    assert.deepEqual(left('mangle'), []);
  });
});
