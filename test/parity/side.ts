// One of the two nodes of the comparison, as the API shows what it does.
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stringify } from 'yaml';
import type { Event, Pod } from '../../agent/model/generated/api.ts';
import { api } from '../testbed/control-plane.ts';
import { watchPods } from '../testbed/pod-watch.ts';
import { type AgentKind, type LabRecord, labPaths, type NodeRecord } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';
import type { Act, Case, NamespacedObject } from './case.ts';
import { isAgentEvent, linesOf, type Side, type View } from './normalise.ts';
import { fixtures } from './pods/parts.ts';

export type LiveSide = Side & {
  readonly agent: AgentKind;
  /** What is known of the pod of a case: its state now, or the last one before it went. */
  view(one: Case): View;
  /** What is told of the pod of a case: as it is now, or of one that loops all that was told. */
  lines(one: Case): string[];
  isGone(one: Case): boolean;
  create(one: Case): Promise<void>;
  act(one: Case, act: Act): Promise<void>;
  /** Removes the pod whatever holds it; one that is gone is fine. */
  remove(one: Case): Promise<void>;
  /** What the agent recorded about its Node. */
  nodeEvents(): Promise<Event[]>;
} & AsyncDisposable;

const eventsEveryMs = 500;

/** Makes the namespace of a side and what its pods find there, and looks at it from then on. */
export async function openSide(lab: LabRecord, node: NodeRecord, namespace: string): Promise<LiveSide> {
  const home = `/api/v1/namespaces/${namespace}`;
  const manifests = join(labPaths(lab.name).node(node.id).home, 'etc-kubernetes', 'manifests');
  const seen = new Map<string, Pod>();
  let events = new Map<string, Event[]>();
  const ended = new AbortController();

  await api(lab, '/api/v1/namespaces', { method: 'POST', body: { metadata: { name: namespace } } });
  await waitFor(`the service account of ${namespace}`, 30_000, () => api(lab, `${home}/serviceaccounts/default`));
  for (const one of fixtures) await create(one);
  const side: Side = { nodeName: node.name, namespace };
  /** By name of a pod that loops. */
  const told = new Map<string, Set<string>>();
  const watch = await watchPods(lab, namespace, ({ pod }) => {
    const name = pod.metadata?.name ?? '';
    seen.set(name, pod);
    const before = told.get(name);
    if (before !== undefined) for (const line of linesOf({ pod, events: [] }, side)) before.add(line);
  });
  const looking = lookAtEvents();

  async function create({ kind, name, body }: NamespacedObject): Promise<void> {
    const resource = `${kind.toLowerCase()}s`;
    await api(lab, `${home}/${resource}`, { method: 'POST', body: { apiVersion: 'v1', kind, ...body, metadata: { name } } });
  }

  async function lookAtEvents(): Promise<void> {
    while (!ended.signal.aborted) {
      // A look that fails is followed by another.
      const list = await api<{ items: Event[] }>(lab, `${home}/events?resourceVersion=0`).catch(() => undefined);
      if (list !== undefined) events = Map.groupBy(list.items.filter(isAgentEvent), (event) => event.involvedObject.name ?? '');
      await sleep(eventsEveryMs, undefined, { signal: ended.signal }).catch(() => undefined);
    }
  }

  // The API shows a pod of a manifest under this name.
  const nameOf = (one: Case): string => (one.isStatic === true ? `${one.name}-${node.name}` : one.name);
  const manifestOf = (one: Case): string => join(manifests, `${one.name}.yaml`);
  const podPath = (one: Case): string => `${home}/pods/${nameOf(one)}`;

  const view = (one: Case): View => ({
    pod: watch.pods.get(nameOf(one)) ?? seen.get(nameOf(one)),
    events: events.get(nameOf(one)) ?? [],
  });

  const podFor = (one: Case): Pod => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: one.name,
      namespace,
      ...(one.labels === undefined ? {} : { labels: { ...one.labels } }),
      ...(one.annotations === undefined ? {} : { annotations: { ...one.annotations } }),
      ...(one.finalizers === undefined ? {} : { finalizers: [...one.finalizers] }),
    },
    spec: { automountServiceAccountToken: false, ...one.spec, ...(one.isStatic === true ? {} : { nodeName: node.name }) },
  });

  const unhold = async (one: Case): Promise<void> => {
    const patch = { metadata: { finalizers: null } };
    await api(lab, podPath(one), { method: 'PATCH', body: patch, contentType: 'application/merge-patch+json' });
  };

  return {
    agent: node.agent ?? lab.agent,
    nodeName: node.name,
    namespace,
    view,
    lines: (one) => [...new Set([...(told.get(nameOf(one)) ?? []), ...linesOf(view(one), side)])],
    isGone: (one) => seen.has(nameOf(one)) && !watch.pods.has(nameOf(one)),
    async create(one) {
      if (one.loops === true) told.set(nameOf(one), new Set());
      if (one.isStatic === true) writeFileSync(manifestOf(one), stringify(podFor(one)));
      else await api(lab, `${home}/pods`, { method: 'POST', body: podFor(one) });
    },
    async act(one, act) {
      if (act.act === 'create') for (const object of act.objects) await create(object);
      else if (act.act === 'unhold') await unhold(one);
      else if (act.act === 'delete') {
        const body = act.graceSeconds === undefined ? {} : { gracePeriodSeconds: act.graceSeconds };
        await api(lab, podPath(one), { method: 'DELETE', body });
      } else {
        const path = act.subresource === undefined ? podPath(one) : `${podPath(one)}/${act.subresource}`;
        await api(lab, path, { method: 'PATCH', body: act.patch, contentType: 'application/strategic-merge-patch+json' });
      }
    },
    async remove(one) {
      if (one.isStatic === true) return rmSync(manifestOf(one), { force: true });
      if (!watch.pods.has(nameOf(one))) return;
      try {
        if (one.finalizers !== undefined) await unhold(one);
        await api(lab, podPath(one), { method: 'DELETE', body: { gracePeriodSeconds: 0 } });
      } catch (error) {
        // It may have gone meanwhile.
        if (!(error instanceof Error && error.message.includes(': 404 '))) throw error;
      }
    },
    async nodeEvents() {
      const query = `fieldSelector=${encodeURIComponent(`involvedObject.kind=Node,involvedObject.name=${node.name}`)}`;
      return (await api<{ items: Event[] }>(lab, `/api/v1/namespaces/default/events?${query}`)).items.filter(isAgentEvent);
    },
    async [Symbol.asyncDispose]() {
      ended.abort();
      await looking;
      await watch[Symbol.asyncDispose]();
    },
  };
}
