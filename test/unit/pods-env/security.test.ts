import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import type { Container, PodSecurityContext, SecurityContext } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { containerSecurity, type ImageUser, verifyNonRoot } from '../../../agent/pods/security.ts';

const root: ImageUser = { uid: 0, username: '' };
const options = { seccompRoot: '/var/lib/kubelet/seccomp', seccompDefault: false, thermalThrottles: ['/sys/cpu7/thermal_throttle'] };

function both(
  podSc: PodSecurityContext | undefined,
  own: SecurityContext | undefined,
  annotation?: string,
): { pod: AgentPod; container: Container } {
  const container: Container = { name: 'c', image: 'i', ...(own === undefined ? {} : { securityContext: own }) };
  const annotations = annotation === undefined ? {} : { 'container.apparmor.security.beta.kubernetes.io/c': annotation };
  return {
    pod: {
      metadata: { name: 'p', namespace: 'ns', uid: 'u', annotations },
      spec: { containers: [container], ...(podSc === undefined ? {} : { securityContext: podSc }) },
    },
    container,
  };
}

describe('runAsNonRoot', () => {
  const where = '(pod: "p_ns(u)", container: c)';
  const table: [string, PodSecurityContext, SecurityContext, ImageUser, string | undefined][] = [
    ['not asked for', {}, {}, root, undefined],
    ['the container takes the pod’s back', { runAsNonRoot: true }, { runAsNonRoot: false }, root, undefined],
    ['a user of its own', { runAsNonRoot: true }, { runAsUser: 5 }, root, undefined],
    ['root by the spec', { runAsNonRoot: true, runAsUser: 0 }, {}, root, `container's runAsUser breaks non-root policy ${where}`],
    ['the container’s user counts', { runAsNonRoot: true, runAsUser: 0 }, { runAsUser: 7 }, root, undefined],
    ['root by the image', { runAsNonRoot: true }, {}, root, `container has runAsNonRoot and image will run as root ${where}`],
    ['a number in the image', { runAsNonRoot: true }, {}, { uid: 65_534, username: '' }, undefined],
    [
      'a name in the image',
      {},
      { runAsNonRoot: true },
      { uid: undefined, username: 'www' },
      `container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root ${where}`,
    ],
    [
      'a number that is no user’s',
      {},
      { runAsNonRoot: true },
      { uid: 2 ** 31, username: '' },
      `container has runAsNonRoot and image has an invalid user id (2147483648). (Must be 1-(2147483647)): must be between 0 and 2147483647, inclusive ${where}`,
    ],
  ];
  for (const [name, podSc, own, image, message] of table)
    test(name, () => {
      const { pod, container } = both(podSc, own);
      if (message === undefined) verifyNonRoot(pod, container, image);
      else
        assert.throws(
          () => verifyNonRoot(pod, container, image),
          (e) => hasCode(e, 'CreateContainerConfigError') && e.message === message,
        );
    });
});

describe('what the runtime is told', () => {
  const said = (podSc: PodSecurityContext | undefined, own: SecurityContext | undefined, image = root, annotation?: string) => {
    const { pod, container } = both(podSc, own, annotation);
    return containerSecurity(pod, container, image, options, undefined);
  };
  const table: [string, ReturnType<typeof said>, object][] = [
    [
      'nothing asked for',
      said(undefined, undefined),
      {
        privileged: false,
        readonly_rootfs: false,
        no_new_privs: false,
        run_as_user: { value: 0 },
        run_as_group: undefined,
        supplemental_groups: [],
        supplemental_groups_policy: 'Merge',
        seccomp: { profile_type: 'Unconfined' },
        capabilities: undefined,
        namespace_options: { network: 'POD', ipc: 'POD', pid: 'CONTAINER', userns_options: { mode: 'NODE' } },
      },
    ],
    ['the image’s user by name', said({}, {}, { uid: undefined, username: 'www' }), { run_as_username: 'www' }],
    ['groups: fsGroup first', said({ fsGroup: 9, supplementalGroups: [8, 7] }, {}), { supplemental_groups: [9, 8, 7] }],
    ['groups of the spec only', said({ supplementalGroupsPolicy: 'Strict' }, {}), { supplemental_groups_policy: 'Strict' }],
    [
      'SELinux: the container’s options whole',
      said({ seLinuxOptions: { level: 's0:c1', type: 't' } }, { seLinuxOptions: { type: 'own' } }),
      { selinux_options: { type: 'own' } },
    ],
    ['no_new_privs', said({}, { allowPrivilegeEscalation: false }), { no_new_privs: true }],
    [
      'capabilities',
      said({}, { capabilities: { add: ['NET_ADMIN'], drop: ['ALL'] } }),
      { capabilities: { add_capabilities: ['NET_ADMIN'], drop_capabilities: ['ALL'] } },
    ],
    ['procMount Unmasked', said({}, { procMount: 'Unmasked' }), { masked_paths: [], readonly_paths: [] }],
    [
      'seccomp: a profile of the node, the container’s before the pod’s',
      said({ seccompProfile: { type: 'RuntimeDefault' } }, { seccompProfile: { type: 'Localhost', localhostProfile: 'a/b.json' } }),
      { seccomp: { profile_type: 'Localhost', localhost_ref: '/var/lib/kubelet/seccomp/a/b.json' } },
    ],
    [
      'AppArmor: the field before the annotation',
      said({}, { appArmorProfile: { type: 'Localhost', localhostProfile: 'own' } }, root, 'unconfined'),
      { apparmor_profile: 'localhost/own', apparmor: { profile_type: 'Localhost', localhost_ref: 'own' } },
    ],
    [
      'AppArmor: the annotation before the pod’s field',
      said({ appArmorProfile: { type: 'RuntimeDefault' } }, {}, root, 'unconfined'),
      { apparmor_profile: 'unconfined', apparmor: { profile_type: 'Unconfined' } },
    ],
    [
      'AppArmor: a misspelt annotation does not lift the pod’s profile',
      said({ appArmorProfile: { type: 'RuntimeDefault' } }, {}, root, 'runtime/defalt'),
      { apparmor_profile: 'runtime/default', apparmor: { profile_type: 'RuntimeDefault' } },
    ],
  ];
  for (const [name, got, want] of table)
    test(name, () => {
      for (const [key, value] of Object.entries(want)) assert.deepEqual(got[key as keyof typeof got], value, key);
    });
  test('a misspelt AppArmor annotation is no profile at all', () =>
    assert.equal('apparmor' in said({}, {}, root, 'docker-default'), false));
  test('heat counters are masked with the rest', () =>
    assert.equal(said({}, { privileged: true }).masked_paths?.at(-1), '/sys/cpu7/thermal_throttle'));
  test('an AppArmor profile of no known type is not taken for none', () =>
    assert.throws(() => said({}, { appArmorProfile: { type: 'Lokalhost' } }), /unknown apparmor profile type: "Lokalhost"/));
  test('seccomp without a file', () =>
    assert.throws(
      () => said({ seccompProfile: { type: 'Localhost' } }, {}),
      (e) => hasCode(e, 'CreateContainerConfigError') && e.message === 'localhostProfile must be set if seccompProfile type is Localhost.',
    ));
});
