import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { withProxyDefaults } from '../../../agent/config/proxy/defaults.ts';
import { loadProxySettings, loadProxyTask, proxyDocument } from '../../../agent/config/proxy/load.ts';
import { splitHostPort, validateProxyConfiguration } from '../../../agent/config/proxy/validate.ts';

const noFile = (path: string): Promise<string> => Promise.reject(new Error(`ENOENT: ${path}`));
const head = 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n';
const fromFile = (text: string) => loadProxySettings('/etc/proxy.yaml', () => Promise.resolve(head + text));
const fromFlags = async (...argv: string[]) => {
  const task = await loadProxyTask(argv, noFile);
  assert.ok(task.kind === 'run' || task.kind === 'cleanup' || task.kind === 'init');
  return task.settings.config;
};

describe('KubeProxyConfiguration', () => {
  test('who names no mode gets nftables, and a file without one iptables, as upstream', async () => {
    assert.equal((await fromFlags()).mode, 'nftables');
    assert.equal((await loadProxySettings(undefined, noFile)).config.mode, 'nftables');
    assert.equal((await fromFile('mode: ""\n')).config.mode, 'iptables');
    assert.equal((await fromFile('')).config.mode, 'iptables');
  });

  test('each mode has its own part and its own defaults', async () => {
    const text = 'iptables: {masqueradeBit: 5, masqueradeAll: true, syncPeriod: 1m}\nnftables: {masqueradeBit: 7, minSyncPeriod: 2s}\n';
    const { config: nft } = await fromFile(`mode: nftables\n${text}`);
    assert.deepEqual(
      [nft.masqueradeBit, nft.masqueradeAll, nft.syncPeriod, nft.minSyncPeriod, nft.nodePortAddresses],
      [7, false, 30_000, 2000, ['primary']],
    );
    const { config: ipt } = await fromFile(`mode: iptables\n${text}`);
    assert.deepEqual(
      [ipt.masqueradeBit, ipt.masqueradeAll, ipt.syncPeriod, ipt.minSyncPeriod, ipt.nodePortAddresses],
      [5, true, 60_000, 1000, []],
    );
    const { config: ipvs } = await fromFile(`mode: ipvs\n${text}`);
    assert.deepEqual([ipvs.masqueradeBit, ipvs.masqueradeAll, ipvs.syncPeriod, ipvs.minSyncPeriod], [5, true, 30_000, 0]);
  });

  test("kubeadm's ConfigMap loads without a warning", async () => {
    const text = `bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
metricsBindAddress: ""
mode: ""
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
`;
    const { config, warnings } = await fromFile(text);
    assert.deepEqual(warnings, []);
    assert.deepEqual(config.detectLocal.clusterCIDRs, ['10.244.0.0/16']);
    assert.equal(config.detectLocalMode, 'ClusterCIDR');
    assert.equal(config.healthzBindAddress, '0.0.0.0:10256');
    assert.equal(config.metricsBindAddress, '127.0.0.1:10249');
    assert.equal(config.oomScoreAdj, -999);
    assert.equal(config.conntrack.tcpEstablishedTimeout, 24 * 3_600_000);
    assert.deepEqual([config.clientConnection.qps, config.clientConnection.burst], [5, 10]);
  });

  test('a field of a newer version is passed over with a warning, a wrong value is not', async () => {
    const { warnings } = await fromFile('novelty: 1\nnftables: {colour: red}\n');
    assert.deepEqual(warnings, [
      '/etc/proxy.yaml: unknown field "nftables.colour", ignored',
      '/etc/proxy.yaml: unknown field "novelty", ignored',
    ]);
    await assert.rejects(fromFile('nftables: {masqueradeBit: red}\n'), /nftables\.masqueradeBit/);
    await assert.rejects(fromFile('clusterCIDR: 10.0.0.0/8,11.0.0.0/8\n'), /ClusterCIDRs: Invalid value/);
    await assert.rejects(
      loadProxySettings('/p.yaml', async () => '\n'),
      /kube-proxy config file "\/p\.yaml" was empty/,
    );
    await assert.rejects(loadProxySettings('/etc/none', noFile), /failed to read kube-proxy config file "\/etc\/none"/);
  });

  const wrong: Record<string, { flags: string[]; says: RegExp }> = {
    'a mode that is none': { flags: ['--proxy-mode=userspace'], says: /Mode\.ProxyMode: Invalid value: "userspace"/ },
    'a masquerade bit beyond the mark': {
      flags: ['--proxy-mode=iptables', '--iptables-masquerade-bit=32'],
      says: /MasqueradeBit: Invalid value: 32/,
    },
    'a node port address that is no CIDR': {
      flags: ['--nodeport-addresses=10.0.0.1'],
      says: /NodePortAddresses\[0\]: Invalid value: "10\.0\.0\.1"/,
    },
    'primary beside a CIDR': { flags: ['--nodeport-addresses=primary,10.0.0.0/8'], says: /can't use both 'primary' and CIDRs/ },
    'a bridge without a name': {
      flags: ['--detect-local-mode=BridgeInterface'],
      says: /InterfaceName: Invalid value: "": must not be empty/,
    },
    'a way of detection that is none': { flags: ['--detect-local-mode=Guess'], says: /Unsupported value: "Guess"/ },
    'a least period beyond the period': {
      flags: ['--proxy-mode=iptables', '--iptables-min-sync-period=1h'],
      says: /SyncPeriod: Invalid value: "1h0m0s": must be greater than or equal to/,
    },
    'an address without a port': { flags: ['--metrics-bind-address=localhost'], says: /MetricsBindAddress: Invalid value/ },
    'a gate that nobody knows': { flags: ['--feature-gates=NoSuchGate=true'], says: /featureGates: .*NoSuchGate/ },
  };
  for (const [name, { flags, says }] of Object.entries(wrong)) test(`refused: ${name}`, () => assert.rejects(fromFlags(...flags), says));

  test('flags', async () => {
    const config = await fromFlags(
      '--masquerade-all',
      '--cluster-cidr=10.244.0.0/16,fd00::/64',
      '--hostname-override=Node1',
      '--healthz-port=0',
      '--metrics-port=9999',
      '-v=4',
    );
    assert.equal(config.masqueradeAll, true);
    assert.deepEqual(config.detectLocal.clusterCIDRs, ['10.244.0.0/16', 'fd00::/64']);
    assert.equal(config.hostnameOverride, 'node1');
    assert.equal(config.healthzBindAddress, '');
    assert.equal(config.metricsBindAddress, '127.0.0.1:9999');
    assert.equal(config.logging.verbosity, 4);
    assert.equal((await loadProxyTask(['--cleanup'], noFile)).kind, 'cleanup');
    assert.equal((await loadProxyTask(['--help'], noFile)).kind, 'help');
    await assert.rejects(loadProxyTask(['--no-such'], noFile), /unknown flag: --no-such/);
  });

  test('IPv6 only', async () => {
    const config = await fromFlags('--bind-address=::');
    assert.equal(config.healthzBindAddress, '[::]:10256');
    assert.equal(config.metricsBindAddress, '[::1]:10249');
    assert.deepEqual(splitHostPort('[::1]:10249'), { host: '::1', port: 10_249 });
    assert.equal(splitHostPort('::1:10249'), undefined);
  });

  for (const mode of ['nftables', 'iptables', 'ipvs'] as const)
    test(`what is written of ${mode} is read as the same`, async () => {
      const config = { ...withProxyDefaults({ mode }, 'iptables'), masqueradeBit: 9, masqueradeAll: true };
      assert.deepEqual(validateProxyConfiguration(config), []);
      const again = await loadProxySettings('/c', () => Promise.resolve(JSON.stringify(proxyDocument(config))));
      assert.deepEqual(again.config, config);
      assert.deepEqual(again.warnings, []);
    });
});
