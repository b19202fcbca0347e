import type { AgentPod } from '../model/pod.ts';
import { containerStatusOf, containersOf } from '../model/pod.ts';

/** Kubelet's refusal, as text: what a client sees. */
export interface Refusal {
  readonly status: number;
  readonly text: string;
}

export function hasContainer(pod: AgentPod, name: string): boolean {
  return containersOf(pod).some(({ container }) => container.name === name);
}

/**
 * The ID (without the `runtime://` scheme) of the container whose log is meant: the running or last ended one, or with `previous` the one before it.
 * Upstream's choice and messages: validateContainerLogStatus in pkg/kubelet/kubelet_pods.go.
 */
export function containerToRead(pod: AgentPod, name: string, previous: boolean): { id: string; fullId: string } | { refusal: Refusal } {
  const refuse = (text: string): { refusal: Refusal } => ({ refusal: { status: 400, text } });
  const what = `container "${name}" in pod "${pod.metadata.name}"`;
  const status = containerStatusOf(pod, name);
  if (status === undefined) return refuse(`${what} is not available`);
  const { running, terminated, waiting } = status.state ?? {};
  const last = status.lastState?.terminated;
  const found = (fullId: string): { id: string; fullId: string } => ({ id: fullId.slice(fullId.indexOf('://') + 3), fullId });

  if (previous) return last?.containerID ? found(last.containerID) : refuse(`previous terminated ${what} not found`);
  if (running !== undefined && status.containerID) return found(status.containerID);
  if (terminated !== undefined || last !== undefined) {
    const id = terminated?.containerID || last?.containerID;
    return id ? found(id) : refuse(`${what} is terminated`);
  }
  if (waiting === undefined) return refuse(`${what} is waiting to start - no logs yet`);
  switch (waiting.reason) {
    case 'ErrImagePull':
      return refuse(`${what} is waiting to start: image can't be pulled`);
    case 'ImagePullBackOff':
      return refuse(`${what} is waiting to start: trying and failing to pull image`);
    default:
      return refuse(`${what} is waiting to start: ${waiting.reason ?? ''}`);
  }
}

export interface StreamOptions {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}

/** Which streams an exec or attach wants, from its query. A terminal has no stderr of its own. */
export function streamOptionsOf(query: URLSearchParams): { options: StreamOptions } | { refusal: Refusal } {
  const on = (name: string): boolean => query.get(name) === '1';
  const tty = on('tty');
  const options = { stdin: on('input'), stdout: on('output'), stderr: on('error') && !tty, tty };
  if (!options.stdin && !options.stdout && !options.stderr) {
    return { refusal: { status: 400, text: 'you must specify at least 1 of stdin, stdout, stderr' } };
  }
  return { options };
}

/** The ports of a port-forward over a WebSocket; over SPDY each stream names its own, and the list is empty. */
export function portForwardPortsOf(query: URLSearchParams, webSocket: boolean): { ports: number[] } | { refusal: Refusal } {
  if (!webSocket) return { ports: [] };
  const refuse = (text: string): { refusal: Refusal } => ({ refusal: { status: 400, text } });
  const values = query.getAll('port');
  if (values.length === 0) return refuse('query parameter "port" is required');
  const ports: number[] = [];
  for (const value of values) {
    if (value === '') return refuse('query parameter "port" cannot be empty');
    for (const text of value.split(',')) {
      const port = /^\d+$/.test(text) ? Number(text) : Number.NaN;
      if (!(port <= 65535)) return refuse(`unable to parse "${value}" as a port`);
      if (port < 1) return refuse(`port "${value}" must be > 0`);
      ports.push(port);
    }
  }
  return { ports };
}
