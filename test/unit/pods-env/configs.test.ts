import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Container, PodSpec } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { type ContainerInputs, containerConfig } from '../../../agent/pods/container-config.ts';
import { sandboxConfig } from '../../../agent/pods/sandbox-config.ts';

const pod = (spec: Partial<PodSpec> = {}): AgentPod => ({
  metadata: { name: 'p', namespace: 'ns', uid: 'u', annotations: { note: 'n' } },
  spec: { containers: [{ name: 'c', image: 'i' }], ...spec },
});

describe('a sandbox', () => {
  const config = (spec: Partial<PodSpec>) =>
    sandboxConfig(pod(spec), {
      attempt: 0,
      podLogsDir: '/var/log/pods',
      hostname: 'p',
      dns: {},
      cgroupParent: '',
      overhead: {},
      resources: {},
      users: undefined,
    });
  const privileged = { name: 'x', image: 'i', securityContext: { privileged: true } };
  const who: [string, Partial<PodSpec>, boolean][] = [
    ['nobody', {}, false],
    ['a container', { containers: [privileged] }, true],
    ['an init container', { initContainers: [privileged] }, true],
    ['an ephemeral container, which the runtime refuses in a sandbox that is not', { ephemeralContainers: [privileged] }, true],
  ];
  for (const [name, spec, want] of who)
    test(`privileged: ${name}`, () => assert.equal(config(spec).linux?.security_context?.privileged, want));

  test('ports: with their host address and protocol; none that the node does not lend', () => {
    const ports = [
      { containerPort: 80, hostPort: 8080, hostIP: '127.0.0.1' },
      { containerPort: 53, hostPort: 53, protocol: 'UDP' },
      { containerPort: 9, hostPort: 9, protocol: 'SCTP' },
      { containerPort: 81 },
    ];
    const containers = [{ name: 'c', image: 'i', ports }];
    assert.deepEqual(config({ containers }).port_mappings, [
      { protocol: 'TCP', container_port: 80, host_port: 8080, host_ip: '127.0.0.1' },
      { protocol: 'UDP', container_port: 53, host_port: 53, host_ip: '' },
      { protocol: 'SCTP', container_port: 9, host_port: 9, host_ip: '' },
    ]);
    assert.deepEqual(config({ containers, hostNetwork: true }).port_mappings, []);
  });

  test('security: the pod’s own, sysctls with dots, always the runtime’s seccomp profile, users said to be the node’s', () => {
    const { linux } = config({
      hostPID: true,
      securityContext: {
        runAsUser: 1,
        runAsGroup: 2,
        fsGroup: 3,
        supplementalGroups: [4],
        sysctls: [
          { name: 'net.ipv4.ping_group_range', value: '0 0' },
          { name: 'kernel/shm_rmid_forced', value: '1' },
          { name: 'net/ipv4/conf/eth0.100/rp_filter', value: '2' },
        ],
        seccompProfile: { type: 'Unconfined' },
      },
    });
    assert.deepEqual(linux?.sysctls, {
      'net.ipv4.ping_group_range': '0 0',
      'kernel.shm_rmid_forced': '1',
      'net.ipv4.conf.eth0/100.rp_filter': '2',
    });
    assert.deepEqual(linux?.security_context, {
      namespace_options: { network: 'POD', ipc: 'POD', pid: 'NODE', userns_options: { mode: 'NODE' } },
      privileged: false,
      seccomp: { profile_type: 'RuntimeDefault' },
      run_as_user: { value: 1 },
      run_as_group: { value: 2 },
      supplemental_groups: [3, 4],
      supplemental_groups_policy: 'Merge',
      selinux_options: undefined,
    });
  });
});

describe('a container', () => {
  const config = (container: Partial<Container>, inputs: Partial<ContainerInputs> = {}) =>
    containerConfig(
      pod(),
      { name: 'c', image: 'i:1', ...container },
      {
        attempt: 3,
        imageRef: 'sha256:1',
        command: [],
        args: [],
        envs: [],
        mounts: [{ host_path: '/x' }],
        devices: [],
        cdiDevices: [],
        deviceAnnotations: {},
        resources: {},
        security: { namespace_options: { pid: 'CONTAINER', userns_options: { mode: 'NODE' } } },
        targetContainerId: undefined,
        stopSignals: true,
        ...inputs,
      },
    );
  const signals: [string | undefined, string | undefined][] = [
    [undefined, undefined],
    ['SIGUSR1', 'SIGUSR1'],
    ['SIGRTMIN', 'SIGRTMIN'],
    ['SIGRTMIN+15', 'SIGRTMINPLUS15'],
    ['SIGRTMAX-14', 'SIGRTMAXMINUS14'],
  ];
  for (const [given, want] of signals)
    test(`stop signal ${given}`, () => assert.equal(config({ lifecycle: { stopSignal: given } }).stop_signal, want));

  test('image, log and streams', () => {
    const got = config({ stdin: true, stdinOnce: true, tty: true, workingDir: '/w' });
    assert.deepEqual(got.image, { image: 'sha256:1', user_specified_image: 'i:1' });
    assert.deepEqual(
      [got.log_path, got.stdin, got.stdin_once, got.tty, got.working_dir, got.metadata?.attempt],
      ['c/3.log', true, true, true, '/w', 3],
    );
  });

  test('mounts keep the node’s owners in a pod on the node’s users', () => assert.deepEqual(config({}).mounts, [{ host_path: '/x' }]));

  test('a device plugin’s annotations do not hide what adopts the container', () => {
    const got = config({}, { deviceAnnotations: { 'io.kubernetes.container.restartCount': '99', 'x.example/a': '1' } });
    assert.equal(got.annotations?.['io.kubernetes.container.restartCount'], '3');
    assert.equal(got.annotations?.['x.example/a'], '1');
  });

  const targets: [string, ContainerInputs['security']['namespace_options'], object][] = [
    ['joined where each has its own', { pid: 'CONTAINER' }, { pid: 'TARGET', target_id: 't' }],
    ['all see all in a shared namespace', { pid: 'POD' }, { pid: 'POD' }],
  ];
  for (const [name, given, want] of targets)
    test(`processes of a target: ${name}`, () =>
      assert.deepEqual(
        config({}, { targetContainerId: 't', security: { namespace_options: given } }).linux?.security_context?.namespace_options,
        want,
      ));
});
