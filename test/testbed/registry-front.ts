// What clients of the test bed's registry talk to: passes requests on to docker-registry, and on demand asks for a password, is slow, or fails.
// Run as a program by startRegistry: `node registry-front.ts ADDRESS PORT REGISTRY_SOCKET OWN_SOCKET RULES_FILE`.
import { timingSafeEqual } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { Transform, type TransformCallback } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** How some requests are treated. Every rule that matches applies, in order; the first `status` answers. */
export type RegistryRule = {
  /** Repositories that start with this, the registry's host included: "registry.k8s.io/e2e-test-images/"; '' is all. */
  repository: string;
  /** Only requests for manifests, or for blobs. */
  kind?: 'manifests' | 'blobs' | undefined;
  /** Only requests with these credentials (HTTP Basic) pass; others get 401. */
  auth?: { user: string; password: string } | undefined;
  /** Wait before the answer. */
  delayMs?: number | undefined;
  /** Bodies trickle at this rate. */
  bytesPerSecond?: number | undefined;
  /** Answer with this HTTP status instead. */
  status?: number | undefined;
  /** The rule is over after it has applied to this many requests. */
  times?: number | undefined;
};

export type RegistryRequest = { method: string; path: string; authorization?: string | undefined };

export type Treatment = { status?: number | undefined; delayMs: number; bytesPerSecond?: number | undefined };

const pathPattern = /^\/v2\/(.+)\/(manifests|blobs)\/[^/]+$/;

const hasCredentials = (authorization: string | undefined, wanted: { user: string; password: string }): boolean => {
  const given = Buffer.from(authorization ?? '');
  const expected = Buffer.from(`Basic ${Buffer.from(`${wanted.user}:${wanted.password}`).toString('base64')}`);
  return given.length === expected.length && timingSafeEqual(given, expected);
};

/** What the rules say of a request. `used` counts how often each rule has applied and is updated. */
export const treat = (rules: readonly RegistryRule[], used: Map<number, number>, seen: RegistryRequest): Treatment => {
  const [, repository, kind] = pathPattern.exec(seen.path.split('?')[0] ?? '') ?? [];
  const treatment: Treatment = { delayMs: 0 };
  if (repository === undefined) return treatment;
  for (const [at, rule] of rules.entries()) {
    if (!repository.startsWith(rule.repository) || (rule.kind !== undefined && rule.kind !== kind)) continue;
    const count = used.get(at) ?? 0;
    if (rule.times !== undefined && count >= rule.times) continue;
    used.set(at, count + 1);
    treatment.delayMs += rule.delayMs ?? 0;
    treatment.bytesPerSecond = rule.bytesPerSecond ?? treatment.bytesPerSecond;
    const refused = rule.auth !== undefined && !hasCredentials(seen.authorization, rule.auth);
    treatment.status ??= refused ? 401 : rule.status;
  }
  return treatment;
};

/** Lets bytes through at a rate, in slices of a tenth of a second. */
const throttle = (bytesPerSecond: number): Transform => {
  const slice = Math.max(1, Math.floor(bytesPerSecond / 10));
  return new Transform({
    async transform(chunk: Buffer, _encoding, done: TransformCallback) {
      for (let at = 0; at < chunk.length; at += slice) {
        this.push(chunk.subarray(at, at + slice));
        await sleep(100);
        if (this.destroyed) return;
      }
      done();
    },
  });
};

/** Serves until killed. Rules are read anew when their file has changed. */
const serve = (address: string, port: number, registrySocket: string, ownSocket: string, rulesFile: string): void => {
  let text = '';
  let rules: RegistryRule[] = [];
  let used = new Map<number, number>();
  const currentRules = (): RegistryRule[] => {
    // Small and local: read for every request rather than watched, so that a rule holds from the moment it is written.
    const now = existsSync(rulesFile) ? readFileSync(rulesFile, 'utf8') : '[]';
    if (now !== text) {
      rules = (JSON.parse(now) as { rules?: RegistryRule[] }).rules ?? [];
      used = new Map();
      text = now;
    }
    return rules;
  };

  const answer = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    const path = incoming.url ?? '/';
    const treatment = treat(currentRules(), used, {
      method: incoming.method ?? 'GET',
      path,
      authorization: incoming.headers.authorization,
    });
    console.log(JSON.stringify({ method: incoming.method, path, ...treatment }));
    if (treatment.delayMs > 0) await sleep(treatment.delayMs);
    if (treatment.status !== undefined) {
      incoming.resume();
      const code = treatment.status === 401 ? 'UNAUTHORIZED' : 'UNKNOWN';
      const challenge = treatment.status === 401 ? { 'www-authenticate': 'Basic realm="keelson test registry"' } : {};
      outgoing.writeHead(treatment.status, { 'content-type': 'application/json', ...challenge });
      outgoing.end(JSON.stringify({ errors: [{ code, message: 'the test registry was told to answer so' }] }));
      return;
    }
    const passed = request({ socketPath: registrySocket, path, method: incoming.method, headers: incoming.headers });
    const response = new Promise<IncomingMessage>((resolve, reject) => passed.on('response', resolve).on('error', reject));
    await Promise.all([
      pipeline(incoming, passed),
      response.then(async (inner) => {
        outgoing.writeHead(inner.statusCode ?? 502, inner.headers);
        if (treatment.bytesPerSecond === undefined) await pipeline(inner, outgoing);
        else await pipeline(inner, throttle(treatment.bytesPerSecond), outgoing);
      }),
    ]);
  };
  const listener = (incoming: IncomingMessage, outgoing: ServerResponse): void => {
    answer(incoming, outgoing).catch((error: unknown) => {
      console.log(JSON.stringify({ path: incoming.url, error: String(error) }));
      if (outgoing.headersSent) outgoing.destroy();
      else outgoing.writeHead(502).end();
    });
  };
  createServer(listener).listen(port, address, () => createServer(listener).listen(ownSocket));
};

if (process.argv[1] === import.meta.filename) {
  const [address, port, registrySocket, ownSocket, rulesFile] = process.argv.slice(2);
  if (address === undefined || port === undefined || registrySocket === undefined || ownSocket === undefined || rulesFile === undefined)
    throw new Error('usage: registry-front.ts ADDRESS PORT REGISTRY_SOCKET OWN_SOCKET RULES_FILE');
  serve(address, Number(port), registrySocket, ownSocket, rulesFile);
}
