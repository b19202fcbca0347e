import type { ReadonlyTable } from '../../base/table.ts';
import type { Pod } from '../../model/generated/api.ts';
import type { AgentPod } from '../../model/pod.ts';
import type { RuntimeContainer, RuntimePod } from '../../pods/observed.ts';
import type { PodSpecRow, PodStatusRow } from '../../pods/worker.ts';
import type { NodeView } from '../../server/contracts.ts';

/** The pods' tables as the server looks at them. */
export function createNodeView(
  specs: ReadonlyTable<PodSpecRow>,
  statuses: ReadonlyTable<PodStatusRow>,
  runtime: ReadonlyTable<RuntimePod>,
): NodeView {
  const withStatus = (row: PodSpecRow): AgentPod => {
    const status = statuses.get(row.pod.metadata.uid)?.status;
    return status === undefined ? row.pod : { ...row.pod, status };
  };
  const findContainer = (id: string): { pod: RuntimePod; container: RuntimeContainer } | undefined => {
    for (const pod of runtime.values()) {
      const container = pod.containers.find((c) => c.id === id);
      if (container !== undefined) return { pod, container };
    }
    return undefined;
  };
  return {
    *pods() {
      for (const row of specs.values()) yield withStatus(row);
    },
    pod(namespace, name) {
      const rows = [...specs.values()].filter(({ pod }) => pod.metadata.namespace === namespace && pod.metadata.name === name);
      // Of a static pod and its successor the one that has something running answers.
      const row = rows.find(({ pod }) => runtime.has(pod.metadata.uid)) ?? rows[0];
      return row === undefined ? undefined : withStatus(row);
    },
    *runningPods() {
      for (const pod of runtime.values()) {
        const running = pod.containers.filter((c) => c.state === 'running');
        if (running.length === 0) continue;
        const shown: Pod = {
          metadata: { name: pod.name, namespace: pod.namespace, uid: pod.uid },
          spec: { containers: running.map((c) => ({ name: c.name, image: c.image })) },
        };
        yield shown;
      }
    },
    runningContainer: (uid, name) => runtime.get(uid)?.containers.find((c) => c.name === name && c.state === 'running')?.id,
    readySandbox: (uid) => runtime.get(uid)?.sandboxes.find((s) => s.ready)?.id,
    containerLog(id) {
      const found = findContainer(id);
      return found === undefined || found.container.logPath === '' ? undefined : { path: found.container.logPath };
    },
    isRunning: (id) => findContainer(id)?.container.state === 'running',
    onContainerChange(id, listener) {
      const uid = findContainer(id)?.pod.uid;
      return runtime.subscribe((changed) => {
        if (changed === uid) listener();
      });
    },
  };
}
