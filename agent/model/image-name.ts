import { AgentError } from '../base/errors.ts';

/** An image reference taken apart. `repository` is domain and path, e.g. "docker.io/library/busybox". */
export interface ImageName {
  readonly domain: string;
  readonly path: string;
  readonly repository: string;
  readonly tag: string | undefined;
  readonly digest: string | undefined;
}

// The grammar of references is that of github.com/distribution/reference v0.6.
const domainPart = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const domain = `(?:${domainPart}(?:\\.${domainPart})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?`;
const pathPart = '[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*';
const path = `${pathPart}(?:/${pathPart})*`;
const tag = '[0-9A-Za-z_][0-9A-Za-z_.-]{0,127}';
const digest = '[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}';
const nameRegexp = new RegExp(`^(?:(${domain})/)?(${path})$`);
const referenceRegexp = new RegExp(`^((?:${domain}/)?${path})(?::(${tag}))?(?:@(${digest}))?$`);
const longestPath = 255;
const digestLengths = new Map([
  ['sha256', 64],
  ['sha384', 96],
  ['sha512', 128],
]);

/** Takes a reference apart as it stands, without defaults. Returns what is wrong with it as a string, in the words of distribution/reference. */
function parseReference(text: string): ImageName | string {
  const match = referenceRegexp.exec(text);
  if (match === null) {
    if (text === '') return 'repository name must have at least one component';
    return referenceRegexp.test(text.toLowerCase()) ? 'repository name must be lowercase' : 'invalid reference format';
  }
  const [, repository = '', foundTag, foundDigest] = match;
  const name = nameRegexp.exec(repository);
  const foundPath = name?.[2] ?? repository;
  if (foundPath.length > longestPath) return `repository name must not be more than ${longestPath} characters`;
  const wrongDigest = foundDigest === undefined ? undefined : digestTrouble(foundDigest);
  if (wrongDigest !== undefined) return wrongDigest;
  return { domain: name?.[1] ?? '', path: foundPath, repository, tag: foundTag, digest: foundDigest };
}

function digestTrouble(text: string): string | undefined {
  const colon = text.indexOf(':');
  const length = digestLengths.get(text.slice(0, colon));
  if (length === undefined)
    return /^[a-z0-9]+(?:[.+_-][a-z0-9]+)*:/.test(text) ? 'unsupported digest algorithm' : 'invalid checksum digest format';
  const encoded = text.slice(colon + 1);
  if (encoded.length !== length) return 'invalid checksum digest length';
  return /^[a-f0-9]+$/.test(encoded) ? undefined : 'invalid checksum digest format';
}

/** Docker's reading of a first component: a domain, or a part of a name on Docker Hub. */
function splitDomain(text: string): [domain: string, remainder: string] {
  const slash = text.indexOf('/');
  if (slash === -1) return ['docker.io', `library/${text}`];
  const first = text.slice(0, slash);
  const rest = text.slice(slash + 1);
  const isDomain = first === 'localhost' || /[.:]/.test(first) || first.toLowerCase() !== first;
  const [found, remainder] = isDomain ? [first === 'index.docker.io' ? 'docker.io' : first, rest] : ['docker.io', text];
  return [found, found === 'docker.io' && !remainder.includes('/') ? `library/${remainder}` : remainder];
}

/**
 * Takes an image reference apart with Docker's defaults for domain and path ("busybox" is docker.io/library/busybox). A missing tag stays missing.
 * Throws InvalidImageName in kubelet's words.
 */
export function parseImageName(image: string): ImageName {
  const invalid = (why: string): AgentError =>
    new AgentError('InvalidImageName', `couldn't parse image name ${JSON.stringify(image)}: ${why}`);
  if (/^[a-f0-9]{64}$/.test(image)) throw invalid(`invalid repository name (${image}), cannot specify 64-byte hexadecimal strings`);
  const [found, remainder] = splitDomain(image);
  const colon = remainder.indexOf(':');
  const remote = colon === -1 ? remainder : remainder.slice(0, colon);
  if (remote.toLowerCase() !== remote) throw invalid(`invalid reference format: repository name (${remote}) must be lowercase`);
  const name = parseReference(`${found}/${remainder}`);
  if (typeof name === 'string') throw invalid(name);
  return name;
}

/** The reference with ":latest" when it has neither tag nor digest; otherwise as it is, short names staying short. Throws InvalidImageName. */
export function withDefaultTag(image: string): string {
  const name = parseImageName(image);
  return name.tag === undefined && name.digest === undefined ? `${image}:latest` : image;
}

/** The name without tag and digest, otherwise as written. Undefined when it is no valid reference. */
export function withoutTagAndDigest(image: string): string | undefined {
  const name = parseReference(image);
  return typeof name === 'string' ? undefined : name.repository;
}

/** The pull policy the API gives a container without one: Always for "latest" or no tag, IfNotPresent otherwise (also for invalid names). */
export function defaultPullPolicy(image: string): 'Always' | 'IfNotPresent' {
  try {
    return withDefaultTag(image) !== image || parseImageName(image).tag === 'latest' ? 'Always' : 'IfNotPresent';
  } catch {
    return 'IfNotPresent';
  }
}
