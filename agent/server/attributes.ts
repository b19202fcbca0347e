import { ownValue } from '../base/own.ts';
/** Who asks, as authentication found it. */
export interface User {
  readonly name: string;
  readonly uid?: string | undefined;
  readonly groups: readonly string[];
  readonly extra?: Readonly<Record<string, string[]>> | undefined;
}

/** What a request wants of the node: allowed when any of the subresources is. */
export interface RequestAttributes {
  /** Empty for methods that the API has no verb for. */
  readonly verb: string;
  /** Of `nodes/<this node>`, the narrowest first. */
  readonly subresources: readonly string[];
}

const verbs: Readonly<Record<string, string>> = { POST: 'create', GET: 'get', PUT: 'update', PATCH: 'patch', DELETE: 'delete' };

/**
 * The authorization attributes of a request, exactly kubelet's (pkg/kubelet/server/auth.go, with the fine-grained ones that are GA in 1.36).
 * `path` is without query.
 */
export function attributesOf(method: string, path: string): RequestAttributes {
  const narrow = narrowSubresource(path);
  return {
    verb: ownValue(verbs, method) ?? '',
    subresources: narrow === undefined ? [broadSubresource(path)] : [narrow, broadSubresource(path)],
  };
}

function narrowSubresource(path: string): string | undefined {
  if (isBelow(path, '/pods')) return 'pods';
  if (isBelow(path, '/healthz')) return 'healthz';
  if (isBelow(path, '/configz')) return 'configz';
  if (isBelow(path, '/runningpods')) return 'pods';
  return undefined;
}

function broadSubresource(path: string): string {
  if (isBelow(path, '/stats')) return 'stats';
  if (isBelow(path, '/metrics')) return 'metrics';
  if (isBelow(path, '/logs')) return 'log';
  if (isBelow(path, '/checkpoint')) return 'checkpoint';
  if (isBelow(path, '/statusz')) return 'statusz';
  if (isBelow(path, '/flagz')) return 'configz';
  return 'proxy';
}

function isBelow(path: string, folder: string): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

/** What a refused request is told. */
export function forbiddenText(user: User, { verb, subresources }: RequestAttributes): string {
  return `Forbidden (user=${user.name}, verb=${verb}, resource=nodes, subresource(s)=[${subresources.join(' ')}])\n`;
}
