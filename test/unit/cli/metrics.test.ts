import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { createNodeMetrics } from '../../../agent/cli/wiring/metrics.ts';
import { createResourcePage, resourceMetricsText } from '../../../agent/cli/wiring/resource-metrics.ts';
import type { CriClient } from '../../../agent/drivers/cri/client.ts';
import type { Occurrence } from '../../../agent/pods/apply.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import type { PodActivity, PodSpecRow, PodStatusRow } from '../../../agent/pods/worker.ts';
import type { Summary } from '../../../agent/stats/summary.ts';
import { pod, runtimePod } from '../pods/build.ts';

const signal = new AbortController().signal;

/** Samples by series, of text whose every line has the form of the exposition format. */
function parse(text: string): Map<string, number> {
  const samples = new Map<string, number>();
  const types = new Map<string, string>();
  for (const line of text.split('\n').slice(0, -1)) {
    const type = /^# TYPE (\w+) (counter|gauge|histogram)$/.exec(line);
    if (type !== null) {
      assert.ok(!types.has(type[1]!), `${type[1]} is there twice`);
      types.set(type[1]!, type[2]!);
      continue;
    }
    if (line.startsWith('# HELP ')) continue;
    const sample = /^((\w+)(?:\{(?:\w+="(?:[^"\\]|\\.)*",?)*\})?) (\S+)(?: \d+)?$/.exec(line);
    assert.ok(sample !== null, line);
    const [, series = '', name = '', value] = sample;
    const family = types.has(name) ? name : name.replace(/_(bucket|sum|count)$/, '');
    assert.ok(types.has(family), `${name} has no type`);
    assert.ok(!samples.has(series), `${series} is there twice`);
    samples.set(series, Number(value));
  }
  return samples;
}

describe('node metrics', () => {
  const clockAt = (state: { now: number }) => ({ ...systemClock, mono: () => state.now, wall: () => 1_800_000_000_000 + state.now });

  test('calls of the runtime are counted and timed, and stay what they are', async () => {
    const state = { now: 0 };
    const metrics = createNodeMetrics('n1', 'v1.36.1', clockAt(state));
    const cri = metrics.instrument({
      version: async () => {
        state.now += 30;
        return { runtime_name: 'fake' };
      },
      runPodSandbox: async () => ({ pod_sandbox_id: 's' }),
      startContainer: async () => {
        throw new AgentError('NotFound', 'no such container');
      },
      containerEvents: 'untouched',
    } as unknown as CriClient);
    assert.deepEqual(await cri.version({}, signal), { runtime_name: 'fake' });
    await cri.runPodSandbox({}, signal);
    await assert.rejects(cri.startContainer({ container_id: 'c' }, signal), /no such container/);
    assert.equal(cri.containerEvents as unknown, 'untouched');
    const samples = parse(metrics.registry.text());
    assert.equal(samples.get('kubelet_runtime_operations_total{operation_type="version"}'), 1);
    assert.equal(samples.get('kubelet_runtime_operations_duration_seconds_sum{operation_type="version"}'), 0.03);
    assert.equal(samples.get('kubelet_runtime_operations_errors_total{operation_type="start_container"}'), 1);
    assert.equal(samples.get('kubelet_runtime_operations_errors_total{operation_type="version"}'), undefined);
    assert.equal(samples.get('kubelet_started_pods_total'), 1);
    assert.equal(samples.get('kubelet_node_name{node="n1"}'), 1);
    assert.ok((samples.get('process_open_fds') ?? 0) > 2);
  });

  test('pods with users of their own are counted, and each of their calls that fails', async () => {
    const metrics = createNodeMetrics('n1', 'v1.36.1', clockAt({ now: 0 }));
    const fail = async (): Promise<never> => {
      throw new AgentError('Unknown', 'no');
    };
    const calls: Record<string, () => Promise<object>> = {
      runPodSandbox: async () => ({ pod_sandbox_id: 's' }),
      createContainer: async () => ({ container_id: 'c' }),
      startContainer: fail,
      removeContainer: async () => ({}),
    };
    const cri = metrics.instrument(
      Object.fromEntries(Object.keys(calls).map((name) => [name, () => calls[name]?.()])) as unknown as CriClient,
    );
    const config = (mode: 'POD' | 'NODE') => ({ linux: { security_context: { namespace_options: { userns_options: { mode } } } } });
    const counts = (): (number | undefined)[] => {
      const samples = parse(metrics.registry.text());
      return ['', 'errors_'].map((part) => samples.get(`kubelet_started_user_namespaced_pods_${part}total`));
    };
    assert.deepEqual(counts(), [0, 0]);
    await cri.runPodSandbox({ config: config('NODE') }, signal);
    await cri.createContainer({ pod_sandbox_id: 's', sandbox_config: config('NODE') }, signal);
    await assert.rejects(cri.startContainer({ container_id: 'c' }, signal));
    assert.deepEqual(counts(), [0, 0]);
    await cri.runPodSandbox({ config: config('POD') }, signal);
    await cri.createContainer({ pod_sandbox_id: 's', sandbox_config: config('POD') }, signal);
    assert.deepEqual(counts(), [1, 0]);
    await assert.rejects(cri.startContainer({ container_id: 'c' }, signal));
    assert.deepEqual(counts(), [1, 1]);
    calls.runPodSandbox = fail;
    await assert.rejects(cri.runPodSandbox({ config: config('POD') }, signal));
    assert.deepEqual(counts(), [2, 2]);
    // A container that was made and removed is not remembered.
    await cri.createContainer({ pod_sandbox_id: 's', sandbox_config: config('POD') }, signal);
    await cri.removeContainer({ container_id: 'c' }, signal);
    await assert.rejects(cri.startContainer({ container_id: 'c' }, signal));
    assert.deepEqual(counts(), [2, 2]);
  });

  test('a pod from the first sight to running; its status from the change to the API', () => {
    const state = { now: 1000 };
    const metrics = createNodeMetrics('n1', 'v1.36.1', clockAt(state));
    const specs = new Table<PodSpecRow>('specs');
    const statuses = new Table<PodStatusRow>('statuses');
    const created = new Date(1_800_000_000_000).toISOString();
    const web = pod({}, { creationTimestamp: created });
    // Two pulls at once from 1 to 3 s.
    const steps = [
      { step: 'pullImage a', startedAt: 1_800_000_001_000, tookMs: 2000 },
      { step: 'pullImage b', startedAt: 1_800_000_001_500, tookMs: 500 },
    ];
    const activity = (): PodActivity => ({ lifecycle: 'syncing', waiting: [], inFlight: [], steps });
    const pods = { statuses, activity, poke: () => undefined, [Symbol.asyncDispose]: async () => undefined };
    using _watch = metrics.watch({ specs, runtime: new Table<RuntimePod>('runtime'), pods: pods as never, mirrors: undefined });
    const show = (phase: string, running: boolean): void =>
      statuses.set('u1', {
        pod: web,
        cleanedUp: false,
        status: {
          phase,
          containerStatuses: [
            { name: 'a', image: '', imageID: '', ready: false, restartCount: 0, state: running ? { running: {} } : { waiting: {} } },
          ],
        },
      });
    specs.set('u1', { pod: web, source: 'api' });
    show('Pending', false);
    state.now = 1200;
    metrics.statusShown('u1', true);
    state.now = 6000;
    show('Running', true);
    metrics.statusShown('u1', false);
    const samples = parse(metrics.registry.text());
    assert.equal(samples.get('kubelet_pod_start_duration_seconds_sum'), 5);
    assert.equal(samples.get('kubelet_pod_start_total_duration_seconds_sum'), 6);
    assert.equal(samples.get('kubelet_pod_start_sli_duration_seconds_sum'), 4);
    assert.equal(samples.get('kubelet_pod_status_sync_duration_seconds_sum'), 0.2);
    assert.equal(samples.get('kubelet_pod_status_sync_duration_seconds_count'), 1);
    assert.equal(samples.get('kubelet_desired_pods{static=""}'), 1);
    assert.equal(samples.get('kubelet_active_pods{static="true"}'), 0);
  });

  test('each end of a container is counted once, and not what was shown before', () => {
    const metrics = createNodeMetrics('n1', 'v1.36.1', clockAt({ now: 0 }));
    const statuses = new Table<PodStatusRow>('statuses');
    const specs = new Table<PodSpecRow>('specs');
    using _watch = metrics.watch({
      specs,
      runtime: new Table<RuntimePod>('runtime'),
      pods: { statuses, activity: () => undefined } as never,
      mirrors: undefined,
    });
    const end = (containerID: string, exitCode: number, reason: string) => ({ terminated: { containerID, exitCode, reason } });
    const status = (state: object, lastState: object) => ({
      containerStatuses: [{ name: 'a', image: '', imageID: '', ready: false, restartCount: 0, state, lastState }],
    });
    const row = (now: ReturnType<typeof status>): PodStatusRow => ({
      pod: { ...pod({}), status: status({ running: {} }, end('c://0', 1, 'Error')) },
      cleanedUp: false,
      status: now,
    });
    statuses.set('u1', row(status({ running: {} }, end('c://0', 1, 'Error'))));
    statuses.set('u1', row(status(end('c://1', 139, 'Error'), end('c://0', 1, 'Error'))));
    // A container that ended and was made again between two statuses.
    statuses.set('u1', row(status({ waiting: {} }, end('c://2', 139, 'Error'))));
    statuses.set('u1', row(status(end('c://3', 0, 'Completed'), end('c://2', 139, 'Error'))));
    const samples = parse(metrics.registry.text());
    const count = (labels: string): number | undefined => samples.get(`kubelet_terminated_containers_total{${labels}}`);
    assert.equal(count('container_type="container",exit_code="139",reason="Error"'), 2);
    assert.equal(count('container_type="container",exit_code="0",reason="Completed"'), 1);
    assert.equal(count('container_type="container",exit_code="1",reason="Error"'), undefined);
  });

  const occurrences: [Occurrence, string, number][] = [
    [{ kind: 'sandboxFailed' }, 'kubelet_started_pods_errors_total', 1],
    [
      { kind: 'containerFailed', fieldPath: 'spec.initContainers{a}', code: 'ErrImagePull' },
      'kubelet_started_containers_errors_total{container_type="init_container",code="ErrImagePull"}',
      1,
    ],
    [{ kind: 'hookFellBack' }, 'kubelet_lifecycle_handler_http_fallbacks_total', 1],
    [{ kind: 'sleepCut' }, 'kubelet_sleep_action_terminated_early_total', 1],
    [{ kind: 'refused', reason: 'OutOfcpu' }, 'kubelet_admission_rejections_total{reason="OutOfcpu"}', 1],
    [{ kind: 'refused', reason: 'OutOfexample.com/gpu' }, 'kubelet_admission_rejections_total{reason="OutOfExtendedResources"}', 1],
    [{ kind: 'refused', reason: 'NodeAffinity' }, 'kubelet_admission_rejections_total{reason="Other"}', 1],
    [{ kind: 'preempted', resource: 'memory' }, 'kubelet_preemptions{preemption_signal="memory"}', 1],
    [{ kind: 'returned', isStatic: true }, 'kubelet_restarted_pods_total{static="true"}', 1],
    [{ kind: 'returned', isStatic: true }, 'kubelet_restarted_pods_total{static=""}', 0],
  ];
  for (const [what, series, value] of occurrences)
    test(`${JSON.stringify(what)} counts in ${series}`, () => {
      const metrics = createNodeMetrics('n1', 'v1.36.1', clockAt({ now: 0 }));
      metrics.occurred(what);
      assert.equal(parse(metrics.registry.text()).get(series), value);
    });

  test('pulls are told by how large the image is', () => {
    const metrics = createNodeMetrics('n1', 'v1.36.1', clockAt({ now: 0 }));
    for (const sizeBytes of [0, 5e6, 10 * 1024 ** 2, 2 * 1024 ** 3, 200 * 1024 ** 3]) metrics.pulled(sizeBytes, 1500);
    const samples = parse(metrics.registry.text());
    const count = (size: string) => samples.get(`kubelet_image_pull_duration_seconds_count{image_size_in_bytes="${size}"}`);
    assert.deepEqual(['N/A', '0-10MB', '10MB-100MB', '1GB-5GB', 'GT100GB'].map(count), [1, 2, undefined, 1, 1]);
    assert.equal(samples.get('kubelet_image_pull_duration_seconds_sum{image_size_in_bytes="1GB-5GB"}'), 1.5);
  });

  test('pods at work: asked for, no longer asked for, and found in the runtime alone', () => {
    const metrics = createNodeMetrics('n1', 'v1.36.1', clockAt({ now: 0 }));
    const specs = new Table<PodSpecRow>('specs');
    const runtime = new Table<RuntimePod>('runtime');
    const lifecycles = new Map<string, PodActivity['lifecycle']>([
      ['wanted', 'syncing'],
      ['removed', 'terminating'],
      ['found', 'terminated'],
    ]);
    const activity = (uid: string) => ({ lifecycle: lifecycles.get(uid) });
    using _watch = metrics.watch({ specs, runtime, pods: { statuses: new Table('statuses'), activity } as never, mirrors: undefined });
    for (const uid of ['wanted', 'removed']) specs.set(uid, { pod: pod({}, { uid }), source: 'api' });
    specs.delete('removed');
    for (const uid of ['wanted', 'removed', 'found']) runtime.set(uid, { ...runtimePod(), uid });
    const samples = parse(metrics.registry.text());
    const working = [...samples].filter(([series]) => series.startsWith('kubelet_working_pods'));
    assert.equal(working.length, 15);
    assert.deepEqual(
      working.filter(([, value]) => value > 0),
      [
        ['kubelet_working_pods{lifecycle="sync",config="desired",static=""}', 1],
        ['kubelet_working_pods{lifecycle="terminating",config="orphan",static=""}', 1],
        ['kubelet_working_pods{lifecycle="terminated",config="runtime_only",static="unknown"}', 1],
      ],
    );
  });

  test('relists: how long, how far apart, when', () => {
    const state = { now: 0 };
    const metrics = createNodeMetrics('n1', 'v1.36.1', clockAt(state));
    metrics.relisted(50, 50);
    metrics.relisted(30, 10_030);
    const samples = parse(metrics.registry.text());
    assert.equal(samples.get('kubelet_pleg_relist_duration_seconds_count'), 2);
    assert.equal(samples.get('kubelet_pleg_relist_interval_seconds_sum'), 10);
  });
});

describe('/metrics/resource', () => {
  const cpu = { time: 1_800_000_001_000, usageCoreNanoSeconds: 2_500_000_000 };
  const memory = { time: 1_800_000_001_000, workingSetBytes: 4096 };
  const summary: Summary = {
    node: {
      nodeName: 'n1',
      startTime: 0,
      systemContainers: [],
      cpu: { time: 1_800_000_001_500, usageCoreNanoSeconds: 13_330_000_000 },
      memory: { time: 1_800_000_001_500, workingSetBytes: 512_000 },
      swap: { time: 1_800_000_001_500, swapUsageBytes: 61_440 },
    },
    pods: [
      {
        podRef: { name: 'web', namespace: 'default', uid: 'u1' },
        startTime: 1_800_000_000_000,
        containers: [{ name: 'a', startTime: 1_800_000_000_500, cpu, memory }],
        cpu,
        memory,
      },
    ],
  };

  test('node, pods and containers', () => {
    const text = resourceMetricsText(summary);
    assert.deepEqual(Object.fromEntries(parse(text)), {
      'container_cpu_usage_seconds_total{container="a",pod="web",namespace="default"}': 2.5,
      'container_memory_working_set_bytes{container="a",pod="web",namespace="default"}': 4096,
      'container_start_time_seconds{container="a",pod="web",namespace="default"}': 1_800_000_000.5,
      node_cpu_usage_seconds_total: 13.33,
      node_memory_working_set_bytes: 500 * 1024,
      node_swap_usage_bytes: 60 * 1024,
      'pod_cpu_usage_seconds_total{pod="web",namespace="default"}': 2.5,
      'pod_memory_working_set_bytes{pod="web",namespace="default"}': 4096,
      resource_scrape_error: 0,
    });
    assert.match(text, /^node_cpu_usage_seconds_total 13.33 1800000001500$/m);
    assert.match(text, /^pod_cpu_usage_seconds_total\{[^}]*\} 2.5 1800000001000$/m);
  });

  test('statistics that cannot be read', async () => {
    const page = createResourcePage({ log: silentLog, summary: async () => Promise.reject(new AgentError('Unavailable', 'no')) });
    const { body } = await page(new URLSearchParams(), signal);
    assert.deepEqual([...parse(body)], [['resource_scrape_error', 1]]);
  });
});
