// Names, addresses and what pods are told of themselves.
import type { Case } from '../case.ts';
import { idle, job, podOf, shell } from './parts.ts';

const resolv = 'grep -v "^#" /etc/resolv.conf > /dev/termination-log';

export const network: readonly Case[] = [
  { name: 'dns-default', spec: job(shell(resolv), { dnsPolicy: 'Default' }), until: 'ended' },
  {
    name: 'dns-none',
    spec: job(shell(resolv), {
      dnsPolicy: 'None',
      dnsConfig: { nameservers: ['172.30.0.1'], searches: ['a.example'], options: [{ name: 'ndots', value: '2' }, { name: 'edns0' }] },
    }),
    until: 'ended',
  },
  {
    name: 'dns-config-added',
    spec: job(shell('grep -c . /etc/resolv.conf > /dev/termination-log'), {
      dnsConfig: { searches: ['a.example'], options: [{ name: 'ndots', value: '3' }] },
    }),
    until: 'ended',
  },
  {
    name: 'dns-too-many-searches',
    spec: podOf(idle(), { dnsConfig: { searches: Array.from({ length: 32 }, (_, i) => `s${i}.example`) } }),
    until: { event: 'DNSConfigForming' },
  },
  {
    name: 'dns-too-many-servers',
    spec: podOf(idle(), { dnsConfig: { nameservers: ['10.0.0.1', '10.0.0.2', '10.0.0.3'] } }),
    until: { event: 'DNSConfigForming' },
  },
  {
    name: 'dns-host-network',
    spec: job(shell('grep -c . /etc/resolv.conf > /dev/termination-log'), { hostNetwork: true, dnsPolicy: 'ClusterFirstWithHostNet' }),
    until: 'ended',
  },
  {
    name: 'host-aliases',
    spec: job(shell('tail -2 /etc/hosts > /dev/termination-log'), {
      hostAliases: [
        { ip: '10.0.0.1', hostnames: ['one', 'uno'] },
        { ip: '10.0.0.2', hostnames: ['two'] },
      ],
    }),
    until: 'ended',
  },
  {
    name: 'host-aliases-host-network',
    spec: job(shell('tail -1 /etc/hosts > /dev/termination-log'), {
      hostNetwork: true,
      hostAliases: [{ ip: '10.0.0.1', hostnames: ['one'] }],
    }),
    until: 'ended',
  },
  { name: 'host-name', spec: job(shell('hostname > /dev/termination-log'), { hostname: 'own-name', subdomain: 'peer' }), until: 'ended' },
  {
    name: 'host-name-fqdn',
    spec: job(shell('hostname > /dev/termination-log'), { hostname: 'own', subdomain: 'peer', setHostnameAsFQDN: true }),
    until: 'ended',
  },
  {
    name: 'host-name-fqdn-too-long',
    spec: podOf(idle(), { hostname: 'a-host-name-that-is-quite-long', subdomain: 'peer', setHostnameAsFQDN: true }),
    until: { event: 'FailedCreatePodSandBox' },
  },
  {
    name: 'host-name-override',
    spec: job(shell('hostname > /dev/termination-log'), { hostnameOverride: 'other.example' }),
    until: 'ended',
  },
];
