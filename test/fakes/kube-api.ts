import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createSecureServer, type Http2ServerRequest, type Http2ServerResponse, type Http2Session } from 'node:http2';
import type { AddressInfo, Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { KubeAuth } from '../../agent/drivers/kube/kubeconfig.ts';
import { makeCa } from './certs.ts';

/** Any API object; tests cast to what they know it is. */
export interface FakeObject {
  apiVersion?: string | undefined;
  kind?: string | undefined;
  metadata: {
    name: string;
    namespace?: string | undefined;
    uid?: string | undefined;
    resourceVersion?: string | undefined;
    labels?: Record<string, string> | undefined;
    deletionTimestamp?: string | undefined;
    [field: string]: unknown;
  };
  [field: string]: unknown;
}

export interface SeenRequest {
  readonly method: string;
  /** Path without the query. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly body: unknown;
  readonly httpVersion: string;
  /** Numbers connections in the order they were opened, from 1. */
  readonly connection: number;
  /** Common name of the client's certificate. */
  readonly clientName: string | undefined;
}

export interface CannedAnswer {
  readonly status: number;
  readonly headers?: Record<string, string>;
  /** A string is sent as it is, anything else as JSON. */
  readonly body?: unknown;
}

/**
 * An API server in memory, on a real HTTP/2 TLS socket of 127.0.0.1: create, read, replace, patch, delete and watch of any resource, with resource versions,
 * selectors, status subresources, graceful pod deletion, WatchList and bookmarks. It validates nothing and authorizes nobody unless `answer` does.
 */
export interface FakeKubeApi extends AsyncDisposable {
  readonly url: string;
  readonly caPem: string;
  /** Reaches it without a client certificate. */
  readonly auth: KubeAuth;
  readonly seen: SeenRequest[];
  /** Open watches by path. */
  readonly watches: readonly string[];
  readonly connections: number;
  /** Is asked first about every request; undefined lets the request through. A promise delays it. */
  answer: ((request: SeenRequest) => CannedAnswer | undefined | Promise<CannedAnswer | undefined>) | undefined;
  /** false: answers WatchList with 422, as a server without the feature. */
  watchList: boolean;
  /** Issues a client certificate that the server's authority has signed. */
  issue(commonName: string): { cert: string; key: string };
  /** Creates or replaces an object, as some other client would; `collection` such as `/api/v1/pods` or `/api/v1/namespaces/ns/pods`. */
  put<T extends FakeObject>(collection: string, object: T): T;
  read(collection: string, namespace: string | undefined, name: string): FakeObject | undefined;
  /** Removes an object at once; absence is success. */
  remove(collection: string, namespace: string | undefined, name: string): void;
  /** Sends every watch that asked for bookmarks one with the newest version. */
  bookmark(): void;
  /** Sends raw text into every open watch of a path. */
  sendRaw(path: string, text: string): void;
  /** Ends every watch stream in good order. */
  endWatches(): void;
  /** Resets every connection. */
  dropConnections(): void;
  /** Forgets history: versions from before now are answered with 410. */
  compact(): void;
  /** What `restore` goes back to. */
  snapshot(): unknown;
  /** An etcd restored from a snapshot: objects and versions as they were, and nothing known of what came after. A watch from a later version hears nothing. */
  restore(snapshot: unknown): void;
  /** Refuses connections until `resume`, on the same port. */
  stop(): Promise<void>;
  resume(): Promise<void>;
}

interface Watch {
  readonly path: string;
  readonly resource: string;
  readonly namespace: string | undefined;
  readonly bookmarks: boolean;
  readonly matches: (object: FakeObject) => boolean;
  readonly response: Http2ServerResponse;
  /** Events of versions up to this one are not told (apiserver's cacheWatcher). */
  readonly from: number;
}

interface Change {
  readonly version: number;
  readonly resource: string;
  readonly before: FakeObject | undefined;
  readonly after: FakeObject | undefined;
}

interface Target {
  /** group/version/resource without namespace, such as `api/v1/pods`. */
  readonly resource: string;
  readonly apiVersion: string;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource: string | undefined;
}

class StatusError extends Error {
  readonly code: number;
  readonly reason: string;
  constructor(code: number, reason: string, message: string) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

/** Starts a fake API server. `plainHttp1` serves HTTP/1.1 without TLS. */
export async function startFakeKubeApi(options: { plainHttp1?: boolean } = {}): Promise<FakeKubeApi> {
  using ca = makeCa('fake-kube-ca');
  const authority = makeCa('fake-kube-client-ca');
  const serving = ca.issue({ commonName: 'kube-apiserver', sans: ['DNS:localhost', 'DNS:api.example', 'IP:127.0.0.1'] });
  const objects = new Map<string, FakeObject>();
  const watches = new Set<Watch>();
  const sockets = new Set<Socket>();
  // By the client's port: HTTP/2 requests show their socket only through a proxy.
  const clients = new Map<number | undefined, { connection: number; name: string | undefined }>();
  const sessions = new Set<Http2Session>();
  const seen: SeenRequest[] = [];
  let history: Change[] = [];
  let version = 100;
  let oldest = 0;
  let opened = 0;

  const onRequest = (request: Http2ServerRequest, response: Http2ServerResponse): void => {
    handle(request, response).catch((error: unknown) => {
      if (response.headersSent || response.destroyed) return;
      const status = error instanceof StatusError ? error : new StatusError(500, 'InternalError', String(error));
      send(response, status.code, {
        apiVersion: 'v1',
        kind: 'Status',
        status: 'Failure',
        message: status.message,
        reason: status.reason,
        code: status.code,
      });
    });
  };
  const server = options.plainHttp1
    ? createServer(onRequest as never)
    : createSecureServer(
        {
          allowHTTP1: true,
          cert: serving.cert,
          key: serving.key,
          ca: authority.cert,
          requestCert: true,
          rejectUnauthorized: false,
          // As kube-apiserver's default (--http2-max-streams-per-connection).
          settings: { maxConcurrentStreams: 100 },
        },
        onRequest,
      );
  server.on(options.plainHttp1 ? 'connection' : 'secureConnection', (socket: Socket) => {
    clients.set(socket.remotePort, { connection: ++opened, name: clientName(socket) });
    socket.on('error', () => undefined);
  });
  server.on('connection', (socket: Socket) => {
    // From the TCP connection on: one that is still in its TLS handshake must not outlive a stop.
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => undefined);
  });
  server.on('session', (session: Http2Session) => {
    sessions.add(session);
    session.on('close', () => sessions.delete(session));
    session.on('error', () => undefined);
  });
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const port = (server.address() as AddressInfo).port;
  const url = `${options.plainHttp1 ? 'http' : 'https'}://127.0.0.1:${port}`;

  async function handle(request: Http2ServerRequest, response: Http2ServerResponse): Promise<void> {
    response.on('error', () => undefined);
    const target = new URL(request.url, url);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString('utf8');
    const client = clients.get(request.socket.remotePort);
    const info: SeenRequest = {
      method: request.method,
      path: target.pathname,
      query: target.searchParams,
      headers: request.headers,
      body: text === '' ? undefined : JSON.parse(text),
      httpVersion: request.httpVersion,
      connection: client?.connection ?? 0,
      clientName: client?.name,
    };
    seen.push(info);
    const canned = await fake.answer?.(info);
    if (canned !== undefined) {
      send(response, canned.status, canned.body, canned.headers);
      return;
    }
    const place = parsePath(info.path);
    switch (info.method) {
      case 'GET':
        if (place.name !== undefined) send(response, 200, existing(place));
        else if (info.query.get('watch') === 'true') startWatch(place, info, response);
        else send(response, 200, listOf(place, info.query));
        return;
      case 'POST':
        send(
          response,
          201,
          place.subresource === 'token' ? tokenOf(place, info.body as FakeObject) : create(place, info.body as FakeObject),
        );
        return;
      case 'PUT':
        send(response, 200, update(place, info.body as FakeObject));
        return;
      case 'PATCH':
        send(response, 200, patch(place, info.body, String(info.headers['content-type'])));
        return;
      case 'DELETE':
        send(response, 200, remove(place, info.body as DeleteOptions | undefined, info.query));
        return;
      default:
        throw new StatusError(405, 'MethodNotAllowed', `no ${info.method} here`);
    }
  }

  function keyOf(place: Target, name: string): string {
    return `${place.resource} ${place.namespace ?? ''} ${name}`;
  }

  function existing(place: Target): FakeObject {
    const object = objects.get(keyOf(place, place.name as string));
    if (object === undefined) {
      throw new StatusError(404, 'NotFound', `${place.resource.split('/').at(-1)} "${place.name}" not found`);
    }
    return object;
  }

  function commit(place: Target, before: FakeObject | undefined, after: FakeObject | undefined): FakeObject {
    version++;
    const name = (after ?? before)?.metadata.name as string;
    let change: Change;
    if (after === undefined) {
      // The last state of a deleted object carries the version of the deletion.
      const last = { ...(before as FakeObject), metadata: { ...(before as FakeObject).metadata, resourceVersion: String(version) } };
      objects.delete(keyOf(place, name));
      change = { version, resource: place.resource, before: last, after: undefined };
    } else {
      after.metadata.resourceVersion = String(version);
      objects.set(keyOf(place, name), after);
      change = { version, resource: place.resource, before, after };
    }
    history.push(change);
    for (const watch of watches) deliver(watch, change);
    return (after ?? change.before) as FakeObject;
  }

  function deliver(watch: Watch, change: Change): void {
    if (watch.resource !== change.resource || change.version <= watch.from) return;
    const object = (change.after ?? change.before) as FakeObject;
    if (watch.namespace !== undefined && object.metadata.namespace !== watch.namespace) return;
    const was = change.before !== undefined && watch.matches(change.before);
    const is = change.after !== undefined && watch.matches(change.after);
    if (is) write(watch, was ? 'MODIFIED' : 'ADDED', change.after as FakeObject);
    else if (was) {
      const last = change.before as FakeObject;
      write(watch, 'DELETED', { ...last, metadata: { ...last.metadata, resourceVersion: String(change.version) } });
    }
  }

  function write(watch: Watch, type: string, object: unknown): void {
    watch.response.write(`${JSON.stringify({ type, object })}\n`);
  }

  function create(place: Target, body: FakeObject): FakeObject {
    const name = body.metadata.name ?? `${String(body.metadata.generateName)}${randomUUID().slice(0, 5)}`;
    if (objects.has(keyOf(place, name))) {
      throw new StatusError(409, 'AlreadyExists', `${place.resource.split('/').at(-1)} "${name}" already exists`);
    }
    return commit(place, undefined, {
      apiVersion: place.apiVersion,
      ...body,
      metadata: {
        creationTimestamp: new Date().toISOString().replace(/\.\d+Z/, 'Z'),
        ...body.metadata,
        name,
        ...(place.namespace === undefined ? {} : { namespace: place.namespace }),
        uid: body.metadata.uid ?? randomUUID(),
      },
    });
  }

  function update(place: Target, body: FakeObject): FakeObject {
    const before = existing(place);
    const asked = body.metadata.resourceVersion;
    if (asked !== undefined && asked !== '' && asked !== before.metadata.resourceVersion) {
      throw new StatusError(
        409,
        'Conflict',
        `Operation cannot be fulfilled on ${place.name}: the object has been modified; please apply your changes to the latest version and try again`,
      );
    }
    if (body.metadata.uid !== undefined && body.metadata.uid !== before.metadata.uid) {
      throw new StatusError(
        409,
        'Conflict',
        `Precondition failed: UID in precondition: ${body.metadata.uid}, UID in object meta: ${before.metadata.uid}`,
      );
    }
    return commit(place, before, merged(place, before, structuredClone(body)));
  }

  /** What an update may change: the status subresource changes the status, the main resource all but the status of those that have the subresource. */
  function merged(place: Target, before: FakeObject, body: FakeObject): FakeObject {
    const metadata = { ...body.metadata, uid: before.metadata.uid };
    if (place.subresource === 'status') return { ...before, metadata: { ...before.metadata, ...metadata }, status: body.status };
    const hasStatus = /\/(pods|nodes)$/.test(place.resource);
    return { ...body, metadata, ...(hasStatus && before.status !== undefined ? { status: before.status } : {}) };
  }

  function patch(place: Target, body: unknown, contentType: string): FakeObject {
    const before = objects.get(keyOf(place, place.name as string));
    if (contentType === 'application/apply-patch+yaml' && before === undefined) return create(place, body as FakeObject);
    const current = structuredClone(existing(place));
    const next =
      contentType === 'application/json-patch+json'
        ? jsonPatch(current, body as JsonPatchStep[])
        : mergePatch(current, body, contentType !== 'application/merge-patch+json');
    return update(place, next as FakeObject);
  }

  interface DeleteOptions {
    gracePeriodSeconds?: number;
    preconditions?: { uid?: string };
  }

  function remove(place: Target, body: DeleteOptions | undefined, query: URLSearchParams): FakeObject {
    const before = existing(place);
    if (body?.preconditions?.uid !== undefined && body.preconditions.uid !== before.metadata.uid) {
      throw new StatusError(409, 'Conflict', `Precondition failed: UID in precondition: ${body.preconditions.uid}`);
    }
    const spec = before.spec as { nodeName?: string; terminationGracePeriodSeconds?: number } | undefined;
    const asked = body?.gracePeriodSeconds ?? (query.has('gracePeriodSeconds') ? Number(query.get('gracePeriodSeconds')) : undefined);
    const grace = asked ?? spec?.terminationGracePeriodSeconds ?? 30;
    // A pod bound to a node is only marked; its kubelet deletes it with grace 0 in the end.
    if (place.resource === 'api/v1/pods' && spec?.nodeName && grace > 0) {
      if (before.metadata.deletionTimestamp !== undefined && Number(before.metadata.deletionGracePeriodSeconds) <= grace) return before;
      const deletionTimestamp = new Date(Date.now() + grace * 1000).toISOString().replace(/\.\d+Z/, 'Z');
      return commit(place, before, { ...before, metadata: { ...before.metadata, deletionTimestamp, deletionGracePeriodSeconds: grace } });
    }
    return commit(place, before, undefined);
  }

  function tokenOf(place: Target, body: FakeObject): FakeObject {
    const spec = body.spec as { expirationSeconds?: number } | undefined;
    const expires = new Date(Date.now() + (spec?.expirationSeconds ?? 3600) * 1000).toISOString();
    return { ...body, status: { token: `token-of-${place.namespace}-${place.name}-${randomUUID()}`, expirationTimestamp: expires } };
  }

  function selected(place: Target, matches: (object: FakeObject) => boolean): FakeObject[] {
    const prefix = `${place.resource} `;
    const items: FakeObject[] = [];
    for (const [key, object] of objects) {
      if (!key.startsWith(prefix)) continue;
      if (place.namespace !== undefined && object.metadata.namespace !== place.namespace) continue;
      if (matches(object)) items.push(object);
    }
    return items.sort((a, b) => `${a.metadata.namespace}/${a.metadata.name}`.localeCompare(`${b.metadata.namespace}/${b.metadata.name}`));
  }

  function listOf(place: Target, query: URLSearchParams): unknown {
    const all = selected(place, selectorOf(query));
    const limit = Number(query.get('limit') ?? 0);
    const [at, from] = (query.get('continue') ?? `${version}:0`).split(':').map(Number) as [number, number];
    if (at < oldest) throw new StatusError(410, 'Expired', 'The provided continue parameter is too old');
    const items = limit > 0 ? all.slice(from, from + limit) : all;
    const more = limit > 0 && from + limit < all.length;
    return {
      apiVersion: place.apiVersion,
      kind: 'List',
      metadata: { resourceVersion: String(at), ...(more ? { continue: `${at}:${from + limit}` } : {}) },
      items,
    };
  }

  function startWatch(place: Target, info: SeenRequest, response: Http2ServerResponse): void {
    const asked = info.query.get('resourceVersion') ?? '';
    const initial = info.query.get('sendInitialEvents') === 'true';
    if (initial && !fake.watchList) {
      throw new StatusError(
        422,
        'Invalid',
        'ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled',
      );
    }
    const watch: Watch = {
      path: info.path,
      resource: place.resource,
      namespace: place.namespace,
      bookmarks: info.query.get('allowWatchBookmarks') === 'true',
      matches: selectorOf(info.query),
      response,
      from: initial || asked === '' || asked === '0' ? 0 : Number(asked),
    };
    response.writeHead(200, { 'content-type': 'application/json' });
    if (initial || asked === '' || asked === '0') {
      for (const object of selected(place, watch.matches)) write(watch, 'ADDED', object);
      if (initial) {
        write(watch, 'BOOKMARK', { metadata: { resourceVersion: String(version), annotations: { 'k8s.io/initial-events-end': 'true' } } });
      }
    } else if (Number(asked) < oldest) {
      write(watch, 'ERROR', {
        apiVersion: 'v1',
        kind: 'Status',
        status: 'Failure',
        message: `too old resource version: ${asked} (${oldest})`,
        reason: 'Expired',
        code: 410,
      });
      response.end();
      return;
    } else {
      for (const change of history) if (change.version > Number(asked)) deliver(watch, change);
    }
    // An idle stream's headers leave at once too.
    (response as { flushHeaders?: () => void }).flushHeaders?.();
    watches.add(watch);
    response.on('close', () => watches.delete(watch));
  }

  const fake: FakeKubeApi = {
    url,
    caPem: ca.cert,
    auth: { server: url, ...(options.plainHttp1 ? {} : { ca: { kind: 'data' as const, pem: ca.cert } }) },
    seen,
    get watches() {
      return [...watches].map((w) => w.path);
    },
    get connections() {
      return sockets.size;
    },
    answer: undefined,
    watchList: true,
    issue: (commonName) => authority.issue({ commonName }),
    put<T extends FakeObject>(collection: string, object: T): T {
      const place = parsePath(collection);
      const namespace = place.namespace ?? object.metadata.namespace;
      const full: Target = { ...place, namespace, name: object.metadata.name };
      const before = objects.get(keyOf(full, object.metadata.name));
      if (before === undefined) return create(full, structuredClone(object)) as T;
      const after = structuredClone(object);
      after.metadata = { ...before.metadata, ...after.metadata };
      return commit(full, before, after) as T;
    },
    read(collection, namespace, name) {
      return objects.get(keyOf({ ...parsePath(collection), namespace }, name));
    },
    remove(collection, namespace, name) {
      const place: Target = { ...parsePath(collection), namespace };
      const before = objects.get(keyOf(place, name));
      if (before !== undefined) commit(place, before, undefined);
    },
    bookmark() {
      for (const watch of watches) if (watch.bookmarks) write(watch, 'BOOKMARK', { metadata: { resourceVersion: String(version) } });
    },
    sendRaw(path, text) {
      for (const watch of watches) if (watch.path === path) watch.response.write(text);
    },
    endWatches() {
      for (const watch of [...watches]) watch.response.end();
    },
    dropConnections() {
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
    },
    compact() {
      history = [];
      oldest = ++version;
    },
    snapshot: () => ({ objects: structuredClone([...objects]), version }),
    restore(snapshot) {
      const state = structuredClone(snapshot) as { objects: [string, FakeObject][]; version: number };
      objects.clear();
      for (const [key, object] of state.objects) objects.set(key, object);
      version = state.version;
      history = [];
      oldest = version;
    },
    async stop() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      fake.dropConnections();
      await closed;
    },
    async resume() {
      await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    },
    async [Symbol.asyncDispose]() {
      authority[Symbol.dispose]();
      if (server.listening) await fake.stop();
    },
  };
  return fake;
}

function send(response: Http2ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': typeof body === 'string' ? 'text/plain' : 'application/json', ...headers });
  response.end(body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body));
}

function clientName(socket: Socket): string | undefined {
  const peer = (socket as TLSSocket).getPeerCertificate?.();
  return peer?.subject?.CN as string | undefined;
}

function parsePath(path: string): Target {
  const parts = path
    .split('/')
    .filter((part) => part !== '')
    .map(decodeURIComponent);
  const core = parts[0] === 'api';
  if (!core && parts[0] !== 'apis') throw new StatusError(404, 'NotFound', `no ${path} here`);
  const groupVersion = core ? parts.slice(0, 2) : parts.slice(0, 3);
  let rest = parts.slice(groupVersion.length);
  let namespace: string | undefined;
  if (rest[0] === 'namespaces' && rest.length > 2) {
    namespace = rest[1];
    rest = rest.slice(2);
  }
  const resource = rest[0];
  if (resource === undefined) throw new StatusError(404, 'NotFound', `no ${path} here`);
  return {
    resource: [...groupVersion, resource].join('/'),
    apiVersion: groupVersion.slice(1).join('/'),
    namespace,
    name: rest[1],
    subresource: rest[2],
  };
}

function selectorOf(query: URLSearchParams): (object: FakeObject) => boolean {
  const fields = requirements(query.get('fieldSelector'));
  const labels = requirements(query.get('labelSelector'));
  return (object) =>
    fields.every(({ name, equals, value }) => {
      const found = name.split('.').reduce<unknown>((at, part) => (at as Record<string, unknown> | undefined)?.[part], object) ?? '';
      return (String(found) === value) === equals;
    }) &&
    labels.every(({ name, equals, value }) => {
      const label = object.metadata.labels?.[name];
      return value === undefined ? (label !== undefined) === equals : (label === value) === equals;
    });
}

/** `a=b,c!=d,e,!f`. */
function requirements(selector: string | null): { name: string; equals: boolean; value: string | undefined }[] {
  return (selector ?? '')
    .split(',')
    .filter((part) => part !== '')
    .map((part) => {
      const [, name, operator, value] = /^([^=!]+)(!=|==|=)(.*)$/.exec(part) ?? [];
      if (name !== undefined) return { name, equals: operator !== '!=', value };
      return { name: part.replace(/^!/, ''), equals: !part.startsWith('!'), value: undefined };
    });
}

// The merge keys of the lists that a node patches; other lists are replaced whole.
const mergeKeys: Record<string, string> = {
  conditions: 'type',
  addresses: 'type',
  podIPs: 'ip',
  hostIPs: 'ip',
  ownerReferences: 'uid',
  containers: 'name',
  volumes: 'name',
};

function mergePatch(target: unknown, change: unknown, strategic: boolean): unknown {
  if (change === null || typeof change !== 'object' || Array.isArray(change)) return change;
  const next: Record<string, unknown> = target !== null && typeof target === 'object' && !Array.isArray(target) ? { ...target } : {};
  for (const [field, value] of Object.entries(change)) {
    if (strategic && field.startsWith('$')) continue;
    const key = mergeKeys[field];
    if (value === null) delete next[field];
    else if (strategic && key !== undefined && Array.isArray(value))
      next[field] = mergeList((next[field] ?? []) as Keyed[], value as Keyed[], key);
    else next[field] = mergePatch(next[field], value, strategic);
  }
  return next;
}

type Keyed = Record<string, unknown>;

function mergeList(target: Keyed[], changes: Keyed[], key: string): Keyed[] {
  const rows = new Map(target.map((row) => [row[key], row]));
  for (const change of changes) {
    if (change.$patch === 'delete') rows.delete(change[key]);
    else if (change.$patch === 'replace') return changes.filter((c) => c.$patch === undefined);
    else rows.set(change[key], mergePatch(rows.get(change[key]) ?? {}, change, true) as Keyed);
  }
  return [...rows.values()];
}

interface JsonPatchStep {
  readonly op: 'add' | 'replace' | 'remove' | 'test';
  readonly path: string;
  readonly value?: unknown;
}

function jsonPatch(target: FakeObject, steps: JsonPatchStep[]): unknown {
  for (const { op, path, value } of steps) {
    const parts = path
      .split('/')
      .slice(1)
      .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
    const last = parts.pop() as string;
    let at: unknown = target;
    for (const part of parts) at = (at as Keyed)[part];
    if (op === 'test') {
      if (JSON.stringify((at as Keyed)[last]) !== JSON.stringify(value)) throw new StatusError(422, 'Invalid', `test of ${path} failed`);
    } else if (Array.isArray(at)) {
      if (op === 'remove') at.splice(Number(last), 1);
      else if (op === 'add') at.splice(last === '-' ? at.length : Number(last), 0, value);
      else at[Number(last)] = value;
    } else if (op === 'remove') delete (at as Keyed)[last];
    else (at as Keyed)[last] = value;
  }
  return target;
}
