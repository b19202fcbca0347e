/** The streams of a command in a container, over whatever connection. Channels have Kubernetes' numbers (k8s.io/apimachinery/pkg/util/remotecommand). */
export const channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;

export interface RemoteStreams extends Disposable {
  /** False: send no more before the next `onDrain`. */
  send(to: number, data: Uint8Array): boolean;
  /** Ends the command's input. False: this connection cannot tell it. */
  endInput(): boolean;
  onDrain(listener: () => void): void;
  /** The server takes nothing any more; what it has sent can still be read. */
  onBroken(listener: () => void): void;
  /** What the server sends, no faster than it is taken. Ends when the connection does; throws when it breaks. */
  messages(): AsyncIterable<{ readonly from: number; readonly data: Buffer }>;
}
