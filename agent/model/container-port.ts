import type { Container } from './generated/api.ts';

/**
 * The number of a port that may be given by its name in the container.
 * A `problem` in upstream's words when there is none (pkg/probe/util.go).
 */
export function resolveContainerPort(port: number | string, container: Container): { port: number } | { problem: string } {
  const named = typeof port === 'string' ? container.ports?.find((p) => p.name === port)?.containerPort : port;
  const number = named ?? (/^[+-]?\d+$/.test(String(port)) ? Number(port) : undefined);
  if (number === undefined) return { problem: `strconv.Atoi: parsing ${JSON.stringify(port)}: invalid syntax` };
  return number > 0 && number < 65_536 ? { port: number } : { problem: `invalid port number: ${number}` };
}
