import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Server as HttpsServer } from 'node:https';
import { TLSSocket } from 'node:tls';
import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { problemOfCertificate } from './client-certificate.ts';

/** The authorities whose client certificates count (`authentication.x509.clientCAFile`), as the file has them now. */
export interface ClientCa extends Disposable {
  /** Undefined without such a file: nobody is asked for a certificate. */
  readonly pem: string | undefined;
  /**
   * What the client certificate of a connection proves now: `none` was shown, it is good, or why not. It is asked for each request: in the meantime
   * certificates run out and the file changes.
   */
  judge(socket: TLSSocket): 'none' | { readonly leaf: X509Certificate } | { readonly problem: string };
  /** Connections of the server are judged by when they came; the idle ones end when the file changes, others once they are idle. `onChange` comes before. */
  guard(server: HttpsServer, onChange: () => void): void;
}

const checkIntervalMs = 10_000;

/** Reads the file and goes on looking at it. Throws an AgentError of code Invalid when it cannot be read or holds no certificate. */
export async function openClientCa(file: string | undefined, clock: Clock, log: Log): Promise<ClientCa> {
  let now: { pem: string; roots: X509Certificate[] } | undefined;
  let generation = 0;
  let closed = false;
  let timer: Disposable | undefined;
  const handshakes = new WeakMap<TLSSocket, number>();
  const listeners = new Set<() => void>();
  const look = async (path: string): Promise<void> => {
    try {
      const pem = await readFile(path, 'utf8');
      if (pem !== now?.pem && !closed) {
        now = { pem, roots: certificatesOf(pem, path) };
        generation++;
        for (const listener of listeners) listener();
        log.info({ file: path }, 'client CA reloaded');
      }
    } catch (error) {
      log.warn({ file: path, err: messageOf(error) }, 'client CA cannot be read, the one before stays');
    }
    lookLater(path);
  };
  const lookLater = (path: string): void => {
    if (!closed) timer = clock.after(checkIntervalMs, () => void look(path));
  };
  if (file) {
    try {
      const pem = await readFile(file, 'utf8');
      now = { pem, roots: certificatesOf(pem, file) };
    } catch (error) {
      throw new AgentError('Invalid', `authentication.x509.clientCAFile: ${messageOf(error)}`, { cause: error });
    }
    lookLater(file);
  }
  return {
    get pem() {
      return now?.pem;
    },
    judge(socket) {
      const leaf = socket.getPeerX509Certificate();
      if (leaf === undefined) return 'none';
      // A bad verdict of the handshake holds as long as its authorities.
      const authorized = socket.authorized || (handshakes.get(socket) === generation ? false : undefined);
      const problem = problemOfCertificate({ leaf, authorized }, now?.roots ?? [], clock.wall());
      return problem === undefined ? { leaf } : { problem };
    },
    guard(server, onChange) {
      server.on('secureConnection', (socket) => handshakes.set(socket, generation));
      server.on('request', ({ socket }, response) => {
        response.once('close', () => {
          if (socket instanceof TLSSocket && handshakes.get(socket) !== generation) server.closeIdleConnections();
        });
      });
      listeners.add(() => {
        onChange();
        server.closeIdleConnections();
      });
    },
    [Symbol.dispose]() {
      closed = true;
      timer?.[Symbol.dispose]();
    },
  };
}

function certificatesOf(pem: string, file: string): X509Certificate[] {
  const found = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [];
  if (found.length === 0) throw new AgentError('Invalid', `no certificate in the client CA file ${file}`);
  return found.map((text, i) => {
    try {
      return new X509Certificate(text);
    } catch (error) {
      throw new AgentError('Invalid', `certificate ${i + 1} of the client CA file ${file} cannot be read: ${messageOf(error)}`, {
        cause: error,
      });
    }
  });
}
