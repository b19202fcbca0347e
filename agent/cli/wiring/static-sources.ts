import type { ProxyAgent } from 'undici';
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { type ReadonlyTable, Table } from '../../base/table.ts';
import { type Config, isEnabled } from '../../config/config.ts';
import { readDated } from '../../drivers/files/look.ts';
import { proxyAgentFor } from '../../drivers/kube/tunnel.ts';
import type { AgentPod, PodSource } from '../../model/pod.ts';
import { type FileSourceOptions, type StaticSource, startFileSource } from '../../pods/file-source.ts';
import { startHttpSource } from '../../pods/http-source.ts';
import { duplicateNameMessage } from '../../pods/pod-events.ts';
import type { PodSpecRow } from '../../pods/worker.ts';

export interface StaticSources extends StaticSource {
  readonly tables: readonly ReadonlyTable<PodSpecRow>[];
}

export interface StaticSourceDeps {
  readonly nodeName: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Remembers manifests over restarts of the agent. */
  readonly manifests: FileSourceOptions['memory'];
  readonly recordEvent: (pod: AgentPod, type: 'Warning', reason: 'FailedValidation', message: string) => void;
}

/** The sources of static pods that the configuration names: staticPodPath and staticPodURL. */
export function startStaticSources(
  config: Config,
  { nodeName, clock, log, manifests, recordEvent }: StaticSourceDeps,
  signal: AbortSignal,
): StaticSources {
  const kc = config.kubelet;
  const tables: Table<PodSpecRow>[] = [];
  const sources: StaticSource[] = [];
  let dispatcher: ProxyAgent | undefined;
  const refuse = (source: PodSource) => (pod: AgentPod, files?: { readonly ignored: string; readonly owner: string }) =>
    recordEvent(
      pod,
      'Warning',
      'FailedValidation',
      `${duplicateNameMessage(pod, source)}${files === undefined ? '' : `: ${files.owner} had it before ${files.ignored}`}`,
    );
  const common = {
    nodeName,
    clock,
    log,
    signal,
    // Beside an API server an unknown field is what it is to a kubelet: ignored. Standalone, a person has mistyped it.
    unknownFields: config.kubeconfig === undefined ? 'refuse' : 'warn',
    allowApiReferences: !isEnabled(config, 'PreventStaticPodAPIReferences'),
  } as const;
  if (kc.staticPodPath !== '') {
    const table = new Table<PodSpecRow>('file-pods');
    tables.push(table);
    sources.push(
      startFileSource({
        ...common,
        readFile: readDated,
        duplicate: refuse('file'),
        memory: manifests,
        table,
        path: kc.staticPodPath,
        checkIntervalMs: kc.fileCheckFrequency,
      }),
    );
  }
  if (kc.staticPodURL !== '') {
    const table = new Table<PodSpecRow>('http-pods');
    tables.push(table);
    const { staticPodURL: url, staticPodURLHeader: headers, httpCheckFrequency } = kc;
    dispatcher = proxyAgentFor(url, process.env);
    sources.push(
      startHttpSource({ ...common, duplicate: refuse('http'), table, url, headers, dispatcher, checkIntervalMs: httpCheckFrequency }),
    );
  }
  return {
    tables,
    async drain() {
      await Promise.all(sources.map((source) => source.drain()));
    },
    problems: () => new Map(sources.flatMap((source) => [...source.problems()])),
    passedOver: () => new Map(sources.flatMap((source) => [...source.passedOver()])),
    async [Symbol.asyncDispose]() {
      await Promise.all(sources.map((source) => source[Symbol.asyncDispose]()));
      await dispatcher?.destroy();
    },
  };
}
