import { AgentError } from '../base/errors.ts';

/** Label values in the order of the metric's label names. */
export type LabelValues = readonly string[];

export interface MetricOptions {
  readonly name: string;
  readonly help: string;
  readonly labels?: readonly string[];
}

export interface Counter {
  /** Adds `by` (default 1, never negative) to the series of these label values. */
  inc(labels?: LabelValues, by?: number): void;
  remove(labels: LabelValues): void;
}

export interface Gauge {
  set(value: number, labels?: LabelValues): void;
  add(by: number, labels?: LabelValues): void;
  remove(labels: LabelValues): void;
  /** Removes every series. */
  clear(): void;
}

export interface Histogram {
  /** Seconds, bytes: the unit that the metric's name tells. */
  observe(value: number, labels?: LabelValues): void;
  remove(labels: LabelValues): void;
}

/** One reading of a metric that is computed when asked. `timestampMs` is for values measured at another time than now. */
export interface Sample {
  readonly labels?: LabelValues;
  readonly value: number;
  readonly timestampMs?: number;
}

/** Metrics and the text they are shown as. Registering a name twice is an error of the program. */
export interface MetricsRegistry {
  counter(options: MetricOptions): Counter;
  gauge(options: MetricOptions): Gauge;
  histogram(options: MetricOptions & { readonly buckets?: readonly number[] }): Histogram;
  /** A metric whose samples are read off its source at each scrape. */
  collect(options: MetricOptions & { readonly type: 'counter' | 'gauge' }, read: () => Iterable<Sample>): void;
  /** The text exposition format, version 0.0.4. */
  text(): string;
}

export const metricsContentType = 'text/plain; version=0.0.4; charset=utf-8';

// Prometheus' default buckets, in seconds.
const defaultBuckets: readonly number[] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** `count` bucket bounds, each `factor` times the last. */
export function exponentialBuckets(start: number, factor: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => start * factor ** i);
}

// A separator that UTF-8 text cannot hold: label values with the same joined text are the same values.
const separator = '\u{10FFFF}';

/** An empty registry. */
export function createMetrics(): MetricsRegistry {
  const families = new Map<string, { readonly head: string; readonly write: (out: string[]) => void }>();

  function register(options: MetricOptions, type: string, write: (out: string[]) => void): void {
    if (families.has(options.name)) throw new AgentError('Internal', `metric ${options.name} is registered twice`);
    families.set(options.name, { head: `# HELP ${options.name} ${escapeHelp(options.help)}\n# TYPE ${options.name} ${type}\n`, write });
  }

  function scalar(options: MetricOptions, type: 'counter' | 'gauge') {
    const names = options.labels ?? [];
    const series = new Map<string, { readonly head: string; value: number }>();
    register(options, type, (out) => {
      for (const { head, value } of series.values()) out.push(head, formatNumber(value), '\n');
    });
    return {
      at(labels: LabelValues = []): { value: number } {
        const key = labels.join(separator);
        let found = series.get(key);
        if (found === undefined) {
          found = { head: `${options.name}${labelText(options.name, names, labels)} `, value: 0 };
          series.set(key, found);
        }
        return found;
      },
      remove: (labels: LabelValues): void => void series.delete(labels.join(separator)),
      clear: (): void => series.clear(),
    };
  }

  return {
    counter(options) {
      const { at, remove } = scalar(options, 'counter');
      return {
        inc(labels, by = 1) {
          if (by < 0) throw new AgentError('Internal', `counter ${options.name} cannot go down`);
          at(labels).value += by;
        },
        remove,
      };
    },
    gauge(options) {
      const { at, remove, clear } = scalar(options, 'gauge');
      return {
        set(value, labels) {
          at(labels).value = value;
        },
        add(by, labels) {
          at(labels).value += by;
        },
        remove,
        clear,
      };
    },
    histogram(options) {
      const bounds = [...(options.buckets ?? defaultBuckets)].sort((a, b) => a - b);
      const names = options.labels ?? [];
      const series = new Map<string, { labels: LabelValues; counts: number[]; sum: number; count: number }>();
      register(options, 'histogram', (out) => {
        for (const { labels, counts, sum, count } of series.values()) {
          let below = 0;
          for (const [i, bound] of bounds.entries()) {
            below += counts[i]!;
            out.push(bucketLine(options.name, names, labels, formatNumber(bound), below));
          }
          out.push(bucketLine(options.name, names, labels, '+Inf', count));
          const text = labelText(options.name, names, labels);
          out.push(`${options.name}_sum${text} ${formatNumber(sum)}\n${options.name}_count${text} ${count}\n`);
        }
      });
      return {
        observe(value, labels = []) {
          const key = labels.join(separator);
          let found = series.get(key);
          if (found === undefined) {
            found = { labels, counts: bounds.map(() => 0), sum: 0, count: 0 };
            series.set(key, found);
          }
          const bucket = bounds.findIndex((bound) => value <= bound);
          if (bucket >= 0) found.counts[bucket]!++;
          found.sum += value;
          found.count++;
        },
        remove: (labels) => void series.delete(labels.join(separator)),
      };
    },
    collect(options, read) {
      const names = options.labels ?? [];
      register(options, options.type, (out) => {
        for (const { labels, value, timestampMs } of read()) {
          const time = timestampMs === undefined ? '' : ` ${Math.round(timestampMs)}`;
          out.push(`${options.name}${labelText(options.name, names, labels ?? [])} ${formatNumber(value)}${time}\n`);
        }
      });
    },
    text() {
      const out: string[] = [];
      for (const name of [...families.keys()].sort()) {
        const { head, write } = families.get(name)!;
        out.push(head);
        const before = out.length;
        write(out);
        // A family without series is left out, as upstream's registry does.
        if (out.length === before) out.pop();
      }
      return out.join('');
    },
  };
}

function bucketLine(name: string, names: readonly string[], labels: LabelValues, bound: string, count: number): string {
  return `${name}_bucket${labelText(name, [...names, 'le'], [...labels, bound])} ${count}\n`;
}

function labelText(metric: string, names: readonly string[], values: LabelValues): string {
  if (names.length !== values.length) {
    throw new AgentError('Internal', `metric ${metric} has the labels ${names.join(',') || '(none)'}, got ${values.length} values`);
  }
  if (names.length === 0) return '';
  return `{${names.map((name, i) => `${name}="${escapeLabel(values[i]!)}"`).join(',')}}`;
}

function escapeLabel(value: string): string {
  return /[\\"\n]/.test(value) ? value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n') : value;
}

function escapeHelp(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
}

function formatNumber(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return '+Inf';
  if (value === Number.NEGATIVE_INFINITY) return '-Inf';
  return String(value);
}
