// What a kube-proxy leaves goes, and nothing of others; kubelet's own chains are kept: on the kernel of this machine, in a namespace.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { startNetworkRules } from '../../agent/cli/wiring/network-rules.ts';
import { removeUpstream } from '../../proxy/backends/upstream/remove.ts';

const name = `kxl${process.pid}`;
const prefix = ['ip', 'netns', 'exec', name];
const { signal } = new AbortController();
const inside = (...argv: string[]): string =>
  execFileSync('ip', ['netns', 'exec', name, ...argv], { encoding: 'utf8', stdio: ['pipe', 'pipe', 'ignore'] });
const sh = (script: string): string => inside('sh', '-ec', script);

// What upstream's iptables mode programs for one Service, for one binary.
const iptablesMode = (iptables: string): string => `
${iptables} -t mangle -N KUBE-PROXY-CANARY
for c in SERVICES NODEPORTS POSTROUTING MARK-MASQ SVC-ERIFXISQEP7F7OF4 SEP-HI4YQPI4W5L5TTZO EXT-AAAAAAAAAAAAAAAA; do ${iptables} -t nat -N KUBE-$c; done
for c in SERVICES EXTERNAL-SERVICES FORWARD NODEPORTS PROXY-FIREWALL; do ${iptables} -N KUBE-$c; done
${iptables} -t nat -I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
${iptables} -t nat -I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
${iptables} -t nat -I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
${iptables} -I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
${iptables} -I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
${iptables} -I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
${iptables} -I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
${iptables} -I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
${iptables} -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
${iptables} -t nat -A KUBE-SERVICES -m comment --comment "default/web cluster IP" -p tcp --dport 80 -j KUBE-SVC-ERIFXISQEP7F7OF4
${iptables} -t nat -A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "default/web -> 10.1.0.7:8080" -j KUBE-SEP-HI4YQPI4W5L5TTZO
${iptables} -t nat -A KUBE-SEP-HI4YQPI4W5L5TTZO -j KUBE-MARK-MASQ
${iptables} -t nat -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
${iptables} -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
${iptables} -t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully
`;

const others = (iptables: string): string => `
${iptables} -A INPUT -p tcp --dport 22 -m comment --comment "say \\"hello\\" to -j KUBE-SERVICES" -j ACCEPT
${iptables} -N MINE
${iptables} -A MINE -j RETURN
${iptables} -I FORWARD -j MINE
${iptables} -t nat -N KUBE-MARK-DROP
`;

/** All rules, without what counts or dates. */
const ruleset = (): string =>
  [
    ...['iptables', 'ip6tables'].flatMap((base) => [`${base}-nft-save`, `${base}-legacy-save`]).map((binary) => inside(binary)),
    inside('ipset', 'save'),
    inside('nft', 'list', 'tables'),
  ]
    .join('')
    .replace(/^#.*\n/gm, '')
    .replace(/\[\d+:\d+\]/g, '');

const netRules = async (): Promise<void> => {
  await using _rules = startNetworkRules({ clock: systemClock, log: silentLog, signal, prefix });
  const until = performance.now() + 20_000;
  while (!/KUBE-KUBELET-CANARY[\s\S]*KUBE-KUBELET-CANARY/.test(`${sh('iptables -t mangle -S')}${sh('ip6tables -t mangle -S')}`)) {
    if (performance.now() > until) assert.fail(ruleset());
    await systemClock.sleep(20, signal);
  }
};

describe('what a kube-proxy leaves', () => {
  before(() => void execFileSync('sh', ['-ec', `ip netns add ${name}; ip -n ${name} link set lo up`]));
  after(() => void execFileSync('ip', ['netns', 'del', name]));

  test('chains of iptables mode in every variant, sets and the device of IPVS mode, tables of nftables mode; nothing else', async () => {
    const binaries = ['iptables-nft', 'ip6tables-nft', 'iptables-legacy', 'ip6tables-legacy'];
    for (const binary of binaries) sh(others(binary));
    sh('ipset create mine hash:ip; ipset create KUBE-MINE hash:ip');
    sh('nft add table ip kube-proxy-of-mine; nft add table inet kube-proxy');
    await netRules();
    // The tables that iptables mode makes stay: an empty built-in chain does nothing.
    for (const binary of binaries) sh(`${binary} -t mangle -S >/dev/null; ${binary} -t nat -S > /dev/null`);
    const before = ruleset();
    for (const binary of binaries) sh(iptablesMode(binary));
    sh('ipset create KUBE-CLUSTER-IP hash:ip,port; ipset create KUBE-6-CLUSTER-IP hash:ip,port family inet6');
    sh('iptables -t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT');
    sh(
      'nft add table ip kube-proxy; nft add table ip6 kube-proxy; nft add chain ip kube-proxy services; ip link add kube-ipvs0 type bridge',
    );
    assert.notEqual(ruleset(), before);
    assert.ok(await removeUpstream({ iptables: true, nftables: true }, { clock: systemClock, log: silentLog, prefix }, signal));
    assert.equal(ruleset(), before);
    assert.throws(() => inside('ip', 'link', 'show', 'dev', 'kube-ipvs0'));
    assert.match(before, /KUBE-IPTABLES-HINT/);
    // Again: nothing to do.
    assert.ok(await removeUpstream({ iptables: true, nftables: true }, { clock: systemClock, log: silentLog, prefix }, signal));
    assert.equal(ruleset(), before);
  });

  test('a chain that another program uses stays with its rules; a set in use stays and is told', async () => {
    sh(iptablesMode('iptables-nft'));
    sh('iptables-nft -t nat -N CNI-HOSTPORT-SETMARK; iptables-nft -t nat -A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ');
    sh('ipset create KUBE-LOOP-BACK hash:ip; iptables-nft -A MINE -m set --match-set KUBE-LOOP-BACK src -j ACCEPT');
    assert.equal(await removeUpstream({ iptables: true, nftables: true }, { clock: systemClock, log: silentLog, prefix }, signal), false);
    const saved = inside('iptables-nft-save', '-t', 'nat');
    assert.match(saved, /-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000\/0x4000\n/);
    assert.doesNotMatch(saved, /KUBE-(SERVICES|SVC|SEP|POSTROUTING)/);
    assert.match(inside('ipset', 'list', '-n'), /KUBE-LOOP-BACK/);
  });
});

describe('what kubelet sets in iptables', () => {
  test('as kubelet has it, once, and anew after a flush', async () => {
    const rules = (): string =>
      `${sh('iptables -S')}${sh('iptables -t mangle -S KUBE-IPTABLES-HINT; ip6tables -t mangle -S KUBE-IPTABLES-HINT')}`;
    execFileSync('sh', ['-ec', `ip netns add ${name}; ip -n ${name} link set lo up`]);
    try {
      await netRules();
      await netRules();
      const made = rules();
      assert.equal(made.match(/-A (INPUT|OUTPUT) -j KUBE-FIREWALL/g)?.length, 2);
      assert.match(
        made,
        /-A KUBE-FIREWALL ! -s 127\.0\.0\.0\/8 -d 127\.0\.0\.0\/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n/,
      );
      assert.doesNotMatch(sh('ip6tables -S'), /KUBE-FIREWALL/);
      sh('nft flush ruleset');
      await netRules();
      assert.equal(rules(), made);
    } finally {
      execFileSync('ip', ['netns', 'del', name]);
    }
  });
});
