import type { Socket } from 'node:net';

/** Of grpc-js's credentials, the part that each new connection of a channel goes through. */
interface ChannelCredentials {
  _createSecureConnector(...args: never[]): { connect(socket: Socket): Promise<unknown> };
}

/** The connections of one channel. Disposing breaks them all, and those that still come. */
export interface GrpcSockets<C> extends Disposable {
  /** For the channel. */
  readonly credentials: C;
}

/**
 * grpc-js 1.14 forgets a connection that is closed before the server's first HTTP/2 frame (subchannel.js never calls the connector's shutdown): it stays open for
 * as long as the server likes, a file descriptor for each try. Whoever gives up on a channel breaks its connections here, after `close()`.
 */
export function grpcSockets<C extends ChannelCredentials>(credentials: C): GrpcSockets<C> {
  const sockets = new Set<Socket>();
  let over = false;
  const create = credentials._createSecureConnector.bind(credentials);
  credentials._createSecureConnector = (...args) => {
    const connector = create(...args);
    const connect = connector.connect.bind(connector);
    connector.connect = (socket) => {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
      if (over) socket.destroy();
      return connect(socket);
    };
    return connector;
  };
  return {
    credentials,
    [Symbol.dispose]() {
      over = true;
      for (const socket of sockets) socket.destroy();
    },
  };
}
