import { BlockList, isIP } from 'node:net';
import { domainToASCII } from 'node:url';
import { AgentError } from '../../base/errors.ts';
import { ownValue } from '../../base/own.ts';

/** A proxy to go through. */
export interface HttpProxy {
  /** `http:` or `https:`, without credentials. */
  readonly url: URL;
  /** The Proxy-Authorization header. */
  readonly authorization: string | undefined;
}

/** Reads a proxy's address that has a scheme. Throws what `fail` makes of a problem; credentials are in none. */
export function parseProxy(text: string, fail: (problem: string) => never): HttpProxy {
  const url = URL.parse(text);
  if (url === null) return fail('is not a URL');
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    return fail(`proxies of scheme ${url.protocol.slice(0, -1)} are not supported; use one of scheme http or https`);
  const { username, password } = url;
  const authorization =
    username === '' && password === ''
      ? undefined
      : `Basic ${Buffer.from(`${unescaped(username)}:${unescaped(password)}`, 'utf8').toString('base64')}`;
  return { url: new URL(url.origin), authorization };
}

/**
 * The proxy on the way to `target`: `configured` (a kubeconfig's proxy-url) always; else as Go programs choose it (golang.org/x/net/http/httpproxy): HTTPS_PROXY or HTTP_PROXY
 * by the target's scheme, lower case where upper is not set, unless NO_PROXY names the target or it is this machine. Throws AgentError `InvalidConfig` for a proxy
 * that cannot be used: going past it, as Go does with one that cannot be read, would only fail less clearly.
 */
export function chooseProxy(
  target: string,
  configured: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
): HttpProxy | undefined {
  const invalid =
    (where: string) =>
    (problem: string): never => {
      throw new AgentError('InvalidConfig', `${where}: ${problem}`);
    };
  if (configured !== undefined && configured !== '') return parseProxy(configured, invalid(`the proxy of ${target}`));
  const url = new URL(target);
  const found = setOf(env, url.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY');
  if (found === undefined || isExempt(url, setOf(env, 'NO_PROXY')?.value ?? '')) return undefined;
  return parseProxy(found.value.includes('://') ? found.value : `http://${found.value}`, invalid(`environment variable ${found.name}`));
}

function setOf(env: Readonly<Record<string, string | undefined>>, upper: string): { name: string; value: string } | undefined {
  for (const name of [upper, upper.toLowerCase()]) {
    const value = ownValue(env, name);
    if (value !== undefined && value !== '') return { name, value };
  }
  return undefined;
}

/** Whether there is no proxy between here and `url`, by the rules of NO_PROXY. */
function isExempt(url: URL, noProxy: string): boolean {
  const host = hostnameOf(url);
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  const family = isIP(host);
  if (host === 'localhost' || (family !== 0 && loopback.check(host, familyName(family)))) return true;
  for (const entry of noProxy.split(',').map((text) => text.trim().toLowerCase())) {
    if (entry === '') continue;
    if (entry === '*') return true;
    if (entry.includes('/')) {
      if (family !== 0 && networkOf(entry)?.check(host, familyName(family)) === true) return true;
      continue;
    }
    const { name, port: entryPort } = splitPort(entry);
    if (name === '' || (entryPort !== '' && entryPort !== port)) continue;
    const entryFamily = isIP(name);
    if (entryFamily !== 0) {
      if (family !== 0 && sameAddress(name, entryFamily, host, family)) return true;
    } else if (family === 0 && coversName(name, host)) return true;
  }
  return false;
}

/** An IPv6 address stands in brackets when a port follows. */
function splitPort(entry: string): { name: string; port: string } {
  const [, address, port = ''] = /^\[([^\]]*)\](?::(.*))?$/.exec(entry) ?? [];
  if (address !== undefined) return { name: address, port };
  if (isIP(entry) === 6) return { name: entry, port: '' };
  const [name = '', ...rest] = entry.split(':');
  return { name, port: rest.join(':') };
}

/** `a.b` covers itself and what is below it, `.a.b` and `*.a.b` only what is below. */
function coversName(pattern: string, host: string): boolean {
  const below = pattern.replace(/^\*(?=\.)/, '');
  const itself = !below.startsWith('.');
  const name = domainToASCII(itself ? below : below.slice(1)) || (itself ? below : below.slice(1));
  return host.endsWith(`.${name}`) || (itself && host === name);
}

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

function networkOf(cidr: string): BlockList | undefined {
  const [, address = '', bits = ''] = /^([^/]+)\/(\d{1,3})$/.exec(cidr) ?? [];
  const family = isIP(address);
  if (family === 0 || Number(bits) > (family === 4 ? 32 : 128)) return undefined;
  const list = new BlockList();
  list.addSubnet(address, Number(bits), familyName(family));
  return list;
}

function sameAddress(a: string, aFamily: number, b: string, bFamily: number): boolean {
  const list = new BlockList();
  list.addAddress(a, familyName(aFamily));
  return list.check(b, familyName(bFamily));
}

const familyName = (family: number): 'ipv4' | 'ipv6' => (family === 6 ? 'ipv6' : 'ipv4');

/** A URL's host without the brackets of an IPv6 address. */
export function hostnameOf(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
}

function unescaped(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    // A lone percent sign stands for itself.
    return text;
  }
}
