/** What a path and method ask for. */
export type Route =
  | { readonly kind: 'healthz'; readonly check: string | undefined }
  | { readonly kind: 'pods' | 'runningPods' | 'configz' | 'setVerbosity' }
  | { readonly kind: 'page'; readonly path: string }
  | { readonly kind: 'nodeLogs'; readonly path: string }
  | ({ readonly kind: 'containerLogs' } & ContainerPath)
  | ({ readonly kind: 'exec' | 'attach' } & ContainerPath)
  | ({ readonly kind: 'run' } & ContainerPath)
  | { readonly kind: 'portForward'; readonly namespace: string; readonly pod: string; readonly uid: string | undefined }
  | { readonly kind: 'debuggingDisabled' }
  | { readonly kind: 'disabled'; readonly text: string }
  | { readonly kind: 'notFound' }
  | { readonly kind: 'methodNotAllowed'; readonly allow: string };

export interface ContainerPath {
  readonly namespace: string;
  readonly pod: string;
  readonly uid: string | undefined;
  readonly container: string;
}

/** Which endpoints exist, from the configuration. */
export interface RouteSwitches {
  /** `enableDebuggingHandlers`; false on the read-only port. */
  readonly debugging: boolean;
  readonly systemLogs: boolean;
  readonly debugFlags: boolean;
  /** Paths of further pages (metrics, stats), answered to GET. */
  readonly pages: ReadonlySet<string>;
}

const debuggingRoots = new Set(['run', 'exec', 'attach', 'portForward', 'containerLogs', 'runningpods', 'logs']);

/** Decodes a request's path (without query) into what it asks for. Kubelet's paths, case included. */
export function routeOf(method: string, path: string, switches: RouteSwitches): Route {
  const parts = decodeParts(path);
  if (parts === undefined) return { kind: 'notFound' };
  const trimmed = parts.length > 1 && parts.at(-1) === '' ? parts.slice(0, -1) : parts;
  const root = trimmed[0] ?? '';
  const rest = trimmed.slice(1);
  if (root === 'healthz') return { kind: 'healthz', check: rest.length === 0 ? undefined : rest.join('/') };
  if (root === 'pods' && rest.length === 0) return only('GET', method, { kind: 'pods' });
  const pagePath = `/${trimmed.join('/')}`;
  if (switches.pages.has(pagePath)) return only('GET', method, { kind: 'page', path: pagePath });
  if (!switches.debugging) {
    const disabled = debuggingRoots.has(root) || path.startsWith('/debug/pprof/');
    return disabled ? { kind: 'debuggingDisabled' } : { kind: 'notFound' };
  }
  switch (root) {
    case 'configz':
      return rest.length === 0 ? { kind: 'configz' } : { kind: 'notFound' };
    case 'runningpods':
      return rest.length === 0 ? only('GET', method, { kind: 'runningPods' }) : { kind: 'notFound' };
    case 'logs':
      if (!switches.systemLogs) return { kind: 'disabled', text: 'logs endpoint is disabled.' };
      return only('GET', method, { kind: 'nodeLogs', path: parts.slice(1).join('/') });
    case 'debug':
      if (rest.join('/') !== 'flags/v') return { kind: 'notFound' };
      if (!switches.debugFlags) return { kind: 'disabled', text: 'flags endpoint is disabled.' };
      return only('PUT', method, { kind: 'setVerbosity' });
    case 'containerLogs':
    case 'exec':
    case 'attach':
    case 'run': {
      const [namespace, pod] = rest;
      const withUid = rest.length === 4 && root !== 'containerLogs';
      const container = rest[withUid ? 3 : 2];
      if (!namespace || !pod || !container || (rest.length !== 3 && !withUid)) return { kind: 'notFound' };
      const allow = root === 'run' ? 'POST' : root === 'containerLogs' ? 'GET' : 'GET, POST';
      return only(allow, method, { kind: root, namespace, pod, uid: withUid ? rest[2] : undefined, container } as Route);
    }
    case 'portForward': {
      const [namespace, pod, uid] = rest;
      if (!namespace || !pod || rest.length > 3) return { kind: 'notFound' };
      return only('GET, POST', method, { kind: 'portForward', namespace, pod, uid });
    }
    default:
      return { kind: 'notFound' };
  }
}

function only(allow: string, method: string, route: Route): Route {
  return allow.split(', ').includes(method) ? route : { kind: 'methodNotAllowed', allow };
}

function decodeParts(path: string): string[] | undefined {
  try {
    return path.slice(1).split('/').map(decodeURIComponent);
  } catch (error) {
    // A broken percent escape.
    if (error instanceof URIError) return undefined;
    throw error;
  }
}

const knownMethods = new Set(['OPTIONS', 'GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'TRACE', 'CONNECT']);
const knownRoots = new Set([
  'healthz',
  'pods',
  'stats',
  'metrics',
  'metrics/cadvisor',
  'metrics/probes',
  'metrics/resource',
  'run',
  'exec',
  'attach',
  'portForward',
  'containerLogs',
  'configz',
  'runningpods',
  'logs',
  'debug',
]);

/** The labels `method`, `path`, `long_running` of kubelet's HTTP metrics: bounded, whatever clients ask for. */
export function metricLabelsOf(method: string, path: string): { method: string; path: string; longRunning: string } {
  const parts = path.slice(1).split('/');
  const root = parts[0] === 'metrics' && parts.length > 1 ? `metrics/${parts[1]}` : (parts[0] ?? '');
  const bucket = knownRoots.has(root) ? root : 'other';
  return {
    method: knownMethods.has(method) ? method : 'other',
    path: bucket,
    // Upstream compares with 'portforward', which 'portForward' never equals; we count it as what it is.
    longRunning: String(['exec', 'attach', 'portForward', 'debug'].includes(bucket)),
  };
}
