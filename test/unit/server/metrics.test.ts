import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMetrics, exponentialBuckets } from '../../../agent/server/metrics.ts';
import { registerProbeMetrics, registerProcessMetrics, registerRunningMetrics } from '../../../agent/server/own-metrics.ts';

test('counters, gauges and collected metrics in the text format, families by name', () => {
  const metrics = createMetrics();
  const requests = metrics.counter({ name: 'requests_total', help: 'Requests\nso far \\o/', labels: ['path', 'code'] });
  const up = metrics.gauge({ name: 'a_up', help: 'Up' });
  metrics.gauge({ name: 'unused', help: 'No series: not shown' });
  metrics.collect({ name: 'cpu_seconds_total', help: 'CPU', labels: ['pod'], type: 'counter' }, () => [
    { labels: ['x'], value: 1.5, timestampMs: 1000.4 },
    { labels: ['y'], value: Number.POSITIVE_INFINITY },
  ]);
  requests.inc(['/a "b"\\\n', '200']);
  requests.inc(['/a "b"\\\n', '200'], 2);
  requests.inc(['/', '404']);
  up.set(1);
  up.add(0.5);
  assert.equal(
    metrics.text(),
    [
      '# HELP a_up Up',
      '# TYPE a_up gauge',
      'a_up 1.5',
      '# HELP cpu_seconds_total CPU',
      '# TYPE cpu_seconds_total counter',
      'cpu_seconds_total{pod="x"} 1.5 1000',
      'cpu_seconds_total{pod="y"} +Inf',
      '# HELP requests_total Requests\\nso far \\\\o/',
      '# TYPE requests_total counter',
      'requests_total{path="/a \\"b\\"\\\\\\n",code="200"} 3',
      'requests_total{path="/",code="404"} 1',
      '',
    ].join('\n'),
  );
  requests.remove(['/', '404']);
  assert.ok(!metrics.text().includes('404'));
});

test('histograms count into cumulative buckets', () => {
  const metrics = createMetrics();
  const took = metrics.histogram({ name: 'took_seconds', help: 'Time', labels: ['op'], buckets: [0.1, 1] });
  for (const value of [0.05, 0.1, 0.5, 3]) took.observe(value, ['get']);
  assert.equal(
    metrics.text(),
    [
      '# HELP took_seconds Time',
      '# TYPE took_seconds histogram',
      'took_seconds_bucket{op="get",le="0.1"} 2',
      'took_seconds_bucket{op="get",le="1"} 3',
      'took_seconds_bucket{op="get",le="+Inf"} 4',
      'took_seconds_sum{op="get"} 3.65',
      'took_seconds_count{op="get"} 4',
      '',
    ].join('\n'),
  );
  assert.deepEqual(exponentialBuckets(1, 2, 4), [1, 2, 4, 8]);
});

test('mistakes of the program are errors at once', () => {
  const metrics = createMetrics();
  const counter = metrics.counter({ name: 'x', help: '', labels: ['a'] });
  assert.throws(() => metrics.gauge({ name: 'x', help: '' }), /registered twice/);
  assert.throws(() => counter.inc([]), /labels a, got 0 values/);
  assert.throws(() => counter.inc(['v'], -1), /cannot go down/);
});

test("the agent's own metrics", () => {
  const metrics = createMetrics();
  registerProcessMetrics(metrics, 1_500, () => ({ cpuSeconds: 2.5, residentBytes: 1e8 }));
  registerRunningMetrics(metrics, () => [
    { sandboxes: [{ ready: true }], containers: [{ state: 'running' }, { state: 'exited' }] },
    { sandboxes: [{ ready: false }], containers: [{ state: 'exited' }] },
  ]);
  const probes = registerProbeMetrics(metrics);
  const target = { pod: { metadata: { name: 'p', namespace: 'ns', uid: 'u' } }, container: { name: 'c' } };
  probes.observe(target, 'readiness', 'successful', 0.2);
  probes.observe(target, 'liveness', 'failed', 0.2);
  const text = metrics.text();
  for (const line of [
    'process_start_time_seconds 1.5',
    'process_cpu_seconds_total 2.5',
    'process_resident_memory_bytes 100000000',
    'kubelet_running_pods 1',
    'kubelet_running_containers{container_state="running"} 1',
    'kubelet_running_containers{container_state="exited"} 2',
    'prober_probe_total{probe_type="Readiness",result="successful",container="c",pod="p",namespace="ns",pod_uid="u"} 1',
    'prober_probe_total{probe_type="Liveness",result="failed",container="c",pod="p",namespace="ns",pod_uid="u"} 1',
    'prober_probe_duration_seconds_count{probe_type="Readiness",container="c",pod="p",namespace="ns"} 1',
  ]) {
    assert.ok(text.includes(`\n${line}\n`), line);
  }
  probes.forgetPod('u');
  assert.ok(!metrics.text().includes('prober_'));
});
