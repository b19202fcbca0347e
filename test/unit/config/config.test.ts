import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { askedFor, type Config, type ConfigFiles, loadConfig } from '../../../agent/config/config.ts';
import { kubeletFields, reloadOf } from '../../../agent/config/kubelet-configuration.ts';

const header = 'apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n';

function filesOf(tree: Record<string, string>): ConfigFiles {
  return {
    readFile: async (path) => {
      const text = tree[path];
      if (text === undefined) throw Object.assign(new Error(`ENOENT: no such file or directory, open '${path}'`), { code: 'ENOENT' });
      return text;
    },
    listFiles: async (folder) => Object.keys(tree).filter((path) => path.startsWith(`${folder}/`)),
  };
}

interface Case {
  readonly name: string;
  readonly argv: string[];
  readonly files?: Record<string, string>;
  /** Chosen facts of the result, each by a function of it. */
  readonly gives?: (config: Config) => unknown;
  readonly want?: unknown;
  readonly error?: RegExp;
}

const k = (config: Config) => config.kubelet;

const cases: Case[] = [
  {
    name: 'nothing given: standalone, defaults',
    argv: [],
    gives: (c) => [c.kubeconfig, c.rootDir, c.certDir, c.noProxy, c.nodeIPs, k(c).port],
    want: [undefined, '/var/lib/kubelet', '/var/lib/kubelet/pki', false, [], 10250],
  },
  {
    name: 'defaults: durations are milliseconds',
    argv: [],
    gives: (c) => [k(c).syncFrequency, k(c).nodeStatusUpdateFrequency, k(c).nodeStatusReportFrequency, k(c).cpuCFSQuotaPeriod],
    want: [60_000, 10_000, 300_000, 100],
  },
  {
    name: 'defaults: runtime endpoint and eviction',
    argv: [],
    gives: (c) => [k(c).containerRuntimeEndpoint, k(c).evictionHard['memory.available']],
    want: ['unix:///run/containerd/containerd.sock', '100Mi'],
  },
  {
    name: 'nobody is anonymous without a file either',
    argv: [],
    gives: (c) => [k(c).authentication.anonymous.enabled, k(c).authorization.mode, k(c).readOnlyPort],
    want: [false, 'Webhook', 0],
  },
  {
    name: '--flag value and --flag=value',
    argv: ['--kubeconfig', '/k', '--root-dir=/r'],
    gives: (c) => [c.kubeconfig, c.rootDir],
    want: ['/k', '/r'],
  },
  { name: 'underscores are hyphens', argv: ['--hostname_override=n1'], gives: (c) => c.hostnameOverride, want: 'n1' },
  {
    name: 'a boolean alone, and =false',
    argv: ['--no-proxy', '--fail-swap-on=false'],
    gives: (c) => [c.noProxy, k(c).failSwapOn],
    want: [true, false],
  },
  { name: 'a boolean takes no next word', argv: ['--fail-swap-on', 'false'], error: /unknown command false/ },
  { name: '-v4', argv: ['-v4'], gives: (c) => c.verbosity, want: 4 },
  { name: '-v 4', argv: ['-v', '4'], gives: (c) => c.verbosity, want: 4 },
  { name: '--v=4', argv: ['--v=4'], gives: (c) => c.verbosity, want: 4 },
  { name: 'the last of two wins', argv: ['--max-pods=5', '--max-pods=7'], gives: (c) => k(c).maxPods, want: 7 },
  {
    name: 'lists add up',
    argv: ['--cluster-dns=10.0.0.10,fd00::a', '--cluster-dns=10.0.0.11'],
    gives: (c) => k(c).clusterDNS,
    want: ['10.0.0.10', 'fd00::a', '10.0.0.11'],
  },
  {
    name: 'labels',
    argv: ['--node-labels=a=b,node.kubernetes.io/x=,topology.kubernetes.io/zone=z1'],
    gives: (c) => c.nodeLabels,
    want: { a: 'b', 'node.kubernetes.io/x': '', 'topology.kubernetes.io/zone': 'z1' },
  },
  {
    name: 'a label that a node may not give itself',
    argv: ['--node-labels=node-role.kubernetes.io/master='],
    error: /unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: \[node-role.kubernetes.io\/master\]/,
  },
  { name: 'a label that is none', argv: ['--node-labels=a b=c'], error: /invalid node labels: 'a b'/ },
  {
    name: 'taints',
    argv: ['--register-with-taints=a=b:NoSchedule,c:NoExecute'],
    gives: (c) => k(c).registerWithTaints,
    want: [
      { key: 'a', value: 'b', effect: 'NoSchedule' },
      { key: 'c', effect: 'NoExecute' },
    ],
  },
  {
    name: 'a taint without an effect',
    argv: ['--register-with-taints=a=b'],
    error: /invalid argument "a=b" for "--register-with-taints" flag: invalid taint spec: a=b/,
  },
  {
    name: 'reserved resources',
    argv: ['--kube-reserved=cpu=200m,memory=500Mi', '--system-reserved', 'pid=100'],
    gives: (c) => [k(c).kubeReserved, k(c).systemReserved],
    want: [{ cpu: '200m', memory: '500Mi' }, { pid: '100' }],
  },
  { name: 'reserving what cannot be reserved', argv: ['--kube-reserved=gpu=1'], error: /kubeReserved: cannot reserve "gpu"/ },
  {
    name: 'thresholds replace the defaults',
    argv: ['--eviction-hard=memory.available<1Gi,nodefs.available<5%'],
    gives: (c) => k(c).evictionHard,
    want: { 'memory.available': '1Gi', 'nodefs.available': '5%' },
  },
  { name: 'a threshold that is none', argv: ['--eviction-hard=memory.available=1Gi'], error: /malformed pair, expect string<string/ },
  { name: 'node addresses, both families', argv: ['--node-ip=10.0.0.1,fd00::1'], gives: (c) => c.nodeIPs, want: ['10.0.0.1', 'fd00::1'] },
  {
    name: 'a sysctl of the whole machine',
    argv: ['--allowed-unsafe-sysctls=vm.swappiness'],
    error: /"vm.swappiness" are not known to be namespaced/,
  },
  { name: 'a sysctl pattern that is none', argv: ['--allowed-unsafe-sysctls=net.*.x'], error: /"net\.\*\.x" is no sysctl pattern/ },
  {
    name: 'sysctl patterns',
    argv: ['--allowed-unsafe-sysctls=net.core.somaxconn,kernel.msg*,net/ipv4/conf/*'],
    gives: (c) => k(c).allowedUnsafeSysctls.length,
    want: 3,
  },
  { name: 'node addresses, one family twice', argv: ['--node-ip=10.0.0.1,10.0.0.2'], error: /bad --node-ip.*dual-stack pair/ },
  { name: 'node addresses, a preference in a pair', argv: ['--node-ip=10.0.0.1,::'], error: /cannot include/ },
  {
    name: 'unknown flag with its neighbour',
    argv: ['--hostname-overide=x'],
    error: /^unknown flag: --hostname-overide; did you mean --hostname-override\?$/,
  },
  { name: 'unknown flag without one', argv: ['--xyzzy'], error: /^unknown flag: --xyzzy$/ },
  { name: 'unknown shorthand', argv: ['-x'], error: /unknown shorthand flag: 'x' in -x/ },
  { name: 'one hyphen too few', argv: ['-kubeconfig', '/k'], error: /did you mean --kubeconfig/ },
  { name: 'a flag without its argument', argv: ['--kubeconfig'], error: /flag needs an argument: --kubeconfig/ },
  { name: 'a word that is no flag', argv: ['start'], error: /unknown command start/ },
  {
    name: 'no integer',
    argv: ['--max-pods=many'],
    error: /invalid argument "many" for "--max-pods" flag: strconv.ParseInt: parsing "many": invalid syntax/,
  },
  { name: 'no duration', argv: ['--sync-frequency=10'], error: /invalid duration "10"/ },
  { name: 'no boolean', argv: ['--register-node=perhaps'], error: /strconv.ParseBool: parsing "perhaps"/ },
  { name: 'kube-proxy’s flag', argv: ['--proxy-mode=nftables'], error: /flag --proxy-mode is not supported: it belongs to kube-proxy/ },
  { name: 'kubelet’s flag that we can’t honour', argv: ['--lock-file=/x'], error: /flag --lock-file is not supported/ },
  { name: 'a flag that upstream ignores as well', argv: ['--storage-driver-user=u'], gives: (c) => c.warnings.length, want: 1 },
  { name: 'in-tree cloud providers are gone', argv: ['--cloud-provider=aws'], error: /unsupported --cloud-provider "aws"/ },
  { name: 'cloud-provider external', argv: ['--cloud-provider=external'], gives: (c) => c.cloudProviderExternal, want: true },
  { name: 'a bad host name', argv: ['--hostname-override=a_b'], error: /invalid --hostname-override "a_b"/ },
  {
    name: 'a setting that would be ignored is an error',
    argv: ['--cpu-manager-policy=static'],
    error: /cpuManagerPolicy of KubeletConfiguration is not supported as set/,
  },
  {
    name: 'a locked gate, set to what it is',
    argv: ['--feature-gates=NodeSwap=true,AllAlpha=false'],
    gives: (c) => k(c).featureGates,
    want: { NodeSwap: true, AllAlpha: false },
  },
  {
    name: 'a locked gate, set against it',
    argv: ['--feature-gates=SystemdWatchdog=false'],
    error: /cannot set feature gate SystemdWatchdog to false, feature is locked to true/,
  },
  { name: 'an unknown gate', argv: ['--feature-gates=Warp=true'], error: /unrecognized feature gate: Warp/ },
  {
    name: 'a gate of the control plane',
    argv: ['--feature-gates=APIServerIdentity=false'],
    gives: (c) => k(c).featureGates,
    want: { APIServerIdentity: false },
  },
  {
    name: 'a gate that we can’t honour',
    argv: ['--feature-gates=MemoryQoS=true'],
    error: /feature gate MemoryQoS=true is not supported yet/,
  },
  {
    name: 'certificates of the server are not rotated where their gate is off',
    argv: ['--config=/c.yaml'],
    files: {
      '/c.yaml':
        'kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nfeatureGates: { RotateKubeletServerCertificate: false }\n',
    },
    gives: (c) => k(c).serverTLSBootstrap,
    want: false,
  },
  {
    name: 'and asking for them all the same is an error',
    argv: ['--feature-gates=RotateKubeletServerCertificate=false', '--rotate-server-certificates'],
    error: /serverTLSBootstrap true requires feature gate RotateKubeletServerCertificate/,
  },
  {
    name: 'a gate that moves a default',
    argv: ['--feature-gates=KubeletCrashLoopBackOffMax=false'],
    gives: (c) => k(c).crashLoopBackOff.maxContainerRestartPeriod,
    want: undefined,
  },

  {
    name: 'file',
    argv: ['--config=/etc/c.yaml'],
    files: { '/etc/c.yaml': `${header}maxPods: 20\nsyncFrequency: 1m30s\nstaticPodPath: manifests\n` },
    gives: (c) => [k(c).maxPods, k(c).syncFrequency, k(c).staticPodPath],
    want: [20, 90_000, '/etc/manifests'],
  },
  {
    name: 'file in JSON',
    argv: ['--config=/c.json'],
    files: { '/c.json': '{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"KubeletConfiguration","maxPods":3}' },
    gives: (c) => k(c).maxPods,
    want: 3,
  },
  { name: 'file missing', argv: ['--config=/c.yaml'], error: /failed to read kubelet config file "\/c.yaml": ENOENT/ },
  { name: 'file empty', argv: ['--config=/c.yaml'], files: { '/c.yaml': '\n' }, error: /kubelet config file "\/c.yaml" was empty/ },
  { name: 'file without kind', argv: ['--config=/c.yaml'], files: { '/c.yaml': 'maxPods: 3\n' }, error: /no apiVersion\/kind/ },
  {
    name: 'file of another kind',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n' },
    error: /unknown apiVersion\/kind: kubeproxy.config.k8s.io\/v1alpha1, Kind=KubeProxyConfiguration/,
  },
  {
    name: 'file with an unknown field',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}maxPod: 3\nauthentication:\n  x508: {}\n` },
    gives: (c) => [c.warnings, k(c).maxPods, k(c).authentication.anonymous.enabled],
    want: [['/c.yaml: unknown field "authentication.x508", ignored', '/c.yaml: unknown field "maxPod", ignored'], 110, false],
  },
  {
    name: 'file with a duplicate field',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}maxPods: 3\nmaxPods: 4\n` },
    gives: (c) => [c.warnings, k(c).maxPods],
    want: [['/c.yaml: line 4: the key "maxPods" stands more than once in the document; the last one counts'], 4],
  },
  {
    name: 'a configuration of a newer cluster',
    argv: ['--config=/c.yaml'],
    files: {
      '/c.yaml': `${header}maxPods: 3\nshinyNew: {deep: [1]}\nmemorySwap:\n  swapBehavior: NoSwap\n  swapTier: 2\nreservedMemory:\n- numaNode: 0\n  limits: {}\n  kind: x\n`,
    },
    error: /^reservedMemory of KubeletConfiguration is not supported/,
  },
  {
    name: 'an unknown field beside a wrong one: the wrong one is the error',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}shinyNew: 1\nmaxPods: many\n` },
    error: /^\/c\.yaml: maxPods: Invalid input: expected number, received string$/,
  },
  {
    name: 'an unknown feature gate is an error, as with kubelet',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}featureGates: {ShinyNew: true}\n` },
    error: /unrecognized feature gate: ShinyNew/,
  },
  {
    name: 'the first document that holds something counts',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `---\n# kubeadm\n---\n${header}maxPods: 0777\n---\nkind: Other\n` },
    gives: (c) => [c.warnings, k(c).maxPods],
    want: [[], 511],
  },
  {
    name: 'a file with nothing in it',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': '---\n# nothing\n' },
    error: /kubelet config file "\/c\.yaml" was empty/,
  },
  {
    name: 'file with a wrong type',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}maxPods: "3"\n` },
    error: /maxPods: Invalid input: expected number/,
  },
  {
    name: 'file with a wrong duration',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}authentication: { webhook: { cacheTTL: 5 minutes } }\n` },
    error: /authentication.webhook.cacheTTL: time: invalid duration "5 minutes"/,
  },
  {
    name: 'null is absent',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}maxPods:\nclusterDNS: null\n` },
    gives: (c) => [k(c).maxPods, k(c).clusterDNS],
    want: [110, []],
  },
  {
    name: 'YAML 1.1 booleans',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}failSwapOn: no\n` },
    gives: (c) => k(c).failSwapOn,
    want: false,
  },
  {
    name: 'zero durations are unset, as kubeadm writes them',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}syncFrequency: 0s\nnodeStatusUpdateFrequency: 0s\nnodeStatusReportFrequency: 0s\n` },
    gives: (c) => [k(c).syncFrequency, k(c).nodeStatusReportFrequency],
    want: [60_000, 300_000],
  },
  {
    name: 'the report frequency follows an update frequency that is set',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}nodeStatusUpdateFrequency: 4s\n` },
    gives: (c) => k(c).nodeStatusReportFrequency,
    want: 4000,
  },
  {
    name: 'eviction thresholds of a file replace the defaults',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}evictionHard: { memory.available: 1Gi }\n` },
    gives: (c) => k(c).evictionHard,
    want: { 'memory.available': '1Gi' },
  },
  {
    name: '… or are merged with them',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}mergeDefaultEvictionSettings: true\nevictionHard: { memory.available: 1Gi }\n` },
    gives: (c) => [k(c).evictionHard['memory.available'], k(c).evictionHard['nodefs.available']],
    want: ['1Gi', '10%'],
  },
  {
    name: 'eviction thresholds: 0% and 100% switch off, and nothing may be a minimum to reclaim',
    argv: ['--config=/c.yaml'],
    files: {
      '/c.yaml': `${header}evictionHard: { memory.available: "0%", nodefs.available: "100%" }\nevictionMinimumReclaim: { memory.available: "0", nodefs.available: 500% }\n`,
    },
    gives: (c) => [k(c).evictionHard, k(c).evictionMinimumReclaim],
    want: [
      { 'memory.available': '0%', 'nodefs.available': '100%' },
      { 'memory.available': '0', 'nodefs.available': '500%' },
    ],
  },
  {
    name: 'parallel pulls unset serialization',
    argv: ['--config=/c.yaml'],
    files: { '/c.yaml': `${header}maxParallelImagePulls: 4\n` },
    gives: (c) => [k(c).serializeImagePulls, k(c).maxParallelImagePulls],
    want: [false, 4],
  },
  {
    name: 'flags beat the file',
    argv: ['--config=/c.yaml', '--max-pods=9', '--anonymous-auth=false'],
    files: { '/c.yaml': `${header}maxPods: 20\nfeatureGates: { NodeSwap: true }\n` },
    gives: (c) => [k(c).maxPods, k(c).featureGates],
    want: [9, { NodeSwap: true }],
  },
  {
    name: 'gates of flags add to those of the file',
    argv: ['--config=/c.yaml', '--feature-gates=APIServerIdentity=false'],
    files: { '/c.yaml': `${header}featureGates: { NodeSwap: true, APIServerIdentity: true }\n` },
    gives: (c) => k(c).featureGates,
    want: { NodeSwap: true, APIServerIdentity: false },
  },
  {
    name: 'drop-ins in lexical order, only *.conf, below the flags',
    argv: ['--config=/c.yaml', '--config-dir=/d', '--port=1234'],
    files: {
      '/c.yaml': `${header}maxPods: 20\nsystemReserved: { cpu: 1, memory: 1Gi }\n`.replace('cpu: 1,', 'cpu: "1",'),
      '/d/20-b.conf': `${header}maxPods: 22\nport: 1\n`,
      '/d/10-a.conf': `${header}maxPods: 21\nsystemReserved: { memory: null, pid: "5" }\n`,
      '/d/30.yaml': 'nonsense',
    },
    gives: (c) => [k(c).maxPods, k(c).systemReserved, k(c).port],
    want: [22, { cpu: '1', pid: '5' }, 1234],
  },
  {
    name: 'a drop-in with an unknown field',
    argv: ['--config-dir=/d'],
    files: { '/d/a.conf': `${header}maxPod: 1\nmaxPods: 5\nmaxPods: 6\n` },
    gives: (c) => [c.warnings, k(c).maxPods],
    want: [
      [
        '/d/a.conf: line 5: the key "maxPods" stands more than once in the document; the last one counts',
        '/d/a.conf: unknown field "maxPod", ignored',
      ],
      6,
    ],
  },
  {
    name: 'a drop-in that is not named *.conf',
    argv: ['--config-dir=/d'],
    files: { '/d/20-a.yaml': `${header}maxPods: 1\n`, '/d/10-b.conf': `${header}maxPods: 2\n` },
    gives: (c) => [c.warnings, k(c).maxPods],
    want: [["/d/20-a.yaml is not read: drop-ins of the kubelet's configuration are named *.conf"], 2],
  },
  {
    name: 'a drop-in without kind',
    argv: ['--config-dir=/d'],
    files: { '/d/a.conf': 'maxPods: 1\n' },
    error: /\/d\/a.conf: no apiVersion\/kind/,
  },
  {
    name: 'validation names field and flag',
    argv: ['--image-gc-low-threshold=90'],
    error: /imageGCLowThresholdPercent \(--image-gc-low-threshold\) 90 must be less than imageGCHighThresholdPercent/,
  },
  {
    name: 'validation tells every problem',
    argv: ['--port=0', '--oom-score-adj=5000'],
    error: /oomScoreAdj \(--oom-score-adj\) 5000.*port \(--port\) 0 must be between 1 and 65535/s,
  },
  {
    name: 'an eviction threshold of nothing is no way to switch it off',
    argv: ['--eviction-hard=memory.available<0'],
    error: /evictionHard\.memory\.available: "0" is neither a positive quantity/,
  },
  {
    name: 'a share of nothing is no minimum to reclaim',
    argv: ['--eviction-minimum-reclaim=memory.available=0%'],
    error: /evictionMinimumReclaim\.memory\.available: "0%" is neither/,
  },
  {
    name: 'enforcement needs its cgroup',
    argv: ['--enforce-node-allocatable=pods,system-reserved'],
    error: /systemReservedCgroup \(--system-reserved-cgroup\) must be specified/,
  },
  {
    name: 'what kubeadm writes is accepted',
    argv: ['--config=/k.yaml'],
    files: {
      '/k.yaml': `${header}authentication:
  anonymous: { enabled: false }
  webhook: { cacheTTL: 0s, enabled: true }
  x509: { clientCAFile: /etc/kubernetes/pki/ca.crt }
authorization:
  mode: Webhook
  webhook: { cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s }
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging:
  flushFrequency: 0
  options:
    json: { infoBufferSize: "0" }
    text: { infoBufferSize: "0" }
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
`,
    },
    gives: (c) => [k(c).cgroupDriver, k(c).containerRuntimeEndpoint, k(c).rotateCertificates],
    want: ['systemd', 'unix:///run/containerd/containerd.sock', true],
  },
];

for (const { name, argv, files = {}, gives, want, error } of cases) {
  test(name, async () => {
    if (error !== undefined) {
      await assert.rejects(loadConfig(argv, filesOf(files)), (thrown) => {
        assert.ok(thrown instanceof AgentError);
        assert.match(thrown.message, error);
        return true;
      });
      return;
    }
    const config = await loadConfig(argv, filesOf(files));
    assert.deepEqual(gives?.(config), want);
    assert.ok(Object.isFrozen(config.kubelet.authentication.webhook));
  });
}

test('the effective configuration reads back as itself', async () => {
  const first = await loadConfig(['--sync-frequency=90s', '--max-pods=7'], filesOf({}));
  assert.equal(first.kubeletDocument.syncFrequency, '1m30s');
  const again = await loadConfig(['--config=/c.json'], filesOf({ '/c.json': JSON.stringify(first.kubeletDocument) }));
  assert.deepEqual(again.kubelet, first.kubelet);
});

test('the effective configuration is what a kubelet 1.36.1 shows at /configz for the same file and flags', async () => {
  // Recorded from a real one; the paths of its self-signed certificate, which it fills in later, left out.
  const read = (name: string): Promise<string> => readFile(new URL(name, import.meta.url), 'utf8');
  const config = await loadConfig(['--config=/c.yaml', '--v=2'], filesOf({ '/c.yaml': await read('configz.yaml') }));
  assert.deepEqual(config.kubeletDocument, JSON.parse(await read('configz.json')));
});

test('help and version are asked for before anything is read', () => {
  assert.equal(askedFor(['-h']), 'help');
  assert.equal(askedFor(['--help']), 'help');
  assert.equal(askedFor(['--version']), 'version');
  assert.equal(askedFor(['--version=raw']), 'version');
  assert.equal(askedFor(['--v=2']), undefined);
});

test('what sockets, clients and folders are made from needs a restart; what is read when deciding does not', () => {
  const live = kubeletFields.filter((field) => reloadOf(field) === 'live');
  assert.ok(live.length > 0 && live.length < kubeletFields.length);
  for (const field of [
    'address',
    'port',
    'staticPodPath',
    'cgroupDriver',
    'cgroupRoot',
    'containerRuntimeEndpoint',
    'rotateCertificates',
  ] as const)
    assert.equal(reloadOf(field), 'restart', field);
  for (const field of ['maxPods', 'evictionHard', 'clusterDNS', 'imageGCHighThresholdPercent'] as const)
    assert.equal(reloadOf(field), 'live', field);
});
