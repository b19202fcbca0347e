import { messageOf } from '../base/errors.ts';
import { containerToRead, hasContainer } from './containers.ts';
import type { Call, ReadContainerLog, ServerOptions } from './contracts.ts';
import { type ContainerLogOptions, parseLogOptions, sinceOf } from './log-options.ts';
import { drained, sendError, sendText } from './reply.ts';
import type { Route } from './routes.ts';

/** Answers `/containerLogs/…`: errors in upstream's words, text as the container wrote it. */
export async function sendContainerLog(
  options: ServerOptions,
  call: Call,
  route: Extract<Route, { kind: 'containerLogs' }>,
): Promise<void> {
  const { response, signal } = call;
  const parsed = parseLogOptions(call.query, options.settings.splitLogStreams);
  if ('error' in parsed) {
    sendText(response, parsed.error.status, parsed.error.text);
    return;
  }
  const pod = options.node.pod(route.namespace, route.pod);
  if (pod === undefined) {
    sendText(response, 404, `pod "${route.pod}" does not exist`);
    return;
  }
  if (!hasContainer(pod, route.container)) {
    sendText(response, 404, `container "${route.container}" not found in pod "${route.pod}"`);
    return;
  }
  const wanted = containerToRead(pod, route.container, parsed.options.previous);
  if ('refusal' in wanted) {
    sendText(response, wanted.refusal.status, wanted.refusal.text);
    return;
  }
  const file = options.node.containerLog(wanted.id);
  if (file === undefined) {
    sendText(response, 400, `unable to retrieve container logs for ${wanted.fullId}`);
    return;
  }
  try {
    for await (const chunk of options.readLog(file.path, readOptions(options, parsed.options, wanted.id), signal)) {
      if (!response.headersSent) {
        response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' });
        // Whoever follows a silent container learns at once that the log is there.
        response.flushHeaders();
      }
      if (chunk.length > 0 && !response.write(chunk)) await drained(response, signal);
    }
    response.end();
  } catch (error) {
    if (signal.aborted) return;
    // The text behind what was sent already, as upstream does: there is no other way left to tell.
    sendError(response, 400, messageOf(error));
  }
}

function readOptions(options: ServerOptions, wanted: ContainerLogOptions, id: string): Parameters<ReadContainerLog>[1] {
  const { node, clock } = options;
  return {
    tailLines: wanted.tailLines,
    limitBytes: wanted.limitBytes,
    since: sinceOf(wanted, clock.wall()),
    timestamps: wanted.timestamps,
    stream: wanted.stream,
    follow: wanted.follow ? { running: () => node.isRunning(id), onChange: (listener) => node.onContainerChange(id, listener) } : undefined,
  };
}
