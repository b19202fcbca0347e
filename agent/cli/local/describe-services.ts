// What a person is shown of Services.
import type { LocalFrontend, LocalService, LocalServices, Verified } from '../../server/local-services.ts';
import { table } from './describe.ts';

/** `keelson services`: a line each, or one whole. */
export function describeServices({ services, verified }: LocalServices, whole: boolean): string {
  const blocks = whole ? services.map(describeService) : [list(services)];
  if (verified !== undefined) blocks.push(verified.map(verdict).join('\n'));
  return `${blocks.join('\n\n')}\n`;
}

const familyName = (family: 'ip' | 'ip6'): string => (family === 'ip' ? 'IPv4' : 'IPv6');

function verdict({ family, whole }: Verified): string {
  return whole
    ? `${familyName(family)}: the kernel has all rules as they were programmed`
    : `${familyName(family)}: the kernel lacked rules, or had others: they are made anew`;
}

function list(services: readonly LocalService[]): string {
  if (services.length === 0) return 'No Services.';
  const rows = services.map(({ service, frontends, endpoints, skipped }) => {
    const addresses = [...new Set(frontends.filter(({ kind }) => kind === 'clusterIP').map(({ address }) => address))];
    const notes: string[] = [...new Set(frontends.filter(({ state }) => state !== 'programmed').map(({ state }) => state))];
    if (skipped.length > 0) notes.push('parts cannot be served');
    return [
      service,
      `${frontends.filter(({ state }) => state === 'programmed').length}/${frontends.length}`,
      `${endpoints.filter(({ out }) => out === undefined).length}/${endpoints.length}`,
      addresses.slice(0, 2).join(' ') + (addresses.length > 2 ? ` and ${addresses.length - 2} more` : ''),
      notes.join(', '),
    ];
  });
  return table([['SERVICE', 'PROGRAMMED', 'ENDPOINTS', 'CLUSTER IP', ''], ...rows]);
}

function describeService({ service, frontends, endpoints, skipped }: LocalService): string {
  const lines = [`Service ${service}`, ''];
  if (frontends.length === 0) lines.push('Nothing of it can be served.');
  else
    lines.push(
      table([
        ['ADDRESS', 'PROTOCOL', 'PORT', 'FOR', 'ENDPOINTS', 'STATE'],
        ...frontends.map((each) => [
          each.kind === 'nodePort' ? `node port ${each.address} (${familyName(each.family)})` : each.address,
          each.protocol,
          each.portName === '' ? '-' : each.portName,
          forWhom(each),
          each.endpoints > 0 ? String(each.endpoints) : closedWords[each.closed ?? 'reject'],
          stateWords(each),
        ]),
      ]),
    );
  if (endpoints.length > 0)
    lines.push(
      '',
      table([
        ['ENDPOINT', 'PORT', 'POD', 'NODE', 'IN'],
        ...endpoints.map(({ address, portName, pod, node, out }) => [
          address,
          portName === '' ? '-' : portName,
          pod ?? '-',
          node ?? '-',
          out === undefined ? 'yes' : `no: ${outWords.get(out) ?? out}`,
        ]),
      ]),
    );
  if (skipped.length > 0)
    lines.push('', 'Cannot be served:', ...skipped.map(({ reason, count, example }) => `  ${reason} (${count}), such as ${example}`));
  return lines.join('\n');
}

const closedWords = { reject: 'none: refused', drop: 'none here: dropped' } as const;

// Hints and policies of the Service by its cluster IP.
const outWords: ReadonlyMap<string, string> = new Map([
  ['NotReady', 'it is not ready'],
  ['Terminating', 'it terminates'],
  ['OtherNode', 'it is on another node, and the policy or hints keep to this one'],
  ['OtherZone', 'it is for another zone'],
]);

const kindWords = {
  clusterIP: 'cluster IP',
  loadBalancerIP: 'load balancer',
  externalIP: 'external IP',
  nodePort: 'node port',
} as const;

function forWhom({ kind, policy, sources, affinitySeconds }: LocalFrontend): string {
  const words: string[] = [kindWords[kind], policy];
  if (sources !== undefined) words.push(sources.length === 0 ? 'nobody may connect' : `from ${sources.join(' ')}`);
  if (affinitySeconds !== undefined) words.push(`ClientIP ${affinitySeconds} s`);
  return words.join(', ');
}

function stateWords({ state, detail }: LocalFrontend): string {
  if (state === 'conflict') return `taken by ${detail}`;
  return state === 'refused' ? `refused: ${detail}` : state;
}
