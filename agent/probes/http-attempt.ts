import type { Clock } from '../base/clock.ts';
import { hasCode, messageOf } from '../base/errors.ts';
import type { Container, HTTPGetAction } from '../model/generated/api.ts';
import type { Attempt } from './attempt.ts';

/**
 * Carries out an httpGet and follows redirects to the same host. Throws AgentError in the words of a Go program: InvalidRequest when
 * nothing could be asked, ConnectionRefused when nobody listens, another code for the rest.
 */
export type HttpGet = (
  action: HTTPGetAction,
  container: Container,
  podIp: string,
  userAgent: string,
  signal: AbortSignal,
) => Promise<{ readonly status: number; readonly body: string; readonly broken?: string | undefined }>;

/** What to ask, and of whom. */
export interface HttpQuestion {
  readonly action: HTTPGetAction;
  readonly container: Container;
  readonly podIp: string;
  readonly userAgent: string;
}

/** One attempt of an HTTP probe: 2xx and 3xx are good, a redirect to another host is good with a warning. The timeout is for the whole of it. */
export async function httpAttempt(
  get: HttpGet,
  { action, container, podIp, userAgent }: HttpQuestion,
  timeoutMs: number,
  clock: Clock,
  signal: AbortSignal,
): Promise<Attempt> {
  using deadline = clock.deadline(signal, timeoutMs);
  let answer: Awaited<ReturnType<HttpGet>>;
  try {
    answer = await get(action, container, podIp, userAgent, deadline.signal);
  } catch (error) {
    if (hasCode(error, 'InvalidRequest')) return { kind: 'error', message: error.message };
    return { kind: 'failure', message: messageOf(error), refused: hasCode(error, 'ConnectionRefused') };
  }
  const { status, body, broken } = answer;
  // As upstream: an answer that began well and was not told to its end says nothing.
  if (broken !== undefined) return { kind: 'error', message: broken };
  if (status >= 200 && status < 300) return { kind: 'success' };
  if (status >= 300 && status < 400) return { kind: 'warning', message: `Probe terminated redirects, Response body: ${body}` };
  // Never the body: it may hold secrets, and events are read by many (kubernetes#99425).
  return { kind: 'failure', message: `HTTP probe failed with statuscode: ${status}` };
}
