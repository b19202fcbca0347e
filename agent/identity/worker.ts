import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type Loop, startLoop } from '../base/loop.ts';
import type { CertificateSigningRequest } from '../model/generated/api.ts';
import {
  bootstrapRequestName,
  buildCertificateRequest,
  type CertificateTemplate,
  clientSigner,
  newPrivateKey,
  nodeTemplate,
  readPrivateKey,
  sameSubjectAndKey,
  servingSigner,
  usagesFor,
} from './csr.ts';
import { csrVerdict } from './csr-verdict.ts';
import { planCertificate, pollDelayMs, rotationTime } from './rotation.ts';
import { type CertificateFacts, type CertificatePair, checkedPair, leafFacts } from './x509.ts';

/** The two API calls that a certificate takes (drivers/kube/certificates.ts). */
export interface CsrApi {
  create(request: CertificateSigningRequest, signal: AbortSignal): Promise<CertificateSigningRequest>;
  get(name: string, signal: AbortSignal): Promise<CertificateSigningRequest | undefined>;
}

/** Where a certificate is kept (drivers/kube/certificates-store.ts). */
export interface PairStore {
  readonly currentPath: string;
  load(): Promise<{ certText: string; keyText: string; where: string } | undefined>;
  save(certPem: string, keyPem: string): Promise<void>;
}

/** What a server presents. `current()` changes over time; `undefined` while there is no certificate, or only an expired one. */
export interface ServingCertificate {
  current(): CertificatePair | undefined;
  /** Calls `listener` after each change of `current()`. */
  onChange(listener: () => void): Disposable;
}

/** How a certificate that renews itself is doing. Times are on the wall clock. */
export type CertificateStatus =
  | { readonly kind: 'valid'; readonly notAfter: number; readonly rotateAt: number }
  /** No certificate, and no names to ask for one. */
  | { readonly kind: 'waitingForAddresses'; readonly message: string }
  /** A request is with the API server; the message names it and says what to do when it waits for a person. */
  | { readonly kind: 'requested'; readonly csr: string; readonly approved: boolean; readonly message: string }
  | { readonly kind: 'failing'; readonly message: string };

/** A certificate that is requested, stored and rotated for as long as it lives. */
export interface RotatingCertificate extends ServingCertificate, AsyncDisposable {
  status(): CertificateStatus;
  /** The names that the certificate must cover may have changed: look again. */
  namesChanged(): void;
}

export interface RotationOptions {
  readonly purpose: 'client' | 'serving';
  readonly store: PairStore;
  /** What the certificate must say now; `undefined` while unknown. */
  readonly wanted: () => CertificateTemplate | undefined;
  /** Whom to ask: given the valid pair in use, or `undefined` when there is none (then with bootstrap credentials, or an error that says what to do). */
  readonly api: (current: CertificatePair | undefined) => Promise<CsrApi>;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** In [0, 1); Math.random unless a test says otherwise. */
  readonly random?: () => number;
}

// As client-go's certificate manager: 2 s doubling, then every 32 s.
const retryBackoff = { initialMs: 2_000, maxMs: 32_000 };
// The wall clock may jump (suspend, NTP), so deadlines on it are looked at again at least this often.
const lookAgainMs = 60_000;
// Approval by a controller is a matter of 100 ms; what takes longer probably waits for a person, who should be told.
const tellAfterMs = 10_000;
const tellEveryMs = 600_000;

interface Held {
  readonly pair: CertificatePair;
  readonly facts: CertificateFacts;
  readonly rotateAt: number;
}

interface Pending {
  readonly name: string;
  readonly uid: string;
  readonly template: CertificateTemplate;
  readonly keyPem: string;
  readonly since: number;
}

/**
 * Keeps one certificate valid: loads what is stored, asks for a new one when there is none, when it expired, when 70–90 % of its life have
 * passed or when it lacks a wanted name, and waits for approval for as long as it takes (a request that a person approves after an hour is
 * taken, and not asked for again). Resolves once the stored pair has been read.
 */
export async function startRotation(options: RotationOptions): Promise<RotatingCertificate> {
  const { clock, log, store, purpose } = options;
  const random = options.random ?? Math.random;
  const signerName = purpose === 'client' ? clientSigner : servingSigner;
  const listeners = new Set<() => void>();
  let held: Held | undefined;
  let pending: Pending | undefined;
  let status: CertificateStatus = { kind: 'failing', message: 'not looked at yet' };
  let toldAt: number | undefined;

  const hold = (pair: CertificatePair): void => {
    const facts = leafFacts(pair.certPem);
    held = { pair, facts, rotateAt: rotationTime(facts, random()) };
    for (const listener of [...listeners]) listener();
  };

  const stored = await store.load();
  if (stored !== undefined) {
    try {
      hold(checkedPair(stored.certText, stored.keyText, stored.where));
    } catch (error) {
      log.error({ purpose, err: messageOf(error) }, 'stored certificate is unusable, a new one will be requested');
    }
  }

  const current = (): CertificatePair | undefined => (held !== undefined && clock.wall() <= held.facts.notAfter ? held.pair : undefined);

  async function step(_key: string, signal: AbortSignal): Promise<number> {
    try {
      return await next(signal);
    } catch (error) {
      if (!signal.aborted) status = { kind: 'failing', message: messageOf(error) };
      throw error;
    }
  }

  async function next(signal: AbortSignal): Promise<number> {
    const now = clock.wall();
    const plan = planCertificate(
      { current: held?.facts, rotateAt: held?.rotateAt, wanted: options.wanted(), pending: pending?.template },
      now,
    );
    switch (plan.kind) {
      case 'keep':
        if (held !== undefined) status = { kind: 'valid', notAfter: held.facts.notAfter, rotateAt: held.rotateAt };
        return clock.mono() + Math.min(plan.wakeAt - now, lookAgainMs);
      case 'waitForNames':
        status = { kind: 'waitingForAddresses', message: 'the node has no address yet that a certificate could be requested for' };
        return clock.mono() + lookAgainMs;
      case 'abandon':
        log.info({ purpose, csr: pending?.name, reason: plan.reason }, 'certificate request abandoned');
        pending = undefined;
        return clock.mono();
      case 'request':
        pending = await request(plan.template, plan.reason, signal);
        return clock.mono() + pollDelayMs(0);
      case 'poll':
        return await poll(signal);
    }
  }

  async function request(template: CertificateTemplate, reason: string, signal: AbortSignal): Promise<Pending> {
    const api = await options.api(current());
    const keyPem = newPrivateKey();
    const created = await api.create(
      signingRequest({ generateName: 'csr-' }, buildCertificateRequest(template, keyPem), signerName, usagesFor(purpose, keyPem)),
      signal,
    );
    const { name, uid } = identityOf(created);
    log.info({ purpose, csr: name, reason }, 'certificate requested');
    status = { kind: 'requested', csr: name, approved: false, message: `certificate signing request ${name} was sent` };
    toldAt = undefined;
    return { name, uid, template, keyPem, since: clock.mono() };
  }

  async function poll(signal: AbortSignal): Promise<number> {
    if (pending === undefined) return clock.mono();
    const { name, uid, keyPem, since } = pending;
    const api = await options.api(current());
    const verdict = csrVerdict(name, uid, await api.get(name, signal));
    const waited = clock.mono() - since;
    switch (verdict.kind) {
      case 'issued': {
        const pair = checkedPair(verdict.certPem, keyPem, `certificate issued for ${name}`);
        await store.save(pair.certPem, pair.keyPem);
        pending = undefined;
        hold(pair);
        log.info({ purpose, csr: name, tookMs: Math.round(waited), notAfter: held?.facts.notAfter }, 'certificate issued');
        return clock.mono();
      }
      case 'pending':
        status = { kind: 'requested', csr: name, approved: verdict.approved, message: verdict.message };
        if (waited >= tellAfterMs && (toldAt === undefined || clock.mono() - toldAt >= tellEveryMs)) {
          toldAt = clock.mono();
          log.warn({ purpose, csr: name, waitedMs: Math.round(waited), todo: verdict.message }, 'certificate request waits');
        }
        return clock.mono() + pollDelayMs(waited);
      case 'denied':
      case 'failed':
      case 'gone':
        pending = undefined;
        throw new AgentError(verdict.kind === 'denied' ? 'CsrDenied' : 'CsrFailed', verdict.message);
    }
  }

  const loop: Loop = startLoop({
    name: `certificate-${purpose}`,
    clock,
    log,
    backoff: retryBackoff,
    signal: options.signal,
    run: step,
  });
  loop.enqueue(purpose);

  return {
    current,
    status: () => status,
    namesChanged: () => loop.enqueue(purpose),
    onChange(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    [Symbol.asyncDispose]: () => loop[Symbol.asyncDispose](),
  };
}

/** A pair from files that somebody else renews: `reload()` after they changed. Throws AgentError `InvalidCertificate` or `NotFound` at first. */
export async function servingFromFiles(
  read: () => Promise<{ certText: string; keyText: string; where: string } | undefined>,
  names: string,
): Promise<ServingCertificate & { reload(): Promise<void> }> {
  const listeners = new Set<() => void>();
  const load = async (): Promise<CertificatePair> => {
    const texts = await read();
    if (texts === undefined) throw new AgentError('NotFound', `${names}: no such file`);
    return checkedPair(texts.certText, texts.keyText, texts.where);
  };
  let pair = await load();
  return {
    current: () => pair,
    onChange(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    async reload() {
      const next = await load();
      if (next.certPem === pair.certPem && next.keyPem === pair.keyPem) return;
      pair = next;
      for (const listener of [...listeners]) listener();
    },
  };
}

/** Where the key of a bootstrap is kept until its certificate is there, so that a restart finds its own request again. */
export interface BootstrapKeyFile {
  readonly path: string;
  load(): Promise<string | undefined>;
  save(keyPem: string): Promise<void>;
  remove(): Promise<void>;
}

export interface BootstrapOptions {
  readonly nodeName: string;
  readonly api: CsrApi;
  readonly store: PairStore;
  readonly keyFile: BootstrapKeyFile;
  readonly clock: Clock;
  readonly log: Log;
  /** How long to wait for the certificate; kubelet waits an hour. */
  readonly timeoutMs: number;
  /** Told each time that the wait has something to say (at most once for the same words). */
  readonly onWaiting?: (message: string) => void;
}

/**
 * Gets the node's first client certificate with bootstrap credentials and stores it. Safe to run again after any interruption: the key is on
 * disk before the request goes out, and the request's name is a digest of the key. Throws AgentError: `CsrDenied`, `CsrFailed` (denied, refused
 * by the signer, deleted), `CsrTimeout` (nobody approved in time), `CsrForbidden` (the credentials may not create requests), or the client's.
 */
export async function bootstrapClientCertificate(options: BootstrapOptions, signal: AbortSignal): Promise<void> {
  const { store, keyFile, clock, log } = options;
  const template = nodeTemplate(options.nodeName);
  using deadline = clock.deadline(signal, options.timeoutMs);
  let keyPem = await keyFile.load();
  for (let attempt = 1; ; attempt++) {
    if (keyPem === undefined || readPrivateKey(keyPem) === undefined) {
      keyPem = newPrivateKey();
      await keyFile.save(keyPem);
    }
    const usages = usagesFor('client', keyPem);
    const name = bootstrapRequestName(keyPem, template, usages);
    const body = signingRequest({ name }, buildCertificateRequest(template, keyPem), clientSigner, usages);
    const certPem = await requestAndWait(body, name, options, deadline.signal, signal);
    const pair = checkedPair(certPem, keyPem, `certificate issued for ${name}`);
    if (leafFacts(pair.certPem).notAfter < clock.wall() && attempt === 1) {
      // The request is an old one of ours whose certificate has run out since: only another key makes another request.
      log.info({ csr: name }, 'certificate of an earlier bootstrap has expired, asking again with a new key');
      keyPem = undefined;
      continue;
    }
    await store.save(pair.certPem, pair.keyPem);
    await keyFile.remove();
    log.info({ csr: name, node: options.nodeName }, 'client certificate issued');
    return;
  }
}

async function requestAndWait(
  body: CertificateSigningRequest,
  name: string,
  options: BootstrapOptions,
  signal: AbortSignal,
  caller: AbortSignal,
): Promise<string> {
  const { api, clock } = options;
  let last: string | undefined;
  let said: string | undefined;
  const say = (message: string): void => {
    last = message;
    if (message === said) return;
    said = message;
    options.onWaiting?.(message);
  };
  try {
    const since = clock.mono();
    let uid: string | undefined;
    for (;;) {
      const waited = clock.mono() - since;
      if (uid === undefined) {
        const made = await unlessUnreachable(() => createOrAdopt(api, body, name, signal), say, signal);
        if (made === 'unreachable') await clock.sleep(1_000, signal);
        else ({ uid } = identityOf(made));
        continue;
      }
      const found = await unlessUnreachable(() => api.get(name, signal), say, signal);
      const verdict = found === 'unreachable' ? undefined : csrVerdict(name, uid, found);
      if (verdict?.kind === 'issued') return verdict.certPem;
      if (verdict?.kind === 'denied') throw new AgentError('CsrDenied', verdict.message);
      if (verdict?.kind === 'failed' || verdict?.kind === 'gone') throw new AgentError('CsrFailed', verdict.message);
      if (verdict?.kind === 'pending') {
        last = verdict.message;
        if (waited >= 2_000) say(verdict.message);
      }
      await clock.sleep(pollDelayMs(waited), signal);
    }
  } catch (error) {
    if (signal.aborted && !caller.aborted) {
      const why = last ?? `certificate signing request ${name} was not answered`;
      throw new AgentError(
        'CsrTimeout',
        `no client certificate within ${Math.round(options.timeoutMs / 1000)} s: ${why} ` +
          "(for automatic approval, bind the credentials' group to ClusterRole system:certificates.k8s.io:certificatesigningrequests:nodeclient)",
        { cause: error },
      );
    }
    throw error;
  }
}

async function unlessUnreachable<T>(
  call: () => Promise<T>,
  say: (message: string) => void,
  signal: AbortSignal,
): Promise<T | 'unreachable'> {
  try {
    return await call();
  } catch (error) {
    // Our own end of patience is no news of the server: what was waited for stays the last word.
    if (signal.aborted) throw error;
    // The server may restart while we wait: the request is there, and the deadline is ours.
    if (!hasCode(error, 'Unavailable', 'ServiceUnavailable', 'InternalError', 'TooManyRequests', 'DeadlineExceeded')) throw error;
    say(messageOf(error));
    return 'unreachable';
  }
}

async function createOrAdopt(
  api: CsrApi,
  body: CertificateSigningRequest,
  name: string,
  signal: AbortSignal,
): Promise<CertificateSigningRequest> {
  try {
    return await api.create(body, signal);
  } catch (error) {
    if (hasCode(error, 'Forbidden')) {
      throw new AgentError(
        'CsrForbidden',
        `these credentials may not create certificate signing requests (${messageOf(error)}): bind their group to ClusterRole system:node-bootstrapper`,
        { cause: error },
      );
    }
    if (!hasCode(error, 'AlreadyExists')) throw error;
  }
  const found = await api.get(name, signal);
  // Deleted between the two calls: the next one creates it.
  if (found === undefined) return await api.create(body, signal);
  const text = Buffer.from(found.spec.request, 'base64').toString('utf8');
  const ours = Buffer.from(body.spec.request, 'base64').toString('utf8');
  if (found.spec.signerName !== body.spec.signerName || !sameSubjectAndKey(text, ours)) {
    throw new AgentError(
      'CsrFailed',
      `certificate signing request ${name} exists but asks for something else; delete it: kubectl delete csr ${name}`,
    );
  }
  return found;
}

function signingRequest(
  metadata: { name: string } | { generateName: string },
  requestPem: string,
  signerName: string,
  usages: string[],
): CertificateSigningRequest {
  return {
    apiVersion: 'certificates.k8s.io/v1',
    kind: 'CertificateSigningRequest',
    metadata,
    spec: { request: Buffer.from(requestPem, 'utf8').toString('base64'), signerName, usages },
  };
}

function identityOf(csr: CertificateSigningRequest): { name: string; uid: string } {
  const { name, uid } = csr.metadata ?? {};
  if (name === undefined || uid === undefined) throw new AgentError('InvalidResponse', 'the API server returned a CSR without name or UID');
  return { name, uid };
}
