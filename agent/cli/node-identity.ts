import type { X509Certificate } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { writeAtomically } from '../drivers/files/atomic.ts';
import { createCsrApi } from '../drivers/kube/certificates.ts';
import { watchFiles } from '../drivers/kube/certificates-files.ts';
import { type CertificateStore, openCertificateStore, readIfThere, readPairFiles } from '../drivers/kube/certificates-store.ts';
import { createKubeClient, type KubeClient } from '../drivers/kube/client.ts';
import { type KubeAuth, loadKubeconfig, type PemSource } from '../drivers/kube/kubeconfig.ts';
import { nodeTemplate, servingTemplate } from '../identity/csr.ts';
import { nodeKubeconfig } from '../identity/kubeconfig-text.ts';
import { selfSignedPair } from '../identity/self-signed.ts';
import {
  bootstrapClientCertificate,
  type CertificateStatus,
  type RotatingCertificate,
  type ServingCertificate,
  servingFromFiles,
  startRotation,
} from '../identity/worker.ts';
import { checkedPair, leafFacts, readCertificates } from '../identity/x509.ts';
import type { NodeAddress } from '../model/generated/api.ts';

interface Surroundings {
  readonly clock: Clock;
  readonly log: Log;
  readonly userAgent: string;
}

export interface CredentialOptions extends Surroundings {
  /** `--kubeconfig` */
  readonly kubeconfig: string;
  /** `--bootstrap-kubeconfig` */
  readonly bootstrapKubeconfig?: string | undefined;
  /** `--cert-dir`; kubelet's default is `<root-dir>/pki`. */
  readonly certDir: string;
  readonly nodeName: string;
  /** How long to wait for a first certificate; default an hour, as kubelet. */
  readonly timeoutMs?: number | undefined;
  readonly onWaiting?: ((message: string) => void) | undefined;
}

/**
 * Makes sure that there is a kubeconfig to work with, and reads it: one whose client certificate is readable and not expired is used as it is;
 * otherwise, when bootstrap credentials are given, a client certificate is requested with them, stored, and the kubeconfig written to point
 * at it. Waits for the API server and for the approval. Throws AgentError: `NotFound` or `InvalidConfig` for kubeconfigs, else as `bootstrapClientCertificate`.
 */
export async function ensureNodeCredentials(options: CredentialOptions, signal: AbortSignal): Promise<KubeAuth> {
  const { kubeconfig, bootstrapKubeconfig, log, clock } = options;
  if (bootstrapKubeconfig === undefined || bootstrapKubeconfig === '') return await loadKubeconfig(kubeconfig);
  const unusable = await whyUnusable(kubeconfig, clock.wall());
  if (unusable === undefined) return await loadKubeconfig(kubeconfig);
  log.info({ kubeconfig, bootstrapKubeconfig, reason: unusable }, 'requesting a client certificate with the bootstrap kubeconfig');
  let auth: KubeAuth;
  try {
    auth = await loadKubeconfig(bootstrapKubeconfig);
  } catch (error) {
    throw new AgentError('InvalidConfig', `${unusable}, and the bootstrap kubeconfig does not help: ${messageOf(error)}`, { cause: error });
  }
  await bootstrapWith(auth, options, signal);
  return await loadKubeconfig(kubeconfig);
}

/** Requests the node's client certificate with these credentials, stores it in `certDir` and writes the kubeconfig that points at it. */
export async function bootstrapWith(auth: KubeAuth, options: CredentialOptions, signal: AbortSignal): Promise<void> {
  const { clock, log, certDir, nodeName } = options;
  const store = await openCertificateStore({ prefix: 'kubelet-client', dir: certDir, now: clock.wall });
  const keyPath = join(certDir, 'kubelet-client.key.tmp');
  await using client = createKubeClient({ auth, clock, log, userAgent: options.userAgent });
  await bootstrapClientCertificate(
    {
      nodeName,
      api: createCsrApi(client),
      store,
      keyFile: {
        path: keyPath,
        load: () => readIfThere(keyPath),
        save: (keyPem) => writeAtomically(keyPath, keyPem, { mode: 0o600 }),
        remove: () => rm(keyPath, { force: true }),
      },
      clock,
      log,
      timeoutMs: options.timeoutMs ?? 3_600_000,
      ...(options.onWaiting === undefined ? {} : { onWaiting: options.onWaiting }),
    },
    signal,
  );
  const ca = auth.ca?.kind === 'file' ? { file: auth.ca.path } : { pem: auth.ca?.pem };
  await writeAtomically(
    options.kubeconfig,
    nodeKubeconfig(auth.server, { ...ca, insecure: auth.insecureSkipVerify === true }, store.currentPath, auth.proxyUrl),
    { mode: 0o600 },
  );
}

/** Why a kubeconfig cannot serve: missing, broken, without a client certificate, or with an expired one; `undefined` when it can. */
async function whyUnusable(path: string, now: number): Promise<string | undefined> {
  let auth: KubeAuth;
  try {
    auth = await loadKubeconfig(path);
  } catch (error) {
    return messageOf(error);
  }
  const pem = await textOf(auth.clientCert).catch((error: unknown) => messageOf(error));
  if (pem === undefined) return `kubeconfig ${path} has no client certificate, or its file is missing`;
  let certificates: X509Certificate[];
  try {
    certificates = readCertificates(pem);
  } catch (error) {
    return `kubeconfig ${path}: ${messageOf(error)}`;
  }
  if (certificates.length === 0) return `kubeconfig ${path} has no client certificate`;
  const expired = certificates.find((c) => c.validToDate.getTime() < now);
  return expired === undefined ? undefined : `the client certificate of kubeconfig ${path} expired at ${expired.validToDate.toISOString()}`;
}

async function textOf(source: PemSource | undefined): Promise<string | undefined> {
  if (source === undefined) return undefined;
  return source.kind === 'data' ? source.pem : await readIfThere(source.path);
}

export interface ClientRotation extends AsyncDisposable {
  /** For the node's client: the certificate in `certDir` when rotation is on, else what the kubeconfig says. */
  readonly auth: KubeAuth;
  /** Starts renewing through `client` (made with `auth`), which takes each new certificate at once. `undefined` when there is nothing to rotate. */
  start(client: KubeClient): Promise<RotatingCertificate | undefined>;
}

/**
 * Prepares `rotateCertificates: true`. A certificate that the kubeconfig brings (embedded or in files) is taken into `certDir`, where its
 * successors will be. Kubeconfigs that authenticate otherwise (tokens, plugins) have nothing to rotate.
 */
export async function prepareClientRotation(auth: KubeAuth, options: CredentialOptions, signal: AbortSignal): Promise<ClientRotation> {
  const { clock, log, certDir, nodeName, bootstrapKubeconfig } = options;
  if (auth.clientCert === undefined || auth.clientKey === undefined) {
    return { auth, start: async () => undefined, [Symbol.asyncDispose]: async () => undefined };
  }
  const store = await openCertificateStore({ prefix: 'kubelet-client', dir: certDir, now: clock.wall });
  await takeIn(auth, store, options);
  const pairFile: PemSource = { kind: 'file', path: store.currentPath };
  const closing = new AsyncDisposableStack();
  let bootstrapClient: KubeClient | undefined;
  return {
    auth: { ...auth, clientCert: pairFile, clientKey: pairFile },
    async start(client) {
      const rotation = await startRotation({
        purpose: 'client',
        store,
        wanted: () => nodeTemplate(nodeName),
        async api(current) {
          if (current !== undefined) return createCsrApi(client);
          if (bootstrapClient === undefined) {
            if (bootstrapKubeconfig === undefined || (await readIfThere(bootstrapKubeconfig)) === undefined) {
              throw new AgentError(
                'Unauthorized',
                `the node's client certificate in ${store.currentPath} has expired and there is no bootstrap kubeconfig: join the node again (kubeadm token create --print-join-command on the control plane shows how)`,
              );
            }
            const bootstrapAuth = await loadKubeconfig(bootstrapKubeconfig);
            bootstrapClient = closing.use(createKubeClient({ auth: bootstrapAuth, clock, log, userAgent: options.userAgent }));
          }
          return createCsrApi(bootstrapClient);
        },
        clock,
        log,
        signal,
      });
      closing.use(rotation);
      closing.use(
        rotation.onChange(() => {
          void client
            .reload()
            .catch((error: unknown) => log.warn({ err: messageOf(error) }, 'new client certificate could not be taken into use'));
        }),
      );
      return rotation;
    },
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

/** Stores the kubeconfig's pair when the store has none, or only an unusable or expired one and the kubeconfig's is good. */
async function takeIn(auth: KubeAuth, store: CertificateStore, options: CredentialOptions): Promise<void> {
  const now = options.clock.wall();
  const stored = await store.load();
  if (stored !== undefined && stored.where === store.currentPath && notExpired(stored.certText, now)) return;
  const certText = await textOf(auth.clientCert);
  const keyText = await textOf(auth.clientKey);
  if (certText === undefined || keyText === undefined || (stored !== undefined && !notExpired(certText, now))) return;
  const pair = checkedPair(certText, keyText, `kubeconfig ${options.kubeconfig}`);
  await store.save(pair.certPem, pair.keyPem);
}

function notExpired(certText: string, now: number): boolean {
  try {
    return leafFacts(certText).notAfter >= now;
  } catch (error) {
    // Not a certificate: no better than an expired one.
    if (hasCode(error, 'InvalidCertificate')) return false;
    throw error;
  }
}

export interface ServingOptions extends Surroundings {
  readonly certDir: string;
  readonly nodeName: string;
  /** As GetHostname(--hostname-override): what a self-signed certificate is for. */
  readonly hostname: string;
  /** The node's addresses now; empty while unknown. */
  readonly addresses: () => readonly NodeAddress[];
  /** KubeletConfiguration.tlsCertFile, tlsPrivateKeyFile, serverTLSBootstrap. */
  readonly tlsCertFile?: string | undefined;
  readonly tlsPrivateKeyFile?: string | undefined;
  readonly serverTLSBootstrap?: boolean | undefined;
  /** Feature gate AllowDNSOnlyNodeCSR. */
  readonly allowDnsOnly?: boolean | undefined;
  /** The node's client; without one (standalone) serverTLSBootstrap has nobody to ask. */
  readonly client?: KubeClient | undefined;
}

export interface NodeServing extends ServingCertificate, AsyncDisposable {
  /** How a certificate by CSR is doing; `undefined` for certificates from files. */
  status(): CertificateStatus | undefined;
  /** To be called when the node's addresses change. */
  addressesChanged(): void;
}

/**
 * The certificate of the node's HTTPS server, in kubelet's three ways: `tlsCertFile` and `tlsPrivateKeyFile`, read again when they change; by
 * CSR with `serverTLSBootstrap` (`kubelet-server-current.pem`); or self-signed into `kubelet.crt` and `kubelet.key`, made once and then kept.
 */
export async function startServingCertificate(options: ServingOptions, signal: AbortSignal): Promise<NodeServing> {
  const { clock, log, certDir } = options;
  const { tlsCertFile, tlsPrivateKeyFile } = options;
  if (options.serverTLSBootstrap === true) {
    const { client } = options;
    if (client === undefined)
      throw new AgentError('InvalidConfig', 'serverTLSBootstrap needs an API server to ask: give a kubeconfig, or set it to false');
    const store = await openCertificateStore({
      prefix: 'kubelet-server',
      dir: certDir,
      certFile: tlsCertFile,
      keyFile: tlsPrivateKeyFile,
      now: clock.wall,
    });
    const rotation = await startRotation({
      purpose: 'serving',
      store,
      wanted: () => servingTemplate(options.nodeName, options.addresses(), options.allowDnsOnly),
      api: async () => createCsrApi(client),
      clock,
      log,
      signal,
    });
    return {
      current: rotation.current,
      onChange: rotation.onChange,
      status: rotation.status,
      addressesChanged: rotation.namesChanged,
      [Symbol.asyncDispose]: () => rotation[Symbol.asyncDispose](),
    };
  }
  if (Boolean(tlsCertFile) !== Boolean(tlsPrivateKeyFile)) {
    throw new AgentError('InvalidConfig', 'tlsCertFile and tlsPrivateKeyFile belong together: set both or neither');
  }
  const certFile = tlsCertFile || join(certDir, 'kubelet.crt');
  const keyFile = tlsPrivateKeyFile || join(certDir, 'kubelet.key');
  if (!tlsCertFile) await ensureSelfSigned(certFile, keyFile, options);
  let serving: Awaited<ReturnType<typeof servingFromFiles>> | undefined;
  // Watched before they are read: a change in between is seen as one.
  const watch = await watchFiles([certFile, keyFile], clock, log, async () => {
    await serving?.reload();
    log.info({ certFile }, 'serving certificate reloaded');
  });
  try {
    serving = await servingFromFiles(() => readPairFiles(certFile, keyFile), `${certFile} and ${keyFile}`);
  } catch (error) {
    watch[Symbol.dispose]();
    throw error;
  }
  return {
    current: serving.current,
    onChange: serving.onChange,
    status: () => undefined,
    addressesChanged: () => undefined,
    [Symbol.asyncDispose]: async () => watch[Symbol.dispose](),
  };
}

async function ensureSelfSigned(certFile: string, keyFile: string, options: ServingOptions): Promise<void> {
  const certThere = (await readIfThere(certFile)) !== undefined;
  const keyThere = (await readIfThere(keyFile)) !== undefined;
  if (certThere && keyThere) return;
  if (certThere !== keyThere) {
    throw new AgentError(
      'InvalidConfig',
      `${certThere ? keyFile : certFile} is missing, but ${certThere ? certFile : keyFile} is there: remove it, or bring the other`,
    );
  }
  const ips = options.addresses().flatMap((a) => (a.type === 'InternalIP' || a.type === 'ExternalIP' ? a.address : []));
  const pair = selfSignedPair(options.hostname, ips, options.clock.wall());
  await writeAtomically(keyFile, pair.keyPem, { mode: 0o600 });
  await writeAtomically(certFile, pair.certPem, { mode: 0o644 });
  options.log.info({ certFile, hostname: options.hostname }, 'self-signed serving certificate made');
}
