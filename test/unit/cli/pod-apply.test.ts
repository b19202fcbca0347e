import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { createPodApply, type PodApplyOptions } from '../../../agent/cli/wiring/pod-apply.ts';
import { container, pod, runtimePod } from '../pods/build.ts';

const signal = new AbortController().signal;

/** Rooms and drivers that answer what a container's config asks of them. */
function world(change: Partial<PodApplyOptions> = {}) {
  const rootDir = mkdtempSync(join(tmpdir(), 'pod-apply-'));
  mkdirSync(join(rootDir, 'pods', 'u1'), { recursive: true });
  const events: string[] = [];
  const options = {
    cri: { imageStatus: async () => ({ image: { uid: { value: 0 } } }) },
    clock: systemClock,
    log: silentLog,
    recordEvent: (_pod: unknown, _type: string, reason: string) => events.push(`pod ${reason}`),
    nodeEvent: (_type: string, reason: string) => events.push(`node ${reason}`),
    rootDir,
    podLogsDir: join(rootDir, 'logs'),
    nodeName: 'n',
    hostIps: () => ['192.168.0.1'],
    dns: async () => ({ resolvConf: undefined, clusterDNS: [], clusterDomain: 'cluster.local', nodeIPs: [] }),
    clusterDomain: 'cluster.local',
    allocatable: () => ({}),
    cgroupTree: undefined,
    policy: () => ({ cpuCfsQuota: false, hugePageSizes: [], cgroupVersion: 2, singleProcessOomKill: true, swapController: false }),
    security: { seccompRoot: '/', seccompDefault: false, thermalThrottles: [] },
    volumes: {
      mountsFor: async (_pod: unknown, _container: unknown, how: { expandSubPath: (expression: string) => { path: string } }) => [
        { host_path: join('/volume', how.expandSubPath('$(DEVICE)-$(OWN)').path), container_path: '/same' },
      ],
    },
    devices: {
      prepare: async () => ({
        envs: [
          { name: 'DEVICE', value: 'card7' },
          { name: 'OWN', value: 'theirs' },
        ],
        mounts: [{ hostPath: '/device', containerPath: '/same', readonly: false }],
        devices: [],
        cdiDevices: [],
        annotations: {},
      }),
    },
    objects: undefined,
    recursiveReadOnly: () => false,
    userNamespaces: { of: async () => undefined, release: () => undefined },
    stopSignals: false,
    services: undefined,
    runtimeClasses: undefined,
    ...change,
  } as unknown as PodApplyOptions;
  return { apply: createPodApply(options), events, rootDir, [Symbol.dispose]: () => rmSync(rootDir, { recursive: true }) };
}

test('a pod that wants the cluster’s DNS where there is none: told once on the pod and on its node', async () => {
  using it = world();
  const asking = pod({ dnsPolicy: 'ClusterFirst' });
  await it.apply.sandboxConfig(asking, 0, signal);
  await it.apply.sandboxConfig(asking, 0, signal);
  assert.deepEqual(it.events, ['node MissingClusterDNS', 'pod MissingClusterDNS']);
});

test('a name too long for the kernel matters to pods with a name of their own only', async () => {
  using it = world();
  const long = { dnsPolicy: 'Default', subdomain: 's'.repeat(60), setHostnameAsFQDN: true };
  assert.equal((await it.apply.sandboxConfig(pod({ ...long, hostNetwork: true }), 0, signal)).hostname, '');
  await assert.rejects(it.apply.sandboxConfig(pod(long), 0, signal), /is too long \(64 characters is the max/);
});

test('a plugin’s mounts and variables come before the pod’s own, and are known to commands and paths; files of the node relabelled, readable whatever the umask', async () => {
  using it = world();
  const before = process.umask(0o077);
  try {
    const start = { attempt: 0, imageRef: 'r', runtime: runtimePod() };
    const wants = container('a', { terminationMessagePath: 'dev/log', args: ['$(DEVICE)'], env: [{ name: 'OWN', value: 'mine' }] });
    const { mounts = [], args } = await it.apply.containerConfig(pod(), wants, start, signal);
    assert.deepEqual(args, ['card7']);
    assert.deepEqual(
      mounts.map(({ container_path, selinux_relabel }) => [container_path, selinux_relabel === true]),
      [
        ['/same', false],
        ['/same', false],
        ['/etc/hosts', true],
        ['/dev/log', true],
      ],
    );
    assert.deepEqual([mounts[0]?.host_path, mounts[1]?.host_path], ['/device', '/volume/card7-mine']);
    assert.deepEqual(
      mounts.slice(2).map((mount) => statSync(mount.host_path ?? '').mode & 0o777),
      [0o644, 0o666],
    );
  } finally {
    process.umask(before);
  }
});
