// The reasons of events that upstream's kubelet records, read out of its source.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** By reason: the file, below k8s.io/kubernetes, that names it first. */
export type EventCatalogue = Record<string, string>;

// Where events of the kubelet's process come from: the volume operations are the kubelet's too, unless the controller manager runs them.
const folders = ['pkg/kubelet', 'pkg/volume'];

// Reasons that reach a recorder as a variable: files with the constants, and which of them are reasons of events.
const constants: { file: string; names: RegExp; why: string }[] = [
  { file: 'pkg/kubelet/events/event.go', names: /^\w+$/, why: 'the catalogue' },
  { file: 'pkg/kubelet/active_deadline.go', names: /^reason$/, why: 'ShouldEvict' },
  { file: 'pkg/kubelet/eviction/helpers.go', names: /^Reason$/, why: 'evictPod, and the refusal of new pods' },
  { file: 'pkg/kubelet/oom/oom_watcher_linux.go', names: /^systemOOMEvent$/, why: 'Start' },
  { file: 'pkg/kubelet/sysctl/allowlist.go', names: /^ForbiddenReason$/, why: 'refused pods (Kubelet.rejectPod)' },
  { file: 'pkg/kubelet/lifecycle/handlers.go', names: /Reason$|^PodFeatureUnsupported$/, why: 'refused pods' },
  { file: 'pkg/kubelet/lifecycle/predicate.go', names: /^(?!InsufficientResourcePrefix)\w+$/, why: 'refused pods' },
  { file: 'pkg/kubelet/cm/admission/errors.go', names: /^ErrorReason/, why: 'refused pods' },
  { file: 'pkg/kubelet/cm/cpumanager/policy_static.go', names: /^ErrorSMTAlignment$/, why: 'refused pods' },
  { file: 'pkg/kubelet/cm/topologymanager/topology_manager.go', names: /^ErrorTopologyAffinity$/, why: 'refused pods' },
  { file: 'pkg/kubelet/nodeshutdown/nodeshutdown_manager.go', names: /^NodeShutdownNotAdmittedReason$/, why: 'refused pods' },
  { file: 'pkg/kubelet/volumemanager/volume_manager.go', names: /^VolumeAttachmentLimitExceededReason$/, why: 'refused pods' },
];

/** Names of scheduler plugins whose refusals the kubelet repeats (lifecycle/predicate.go PredicateFailureError). */
const predicates: EventCatalogue = {
  NodeAffinity: 'pkg/scheduler/framework/plugins/nodeaffinity/node_affinity.go',
  NodeName: 'pkg/scheduler/framework/plugins/nodename/node_name.go',
  NodePorts: 'pkg/scheduler/framework/plugins/nodeports/node_ports.go',
  TaintToleration: 'pkg/scheduler/framework/plugins/tainttoleration/taint_toleration.go',
};

/** Reads the catalogue out of a checkout of k8s.io/kubernetes. */
export function readEventCatalogue(kubernetes: string): EventCatalogue {
  const found: EventCatalogue = { ...predicates };
  for (const { file, names } of constants) {
    for (const [, name = '', value = ''] of readFileSync(join(kubernetes, file), 'utf8').matchAll(
      /^\s*(?:const )?(\w+)\s+(?:string )?= "(\w+)"$/gm,
    ))
      if (names.test(name)) found[value] ??= file;
  }
  for (const folder of folders) {
    for (const name of readdirSync(join(kubernetes, folder), { recursive: true, encoding: 'utf8' }).sort()) {
      if (!name.endsWith('.go') || name.endsWith('_test.go')) continue;
      const file = join(folder, name);
      for (const [, reason = ''] of readFileSync(join(kubernetes, file), 'utf8').matchAll(/EventType(?:Normal|Warning), "(\w+)"/g))
        found[reason] ??= file;
    }
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}
