import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AgentNode, AgentPod } from '../../../agent/model/pod.ts';
import { type AdmissionInput, admitPod } from '../../../agent/pods/admission.ts';
import { container, pod } from './build.ts';

const node: AgentNode = {
  metadata: { name: 'n1', labels: { zone: 'a' } },
  status: { allocatable: { cpu: '2', memory: '4Gi', pods: '10', 'hugepages-2Mi': '0' }, features: { supplementalGroupsPolicy: false } },
};
const crowded: AgentNode = { ...node, status: { ...node.status, allocatable: { cpu: '2', memory: '4Gi', pods: '3' } } };
let serial = 0;
const asking = (requests: Record<string, string>, more: Partial<AgentPod['spec']> = {}, limits?: Record<string, string>): AgentPod =>
  pod(
    { containers: [container('a', { resources: { requests, ...(limits && { limits }) } })], ...more },
    { name: `p${++serial}`, uid: `p${serial}` },
  );
const critical = { priority: 2_000_000_000 };
const admit = (input: Partial<AdmissionInput>) =>
  admitPod({ pod: pod(), active: [], node, allowedUnsafeSysctls: [], kernelVersion: '6.1.0-13', appArmor: true, ...input });
const sysctl = (name: string, more: Partial<AgentPod['spec']> = {}) =>
  pod({ securityContext: { sysctls: [{ name, value: '1' }] }, ...more });
const armored = pod({ containers: [container('a', { securityContext: { appArmorProfile: { type: 'RuntimeDefault' } } })] });

const cases: { name: string; input: Partial<AdmissionInput>; reason: string | undefined }[] = [
  { name: 'a plain pod', input: {}, reason: undefined },
  { name: 'too much cpu', input: { pod: asking({ cpu: '3' }) }, reason: 'OutOfcpu' },
  {
    name: 'too much cpu and another node wanted: resources come first',
    input: { pod: asking({ cpu: '3' }, { nodeSelector: { zone: 'b' } }) },
    reason: 'OutOfcpu',
  },
  { name: 'too many pods', input: { node: crowded, active: [asking({}), asking({}), asking({})] }, reason: 'OutOfpods' },
  { name: 'huge pages that the node has none of', input: { pod: asking({ 'hugepages-1Gi': '1Gi' }) }, reason: 'OutOfhugepages-1Gi' },
  { name: 'an extended resource that is not the node’s', input: { pod: asking({ 'example.com/x': '1' }) }, reason: undefined },
  { name: 'another node wanted', input: { pod: pod({ nodeSelector: { zone: 'b' } }) }, reason: 'NodeAffinity' },
  { name: 'safe sysctl', input: { pod: sysctl('net.ipv4.tcp_syncookies') }, reason: undefined },
  { name: 'safe sysctl with slashes', input: { pod: sysctl('net/ipv4/tcp_syncookies') }, reason: undefined },
  {
    name: 'safe sysctl in the host’s network',
    input: { pod: sysctl('net.ipv4.tcp_syncookies', { hostNetwork: true }) },
    reason: 'SysctlForbidden',
  },
  {
    name: 'sysctl that this kernel has for all at once',
    input: { pod: sysctl('net.ipv4.tcp_rmem'), kernelVersion: '4.14.2' },
    reason: 'SysctlForbidden',
  },
  {
    name: 'sysctl that this kernel has per namespace',
    input: { pod: sysctl('net.ipv4.tcp_rmem'), kernelVersion: '4.15.0' },
    reason: undefined,
  },
  { name: 'unsafe sysctl', input: { pod: sysctl('kernel.msgmax') }, reason: 'SysctlForbidden' },
  {
    name: 'unsafe sysctl that is allowed',
    input: { pod: sysctl('kernel.msgmax'), allowedUnsafeSysctls: ['kernel.msg*'] },
    reason: undefined,
  },
  {
    name: 'the same in the host’s IPC',
    input: { pod: sysctl('kernel.msgmax', { hostIPC: true }), allowedUnsafeSysctls: ['kernel.msg*'] },
    reason: 'SysctlForbidden',
  },
  { name: 'AppArmor profile', input: { pod: armored }, reason: undefined },
  { name: 'AppArmor profile without AppArmor', input: { pod: armored, appArmor: false }, reason: 'AppArmor' },
  {
    name: 'unconfined without AppArmor',
    input: { pod: pod({ securityContext: { appArmorProfile: { type: 'Unconfined' } } }), appArmor: false },
    reason: undefined,
  },
  {
    name: 'AppArmor profile without a name',
    input: { pod: pod({ securityContext: { appArmorProfile: { type: 'Localhost', localhostProfile: ' ' } } }) },
    reason: 'AppArmor',
  },
  { name: 'another operating system', input: { pod: pod({ os: { name: 'windows' } }) }, reason: 'PodOSNotSupported' },
  { name: 'this operating system', input: { pod: pod({ os: { name: 'linux' } }) }, reason: undefined },
  {
    name: 'strict groups on a runtime without them',
    input: { pod: pod({ securityContext: { supplementalGroupsPolicy: 'Strict' } }) },
    reason: 'SupplementalGroupsPolicyNotSupported',
  },
  {
    name: 'resource claims',
    input: { pod: pod({ resourceClaims: [{ name: 'gpu', resourceClaimName: 'x' }] }) },
    reason: 'ResourceClaimsNotSupported',
  },
  {
    name: 'a taint that a pod does not tolerate',
    input: { node: { ...node, spec: { taints: [{ key: 'k', effect: 'NoExecute' }] } } },
    reason: 'TaintToleration',
  },
  {
    name: 'the same for a static pod',
    input: {
      node: { ...node, spec: { taints: [{ key: 'k', effect: 'NoExecute' }] } },
      pod: pod({}, { annotations: { 'kubernetes.io/config.source': 'file' } }),
    },
    reason: undefined,
  },
  {
    name: 'a critical pod that nobody can make room for',
    input: { pod: asking({ cpu: '3' }, critical), active: [asking({ cpu: '500m' })] },
    reason: 'UnexpectedAdmissionError',
  },
  {
    name: 'a critical pod that wants another node and has no room: nobody is ended for it',
    input: { pod: asking({ cpu: '2' }, { ...critical, nodeSelector: { zone: 'b' } }), active: [asking({ cpu: '500m' })] },
    reason: 'NodeAffinity',
  },
];
for (const { name, input, reason } of cases) {
  test(`admission: ${name}`, () => {
    const answer = admit(input);
    assert.equal(answer !== undefined && 'reason' in answer ? answer.reason : answer, reason);
  });
}

const small = asking({ cpu: '100m' });
const medium = asking({ cpu: '500m' });
const large = asking({ cpu: '1' });
const guaranteed = asking({ cpu: '400m', memory: '1Gi' }, {}, { cpu: '400m', memory: '1Gi' });
const effortless = asking({});
const important = asking({ cpu: '500m' }, critical);
const victims: { name: string; on?: AgentNode; wants: AgentPod; active: AgentPod[]; goes: AgentPod[] }[] = [
  {
    name: 'the smallest that suffices',
    wants: asking({ cpu: '500m' }, critical),
    active: [small, medium, large, guaranteed],
    goes: [medium],
  },
  {
    name: 'the larger one where the small ones do not suffice',
    wants: asking({ cpu: '900m' }, critical),
    active: [small, medium, large, guaranteed],
    goes: [large],
  },
  { name: 'burstable before guaranteed', wants: asking({ cpu: '500m' }, critical), active: [large, guaranteed, medium], goes: [medium] },
  { name: 'never another critical one', wants: asking({ cpu: '300m' }, critical), active: [important, medium, large], goes: [medium] },
  {
    name: 'best effort for a place',
    on: crowded,
    wants: asking({}, critical),
    active: [effortless, medium, guaranteed],
    goes: [effortless],
  },
];
for (const { name, on, wants, active, goes } of victims) {
  test(`preemption: ${name}`, () => {
    const answer = admit({ pod: wants, active, node: on ?? node });
    assert.ok(answer !== undefined && 'victims' in answer, JSON.stringify(answer));
    assert.deepEqual(
      answer.victims.map((v) => v.metadata.name),
      goes.map((v) => v.metadata.name),
    );
    assert.equal(answer.resource, on === undefined ? 'cpu' : 'pods');
  });
}
