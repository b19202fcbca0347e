// What the test bed takes from Debian: single .debs unpacked into the cache (nothing is installed, no service is started), and the few build tools that are.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** Where everything slow to make is kept between runs, outside the clone. */
export const cacheRoot = (): string => process.env.KEELSON_CACHE ?? '/var/cache/keelson';

export const say = (message: string): void => {
  process.stderr.write(`keelson: ${message}\n`);
};

export type RunOptions = {
  cwd?: string | undefined;
  env?: Record<string, string> | undefined;
  /** Written to the command's stdin. */
  input?: string | Uint8Array | undefined;
};

/** Runs a command to its end and resolves to its stdout; rejects with the command and its stderr when it exits non-zero. */
export const run = (command: string, args: readonly string[], options: RunOptions = {}): Promise<string> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, LC_ALL: 'C.UTF-8', ...options.env },
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr?.on('data', (chunk: Buffer) => err.push(chunk));
    child.on('error', (cause) => reject(new Error(`cannot run ${command}: ${cause.message}`, { cause })));
    child.on('close', (code, signal) => {
      if (code === 0) return resolve(Buffer.concat(out).toString());
      const text = Buffer.concat(err).toString().trim().split('\n').slice(-15).join('\n');
      reject(new Error(`${command} ${args.join(' ')} ended with ${signal ?? `exit code ${code}`}: ${text}`));
    });
    if (options.input !== undefined) {
      // A command that exits without reading its input closes the pipe; its exit code tells what happened.
      child.stdin?.on('error', () => {});
      child.stdin?.end(options.input);
    }
  });

// Who had it before may have removed the file (`keelson down` does): then what was waited for is a file that nobody finds any more.
const lockScript = `
  while :; do
    exec 9>"$1" && flock -x 9 || exit 1
    [ "$(stat -L -c %d:%i /proc/self/fd/9)" = "$(stat -c %d:%i "$1" 2>/dev/null)" ] && break
  done
  echo held
  exec cat`;

/**
 * Holds an exclusive lock on `file` (created when missing) across processes while `work` runs. flock(1) holds it for us and lets go when its
 * stdin closes, so that a killed holder frees the lock.
 */
export const withLock = async <T>(file: string, work: () => Promise<T>): Promise<T> => {
  await mkdir(dirname(file), { recursive: true });
  const holder = spawn('sh', ['-c', lockScript, 'sh', file], { stdio: ['pipe', 'pipe', 'inherit'] });
  const closed = new Promise<void>((resolve) => holder.on('close', () => resolve()));
  await new Promise<void>((resolve, reject) => {
    holder.stdout.once('data', () => resolve());
    holder.once('error', (cause) => reject(new Error(`cannot run flock (package util-linux): ${cause.message}`, { cause })));
    holder.once('exit', (code) => reject(new Error(`flock ${file} ended with exit code ${code} before it had the lock`)));
  });
  try {
    return await work();
  } finally {
    holder.stdin.end();
    await closed;
  }
};

/**
 * Makes the folder `target` once: `build` fills a temporary folder beside it, which is renamed into place, so that a folder that exists is whole.
 * Callers in other processes wait on a lock and find it made. Resolves to `target`.
 */
export const makeOnce = async (target: string, build: (folder: string) => Promise<void>): Promise<string> => {
  if (existsSync(target)) return target;
  await mkdir(dirname(target), { recursive: true });
  return withLock(`${target}.lock`, async () => {
    if (existsSync(target)) return target;
    // Under the lock, a folder of this prefix is what a killed process left.
    const prefix = `.making-${basename(target)}-`;
    const stale = (await readdir(dirname(target))).filter((name) => name.startsWith(prefix));
    await Promise.all(stale.map((name) => rm(join(dirname(target), name), { recursive: true, force: true })));
    const folder = await mkdtemp(join(dirname(target), prefix));
    try {
      await build(folder);
      await rename(folder, target);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    return target;
  });
};

export type AptSource = { base: string; signedBy: string };

/** The Debian mirror and keyring this machine's apt uses, out of the text of its one-line (`.list`) and deb822 (`.sources`) files; undefined when none is named. */
export const parseAptSource = (texts: readonly string[]): AptSource | undefined => {
  for (const text of texts) {
    for (const stanza of text.split(/\n\s*\n/)) {
      const fields = new Map<string, string>();
      for (const line of stanza.split('\n')) {
        const oneLine = /^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+\S+/.exec(line);
        if (oneLine?.[2] !== undefined && isDebianArchive(oneLine[2])) {
          return { base: stripSlash(oneLine[2]), signedBy: /signed-by=(\S+)/.exec(oneLine[1] ?? '')?.[1] ?? defaultKeyring };
        }
        const field = /^([A-Za-z-]+):\s*(.*?)\s*$/.exec(line);
        if (field?.[1] !== undefined) fields.set(field[1].toLowerCase(), field[2] ?? '');
      }
      const uri = fields
        .get('uris')
        ?.split(/\s+/)
        .find((each) => isDebianArchive(each));
      if (uri === undefined || fields.get('enabled') === 'no') continue;
      return { base: stripSlash(uri), signedBy: fields.get('signed-by') || defaultKeyring };
    }
  }
  return undefined;
};

const defaultKeyring = '/usr/share/keyrings/debian-archive-keyring.gpg';
const stripSlash = (url: string): string => url.replace(/\/+$/, '');
// The main archive ends in /debian on every mirror; debian-security and debian-ports are other archives.
const isDebianArchive = (url: string): boolean => /\/debian\/*$/.test(url);

const systemAptSource = async (): Promise<AptSource> => {
  const folder = '/etc/apt/sources.list.d';
  const names = existsSync(folder) ? (await readdir(folder)).filter((name) => /\.(list|sources)$/.test(name)).sort() : [];
  const files = ['/etc/apt/sources.list', ...names.map((name) => join(folder, name))].filter((file) => existsSync(file));
  const source = parseAptSource(await Promise.all(files.map((file) => readFile(file, 'utf8'))));
  return source ?? { base: 'http://deb.debian.org/debian', signedBy: defaultKeyring };
};

export type Suite = 'bookworm' | 'trixie' | 'sid';

/** Packages of one Debian suite, read through a source and package list of our own: the machine's apt configuration stays as it is. */
export type DebianSuite = {
  /** The candidate version, e.g. "1.6.20~ds1-1+deb12u3". Throws when the suite has no such package. */
  version: (name: string) => Promise<string>;
  /** Downloads the package and unpacks its files into `into`; resolves to its version. Nothing is installed, its maintainer scripts do not run. */
  unpack: (name: string, into: string) => Promise<string>;
  /** One-line apt sources of the suite, for mmdebstrap. */
  sourcesFile: string;
};

/** Opens a suite; its package list is fetched when there is none yet or `refresh` asks for it. */
export const openSuite = async (suite: Suite, options: { refresh?: boolean } = {}): Promise<DebianSuite> => {
  const home = join(cacheRoot(), 'lab', 'apt', suite);
  const sourcesFile = join(home, 'sources.list');
  const lists = join(home, 'lists');
  const settings = {
    'Dir::Etc::sourcelist': sourcesFile,
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::State::lists': lists,
    'Dir::Cache': join(home, 'cache'),
    'Dir::Cache::pkgcache': '',
    'Dir::Cache::srcpkgcache': '',
    'Acquire::Languages': 'none',
    // Desktop metadata (DEP-11) would double the download.
    'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled': 'false',
    'APT::Sandbox::User': 'root',
    'Acquire::Retries': '3',
  };
  const flags = Object.entries(settings).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
  const update = async (): Promise<void> => {
    const { base, signedBy } = await systemAptSource();
    await mkdir(join(lists, 'partial'), { recursive: true });
    await mkdir(join(home, 'cache', 'archives', 'partial'), { recursive: true });
    const suites = suite === 'sid' ? ['sid'] : [suite, `${suite}-updates`];
    await writeFile(sourcesFile, suites.map((each) => `deb [signed-by=${signedBy}] ${base} ${each} main\n`).join(''));
    say(`fetching Debian ${suite}'s package list from ${base}`);
    await run('apt-get', [...flags, '-q', 'update', '--error-on=any']);
    await writeFile(join(home, 'complete'), '');
  };
  if (options.refresh === true || !existsSync(join(home, 'complete'))) {
    await withLock(join(home, 'lock'), async () => {
      if (options.refresh === true || !existsSync(join(home, 'complete'))) await update();
    });
  }
  const version = async (name: string): Promise<string> => {
    const policy = await run('apt-cache', [...flags, 'policy', name]);
    const candidate = /^ {2}Candidate: (\S+)$/m.exec(policy)?.[1];
    if (candidate === undefined || candidate === '(none)') throw new Error(`Debian ${suite} has no package ${name}`);
    return candidate;
  };
  const download = async (name: string, folder: string): Promise<string> => {
    await run('apt-get', [...flags, '-q', 'download', name], { cwd: folder });
    const file = (await readdir(folder)).find((each) => each.endsWith('.deb'));
    if (file === undefined) throw new Error(`apt-get download ${name} left no .deb`);
    return join(folder, file);
  };
  const unpack = async (name: string, into: string): Promise<string> => {
    const folder = await mkdtemp(join(home, '.download-'));
    try {
      // A mirror drops the file of a version that has been superseded: then the list is stale, and a fresh one names the file there is.
      const deb = await download(name, folder).catch(async () => {
        await withLock(join(home, 'lock'), update);
        return download(name, folder);
      });
      await mkdir(into, { recursive: true });
      await run('dpkg', ['-x', deb, into]);
      return (await run('dpkg-deb', ['-f', deb, 'Version'])).trim();
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  };
  return { version, unpack, sourcesFile };
};

/** Installs build tools with the machine's apt, when a command (or, starting with `/`, a file) of theirs is missing: `{ gcc: 'gcc' }` is command → package. */
export const ensureTools = async (tools: Record<string, string>): Promise<void> => {
  const folders = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
  const found = (name: string): boolean =>
    name.startsWith('/') ? existsSync(name) : folders.some((folder) => existsSync(join(folder, name)));
  const missing = (): string[] => [...new Set(Object.entries(tools).flatMap(([name, pkg]) => (found(name) ? [] : [pkg])))];
  if (missing().length === 0) return;
  await withLock(join(cacheRoot(), 'lab', 'apt', 'install.lock'), async () => {
    const packages = missing();
    if (packages.length === 0) return;
    say(`installing ${packages.join(', ')} with apt`);
    const env = { DEBIAN_FRONTEND: 'noninteractive' };
    // Another program of this machine may be using dpkg: wait for it rather than fail.
    const wait = ['-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3'];
    await run('apt-get', [...wait, '-q', 'update'], { env });
    await run('apt-get', [...wait, '-q', '-y', '--no-install-recommends', 'install', ...packages], { env });
  });
};
