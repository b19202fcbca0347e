import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Claim, isBlank, ownersOf } from '../../../agent/pods/manifest-owners.ts';
import { pod } from '../pods/build.ts';

const claim = (file: string, modifiedAt: number, ...names: string[]): Claim => ({
  file,
  modifiedAt,
  pods: names.map((name) => pod({}, { name, namespace: 'kube-system', uid: `${file}#${name}` })),
});

const cases: { name: string; claims: Claim[]; before?: Record<string, string>; owner: string; ignored: string[] }[] = [
  { name: 'alone', claims: [claim('etcd.yaml', 1, 'etcd')], owner: 'etcd.yaml', ignored: [] },
  {
    name: 'a copy that comes first in the alphabet',
    claims: [claim('etcd-backup.yaml', 2, 'etcd'), claim('etcd.yaml', 1, 'etcd')],
    before: { 'kube-system/etcd': 'etcd.yaml' },
    owner: 'etcd.yaml',
    ignored: ['etcd-backup.yaml'],
  },
  {
    name: 'the original is edited and newer now',
    claims: [claim('etcd-backup.yaml', 2, 'etcd'), claim('etcd.yaml', 3, 'etcd')],
    before: { 'kube-system/etcd': 'etcd.yaml' },
    owner: 'etcd.yaml',
    ignored: ['etcd-backup.yaml'],
  },
  {
    name: 'the original has gone: the copy is what there is',
    claims: [claim('etcd-backup.yaml', 2, 'etcd')],
    before: { 'kube-system/etcd': 'etcd.yaml' },
    owner: 'etcd-backup.yaml',
    ignored: [],
  },
  {
    name: "nothing remembered: an editor's copy is older, and named as one",
    claims: [claim('etcd.yaml', 2, 'etcd'), claim('etcd.yaml~', 1, 'etcd')],
    owner: 'etcd.yaml',
    ignored: ['etcd.yaml~'],
  },
  {
    name: 'nothing remembered: the oldest',
    claims: [claim('etcd-2026.yaml', 2, 'etcd'), claim('etcd.yaml', 1, 'etcd'), claim('etcd.yaml.bak', 0, 'etcd')],
    owner: 'etcd.yaml',
    ignored: ['etcd-2026.yaml', 'etcd.yaml.bak'],
  },
  {
    name: 'nothing tells: by name',
    claims: [claim('b.yaml', 1, 'etcd'), claim('a.yaml', 1, 'etcd')],
    owner: 'a.yaml',
    ignored: ['b.yaml'],
  },
  { name: 'twice in one file', claims: [claim('a.yaml', 1, 'etcd', 'etcd')], owner: 'a.yaml', ignored: ['a.yaml'] },
];
for (const { name, claims, before = {}, owner, ignored } of cases)
  test(`whose pod runs: ${name}`, () => {
    // In whatever order the files are read.
    for (const order of [claims, claims.toReversed()]) {
      const found = ownersOf(order, new Map(Object.entries(before)));
      assert.equal(found.owners.get('kube-system/etcd'), owner);
      assert.deepEqual([...found.wanted.keys()], [`${owner}#etcd`]);
      assert.deepEqual(found.ignored.map(({ file }) => file).sort(), ignored.toSorted());
      assert.ok(found.ignored.every((one) => one.owner === owner));
    }
  });

for (const [text, blank] of [
  ['', true],
  ['\n \t\n', true],
  ['# only this\n---\n# and that\n...\n', true],
  ['\uFEFF', true],
  ['--- # mark\n', true],
  ['--- {}', false],
  ['a: 1', false],
  ['kind', false],
] as const)
  test(`${JSON.stringify(text)} says ${blank ? 'nothing' : 'something'}`, () => assert.equal(isBlank(text), blank));

test('a copy with a name of its own and the UID that the original says', () => {
  const of = (file: string, modifiedAt: number, name: string): Claim => ({
    file,
    modifiedAt,
    pods: [pod({}, { name, namespace: 'ns', uid: 'u' })],
  });
  const [original, copy] = [of('etcd.yaml', 2, 'etcd'), of('etcd-2.yaml', 1, 'etcd-2')];
  for (const claims of [
    [original, copy],
    [copy, original],
  ]) {
    const found = ownersOf(claims, new Map([['ns/etcd', 'etcd.yaml']]));
    assert.deepEqual([...found.owners], [['ns/etcd', 'etcd.yaml']]);
    assert.equal(found.wanted.get('u')?.metadata.name, 'etcd');
    assert.deepEqual(
      found.ignored.map(({ file, owner, same }) => [file, owner, same]),
      [['etcd-2.yaml', 'etcd.yaml', 'uid']],
    );
  }
});
