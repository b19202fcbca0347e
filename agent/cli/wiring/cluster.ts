import { systemClock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { Table } from '../../base/table.ts';
import type { Config } from '../../config/config.ts';
import { createKubeClient, type KubeClient } from '../../drivers/kube/client.ts';
import { createEventRecorder, type EventRecorder } from '../../drivers/kube/events.ts';
import { reflect } from '../../drivers/kube/reflector.ts';
import type { Pod, RuntimeClass, Service } from '../../model/generated/api.ts';
import { kubernetesVersion } from '../../model/kubernetes-version.ts';
import { type AgentNode, type AgentPod, fromApi, isMirrorPod } from '../../model/pod.ts';
import type { PodSpecRow } from '../../pods/worker.ts';
import { ensureNodeCredentials, prepareClientRotation } from '../node-identity.ts';

const clock = systemClock;
export const userAgent = `keelson/0.1.0 kubelet/${kubernetesVersion}`;

/** The API server's side of the node; absent standalone. */
export interface Cluster {
  readonly client: KubeClient;
  readonly recorder: EventRecorder;
  readonly nodes: Table<AgentNode>;
  readonly services: Table<Service>;
  readonly runtimeClasses: Table<RuntimeClass>;
  readonly pods: Table<PodSpecRow>;
  /** What the API shows of this node's static pods, by UID. */
  readonly mirrors: Table<AgentPod>;
}

/** Opens the API server's side: credentials, client, events, and what the node watches. Throws AgentError for credentials that cannot be had. */
export async function openCluster(
  config: Config,
  nodeName: string,
  stack: AsyncDisposableStack,
  log: Log,
  signal: AbortSignal,
): Promise<Cluster> {
  const kc = config.kubelet;
  const credentials = {
    kubeconfig: config.kubeconfig ?? '',
    bootstrapKubeconfig: config.bootstrapKubeconfig,
    certDir: config.certDir,
    nodeName,
    clock,
    log,
    userAgent,
  };
  const auth = await ensureNodeCredentials(credentials, signal);
  const rotation = kc.rotateCertificates ? stack.use(await prepareClientRotation(auth, credentials, signal)) : undefined;
  const client = stack.use(
    createKubeClient({ auth: rotation?.auth ?? auth, clock, log, userAgent, qps: kc.kubeAPIQPS, burst: kc.kubeAPIBurst }),
  );
  await rotation?.start(client);
  const recorder = stack.use(createEventRecorder({ client, clock, log, nodeName, qps: kc.eventRecordQPS, burst: kc.eventBurst }));
  const nodes = new Table<AgentNode>('nodes');
  const services = new Table<Service>('services');
  const runtimeClasses = new Table<RuntimeClass>('runtimeclasses');
  const pods = new Table<PodSpecRow>('api-pods');
  const mirrors = new Table<AgentPod>('mirrors');
  const common = { client, clock, log, signal };
  stack.use(reflect<AgentNode>({ ...common, path: '/api/v1/nodes', query: { fieldSelector: `metadata.name=${nodeName}` }, table: nodes }));
  stack.use(reflect<Service>({ ...common, path: '/api/v1/services', table: services }));
  stack.use(reflect<RuntimeClass>({ ...common, path: '/apis/node.k8s.io/v1/runtimeclasses', table: runtimeClasses }));
  stack.use(
    reflect<Pod>({
      ...common,
      path: '/api/v1/pods',
      query: { fieldSelector: `spec.nodeName=${nodeName}` },
      keyOf: (pod) => pod.metadata?.uid ?? '',
      // Mirrors only show static pods: they are never run. Whether a pod is one never changes.
      onEvent: ({ type, key, object }) => {
        const pod = object as AgentPod;
        if (isMirrorPod(pod)) {
          if (type === 'set') mirrors.set(key, pod);
          else mirrors.delete(key);
        } else if (type === 'set') pods.set(key, { pod: fromApi(pod), source: 'api' });
        else pods.delete(key);
      },
      onSynced: () => {
        mirrors.markSynced();
        pods.markSynced();
      },
    }),
  );
  return { client, recorder, nodes, services, runtimeClasses, pods, mirrors };
}
