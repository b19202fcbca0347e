import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ownCgroup } from '../../../agent/drivers/cgroup/layout.ts';

const cases: Record<string, { lines: string[]; cgroup: string | undefined }> = {
  v2: { lines: ['0::/system.slice/keelson.service'], cgroup: '/system.slice/keelson.service' },
  'v1 with a cgroup2 besides': { lines: ['4:memory:/kubelet', '2:cpu,cpuacct:/kubelet', '0::/other'], cgroup: '/kubelet' },
  'v1: counted in different ones': { lines: ['4:memory:/', '2:cpu,cpuacct:/kubelet'], cgroup: undefined },
  'the root is nobody’s own': { lines: ['0::/'], cgroup: undefined },
};
for (const [name, { lines, cgroup }] of Object.entries(cases))
  test(`ownCgroup: ${name}`, () => assert.equal(ownCgroup(`${lines.join('\n')}\n`), cgroup));
