// Who may import whom, and what may be touched where, as data: each rule says why it is there. docs/architecture.md explains the rooms.
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { isBuiltin, stripTypeScriptTypes } from 'node:module';
import { dirname, join, normalize, resolve } from 'node:path';
import { describe, test } from 'node:test';
import { kubernetesVersion as ours } from '../agent/model/kubernetes-version.ts';
import { foreignKeyUses } from './foreign-keys.ts';
import { kubernetesVersion } from './testbed/binaries.ts';

const repository = resolve(import.meta.dirname, '..');

// ---------------------------------------------------------------------------------------------------------------------- the rules

/** The folders that hold the product. What is not in one of them (test, scripts) is never imported from there: a release does not have it. */
const productFolders = ['agent', 'proxy', 'cri-protos'];

/**
 * Rooms under agent/ whose files are pure unless listed in `shells`, `worker.ts` or `apply.ts`. A folder of agent/ that is neither here nor in
 * `areas` fails the test: a new room has to be entered in this table.
 */
const rooms = [
  'config',
  'devices',
  'eviction',
  'identity',
  'images',
  'logs',
  'logs',
  'node',
  'pods',
  'probes',
  'resources',
  'server',
  'stats',
  'top',
  'volumes',
];

/** Files of rooms that do things besides the room's worker.ts and apply.ts. */
const shells: { file: RegExp; why: string }[] = [
  { file: /^agent\/server\//, why: 'the HTTPS server: listens, streams and answers; its decisions are pure functions among them' },
  {
    file: /^agent\/pods\/(runtime-watch|oom-watch|status-writer|file-source|http-source)\.ts$/,
    why: 'loops between a neighbour and a table, with a lifetime of their own',
  },
  { file: /^agent\/probes\/attempt\.ts$/, why: 'one attempt of a probe: tcp and gRPC calls into pods' },
];

/**
 * What of Node and of npm a file of a room may touch: `pure` for every file, and for single shells what is named for them. All other I/O is a driver's,
 * and reaches a shell as a parameter.
 */
const pureBuiltins: Record<string, readonly string[] | 'all'> = {
  'node:buffer': 'all',
  'node:crypto': 'all', // hashes, keys and random IDs: nothing of it waits or can be unplugged
  'node:net': ['isIP', 'isIPv4', 'isIPv6', 'BlockList', 'SocketAddress'],
  'node:path': 'all',
  'node:async_hooks': ['AsyncLocalStorage'], // which work an error belongs to: nothing of it reaches outside
  'node:url': 'all',
  'node:util': 'all',
};
const purePackages = ['zod'];

/** Areas all of whose files are pure. */
const pureAreas: readonly string[] = ['agent/base', 'agent/model', 'proxy/model'];

const shellIo: { file: RegExp; may: readonly string[]; why: string }[] = [
  {
    file: /^agent\/server\/[^/]+\.ts$/,
    may: [
      'node:fs',
      'node:fs/promises',
      'node:http',
      'node:https',
      'node:net',
      'node:stream',
      'node:stream/promises',
      'node:tls',
      'node:zlib',
    ],
    why: 'it is the driver of its own listener, and hands out files of /var/log, packed when asked so',
  },
  {
    file: /^agent\/pods\/apply\.ts$/,
    may: ['node:fs/promises'],
    why: 'log folders of containers lie where this room tells the runtime to put them',
  },
  {
    file: /^agent\/pods\/file-source\.ts$/,
    may: ['node:fs', 'node:fs/promises'],
    why: 'the folder of manifests is watched, and what is read is whatever the watch told of',
  },
  { file: /^agent\/pods\/http-source\.ts$/, may: ['undici'], why: 'manifests from a URL: a GET that nobody else makes' },
  {
    file: /^agent\/probes\/attempt\.ts$/,
    may: ['node:net', '@grpc/grpc-js'],
    why: 'tcpSocket and grpc probes; what speaks HTTP is a driver, which hooks use as well',
  },
];

/** Areas that are not rooms: what each may import from the product besides itself. */
const areas: { files: RegExp; name: string; may: RegExp[]; packages: readonly string[]; why: string }[] = [
  { name: 'agent/base', files: /^agent\/base\//, may: [], packages: [], why: 'everything stands on it, so it stands on nothing' },
  {
    name: 'agent/model/yaml*.ts',
    files: /^agent\/model\/yaml(-indent)?\.ts$/,
    may: [/^agent\/(base|model)\//],
    packages: ['yaml'],
    why: "the one reader and writer of YAML, with the rules of Kubernetes' own: whoever reads a file by another reads another file",
  },
  {
    name: 'agent/model',
    files: /^agent\/model\//,
    may: [/^agent\/base\//],
    packages: [],
    why: 'facts about Kubernetes objects, which every room may use, so they know of no room',
  },
  {
    name: 'agent/drivers',
    files: /^agent\/drivers\//,
    may: [/^agent\/base\//, /^agent\/model\//, /^cri-protos\//],
    packages: ['@grpc/grpc-js', '@grpc/proto-loader', 'koffi', 'undici', 'zod'],
    why: 'a driver speaks for a neighbour; what is to be said is decided in rooms, which get the driver as a parameter',
  },
  {
    name: 'proxy/model',
    files: /^proxy\/model\//,
    may: [/^agent\/base\//, /^agent\/model\//],
    packages: [],
    why: 'what a Service asks of a node is decided without touching one: backends and loops stand on it',
  },
  {
    name: 'proxy',
    files: /^proxy\//,
    may: [/^agent\/base\//, /^agent\/model\//],
    packages: ['zod'],
    why: 'the proxy is a house of its own: it shares time, tables and types with the agent, and nothing else',
  },
  { name: 'cri-protos', files: /^cri-protos\//, may: [], packages: [], why: 'contracts with neighbours, not code' },
  {
    name: 'agent/cli and agent/main.ts',
    files: /^agent\/(cli\/|main\.ts$)/,
    may: [/^agent\//, /^proxy\//, /^cri-protos\//],
    packages: ['pino', 'undici', 'ws', 'zod'],
    why: 'the wiring knows everything, and nobody knows the wiring',
  },
];

/** Words that may stand in code only in the files of `except`; with `in: 'source'` types, strings and comments count too. */
const bans: { what: string; pattern: RegExp; in?: 'source'; where: RegExp; except?: { file: RegExp; why: string }[]; why: string }[] = [
  {
    what: 'clocks and timers',
    pattern:
      /(?<![\w.$])(?:globalThis\.)?(?:set(?:Timeout|Interval)\b|Date\.now\b|new Date\(\)|Date\(\)|performance\.(?:now|timeOrigin)\b|process\.hrtime\b)|\bAbortSignal\.timeout\b/,
    where: /^(agent|proxy)\//,
    except: [{ file: /^agent\/base\/clock\.ts$/, why: 'it is the clock' }],
    why: 'time is injected as a Clock, or else no test can make it pass',
  },
  {
    what: 'resource versions compared as numbers',
    pattern: /\b(?:BigInt|Number|parseInt)\([^()]*resourceVersion/,
    where: /^(agent|proxy)\//,
    except: [{ file: /^agent\/model\/resource-version\.ts$/, why: 'it says what may be concluded from them' }],
    why: 'a server that was restored gives versions out a second time: what looks old is asked for again, not dropped',
  },
  {
    what: 'process.exit',
    pattern: /\bprocess\.(?:exit|reallyExit|abort)\b/,
    where: /^(agent|proxy)\//,
    except: [{ file: /^agent\/main\.ts$/, why: 'the end of the program' }],
    why: 'it skips every cleanup that is under way: return or throw',
  },
  {
    what: 'the process',
    pattern: /(?<![\w.$])process\./,
    where: new RegExp(`^(agent/(base|model|${rooms.join('|')})|proxy)/`),
    except: [
      { file: /^agent\/resources\/worker\.ts$/, why: "the default of its parameter `kill`, for what is left in a dead pod's cgroup" },
      { file: /^proxy\/backends\//, why: 'touches the kernel' },
    ],
    why: 'environment, arguments, signals and IDs reach a room as parameters',
  },
  {
    what: 'AbortSignal.any',
    pattern: /\bAbortSignal\.any\b/,
    where: /^(agent|proxy)\//,
    why: 'on a signal as old as the agent it leaks 1.2 KB a call: use clock.deadline, which unhooks itself',
  },
  {
    what: 'a server of its own',
    pattern: /\bcreate(?:Http|Https|Http2|Secure|Tcp)?Server\b/,
    where: /^agent\//,
    except: [
      { file: /^agent\/server\/listener\.ts$/, why: 'it makes them all' },
      { file: /^agent\/cli\/join-preflight\.ts$/, why: 'binds a port for a moment, to see whether it is free' },
    ],
    why: "a stranger's connection can end the process by an event that nobody hears: agent/server/listener.ts hears them all",
  },
  {
    what: 'an error that is heard once',
    pattern: /\.once\('error'/,
    in: 'source',
    where: /^(agent|proxy)\//,
    why: 'the second error of the same socket, server or child would have no listener, and that ends the process: use on',
  },
  {
    what: 'a stream taken for a socket',
    pattern: /\bas (?:net\.|tls\.)?(?:TLS)?Socket\b|\binstanceof (?:net\.)?Socket\b/,
    in: 'source',
    where: /^(agent|proxy)\//,
    why: 'Node hands out a Duplex where an upgrade has a body: what a socket alone can do fails there, or is left out in silence',
  },
  {
    what: 'ways around the import table',
    pattern: /\b(?:createRequire|getBuiltinModule|process\.binding)\b|(?<![\w.$])require\(/,
    where: /^(agent|proxy)\//,
    why: 'this test reads imports',
  },
  {
    what: 'removing trees',
    pattern: /\b(?:rm|rmSync|rmdir|rmdirSync)\([^;]*?\brecursive\b/,
    where: /^(agent|proxy)\//,
    why: 'fs.rm walks through mounts into what is not ours, holds whole folders in memory and ends where a path is too long: use removeTree of drivers/mounts',
  },
  {
    what: 'mount points compared as text',
    pattern: /\bas RealPath\b/,
    where: /^(agent|proxy)\//,
    except: [
      { file: /^agent\/drivers\/mounts\/real-path\.ts$/, why: 'it makes them' },
      { file: /^agent\/drivers\/mounts\/mounts\.ts$/, why: 'walks a path link by link' },
    ],
    why: 'with a symbolic link in a path nothing looks mounted there: placeOf (drivers/mounts/real-path.ts) tells the real one',
  },
  {
    what: 'console',
    pattern: /(?<![\w.$])console\./,
    where: /^(agent\/(?!cli\/|main\.ts)|proxy\/)/,
    why: 'what happens is logged with its fields; commands write to process.stdout',
  },
];

/** Calls of node:fs that only these files may make: by import, or as `fs.name` and `fs.promises.name`. */
const fileCalls: { what: string; names: readonly string[]; except: { file: RegExp; why: string }[]; why: string }[] = [
  {
    what: 'opening and reading by path',
    names: ['open', 'openSync', 'readFile', 'readFileSync', 'createReadStream', 'openAsBlob'],
    why: 'open(2) waits for the writer of a FIFO, follows links and wakes devices: drivers/files/look.ts looks first, and reads no more than a bound',
    except: [
      { file: /^agent\/drivers\/files\/(look|atomic)\.ts$/, why: 'they are the way' },
      { file: /^agent\/drivers\/(cgroup|proc|sys)\//, why: "the kernel's own files: cgroups, /proc and /sys" },
      { file: /^agent\/cli\/wiring\/(stats|machine)\.ts$/, why: "the kernel's own files: /proc/self/cgroup, /proc/PID/cgroup" },
      { file: /^agent\/cli\/local\/containerd\.ts$/, why: "the kernel's own file: /proc/self/status" },
      { file: /^proxy\/backends\//, why: "the kernel's own files below /proc" },
      { file: /^agent\/drivers\/mounts\/mounts\.ts$/, why: "the kernel's own file: /proc/self/mountinfo" },
      {
        file: /^agent\/drivers\/mounts\/(operations|remove-tree|pod-folder)\.ts$/,
        why: 'they walk by descriptors themselves (O_PATH, O_DIRECTORY, O_NOFOLLOW), also with the means that the asynchronous way lacks',
      },
      {
        file: /^agent\/drivers\/mounts\/volume-disk\.ts$/,
        why: "the node's own files of volumes that pods get read-only, and marks in its own folders",
      },
      { file: /^agent\/drivers\/logs\/files\.ts$/, why: 'makes the archive of a log, exclusively; what it packs is looked at' },
      { file: /^agent\/cli\/(files|join|join-preflight)\.ts$/, why: 'what root names on the command line, which may be a pipe, and /proc' },
      {
        file: /^agent\/cli\/(down|local\/(process|state|example-images))\.ts$/,
        why: "the command's own files below a folder of root's, and /proc",
      },
      { file: /^agent\/server\/client-ca\.ts$/, why: 'clientCAFile, which the configuration names' },
    ],
  },
  {
    what: 'writing by path',
    names: ['writeFile', 'writeFileSync', 'appendFile', 'appendFileSync', 'createWriteStream', 'rename', 'renameSync', 'copyFile', 'cp'],
    why: 'a file is written whole, synced and by no link: drivers/files/atomic.ts is the one writer',
    except: [
      { file: /^agent\/drivers\/files\/atomic\.ts$/, why: 'it is the writer' },
      { file: /^agent\/drivers\/cgroup\//, why: "the kernel's own files" },
      { file: /^proxy\/backends\//, why: "the kernel's own files: /proc/sys" },
      {
        file: /^agent\/cli\/(run|wiring\/(node|proxy-daemon))\.ts$/,
        why: "the kernel's own files: /proc/self/comm, /proc/self/oom_score_adj",
      },
      { file: /^agent\/drivers\/proc\/sysctl\.ts$/, why: "the kernel's own files: /proc/sys" },
      { file: /^agent\/cli\/proxy\.ts$/, why: '--write-config-to: what its user names may be a link, a pipe or /dev/stdout' },
      {
        file: /^agent\/cli\/wiring\/pod-apply\.ts$/,
        why: 'files that containers have bound: the hosts file is written in place, that of the last words is new',
      },
      { file: /^agent\/drivers\/mounts\/volume-disk\.ts$/, why: "kubelet's own way for volumes: a new folder, then a link is switched" },
      { file: /^agent\/drivers\/kube\/certificates-store\.ts$/, why: 'switches a link, in one step' },
      { file: /^agent\/drivers\/logs\/files\.ts$/, why: 'rotation: logs get other names' },
      {
        file: /^agent\/cli\/local\/example-images\.ts$/,
        why: 'an archive that is read once and removed, and a program that is unpacked into a cache',
      },
    ],
  },
];

// ---------------------------------------------------------------------------------------------------------------------- reading files

interface Import {
  readonly from: string;
  readonly names: readonly string[] | 'all';
}

const stringOrComment =
  /\/\/[^\n]*|\/\*[\s\S]*?\*\/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\[\s\S]|[^`\\])*`|(?<=(?:[(,=:[!&|?{};]|\breturn|=>)\s*)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+\/[a-z]*/g;

/** The code without comments and without what strings and regular expressions say; of templates their expressions stay. */
function codeOf(javascript: string): string {
  return javascript.replace(stringOrComment, (token) =>
    token.startsWith('`')
      ? `\`${[...token.matchAll(/\$\{([^}]*)\}/g)].map((match) => `\${${match[1]}}`).join('')}\``
      : token[0] === '/'
        ? ' '
        : "''",
  );
}

/** What is imported when the file runs: `import type` and `typeof import()` are gone once types are stripped, `import { type X }` still loads its file. */
function importsOf(javascript: string): Import[] {
  const found: Import[] = [];
  const statement = /^(?:import\s*(?:([\w$*{},\s]+?)\s*\bfrom\b)?|export\s*(\*[\w$\s]*|\{[^}]*\})\s*from\b)\s*(['"])([^'"]+)\3/gm;
  for (const [, imported, exported, , from = ''] of javascript.matchAll(statement)) {
    const clause = imported ?? exported ?? '';
    const braces = /\{([^}]*)\}/.exec(clause)?.[1];
    const names = braces
      ?.split(',')
      .map((name) => name.trim().split(/\s+as\s+/)[0] ?? '')
      .filter((name) => name !== '');
    found.push({ from, names: names ?? 'all' });
  }
  for (const [, from = ''] of javascript.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g)) found.push({ from, names: 'all' });
  return found;
}

// ---------------------------------------------------------------------------------------------------------------------- judging them

const roomOf = (file: string): string | undefined => {
  const room = /^agent\/([^/]+)\//.exec(file)?.[1];
  return room !== undefined && rooms.includes(room) ? room : undefined;
};

const isShell = (file: string): boolean => /\/(worker|apply)\.ts$/.test(file) || shells.some((shell) => shell.file.test(file));

/** Why a file may not import this; undefined when it may. */
function importProblem(file: string, { from, names }: Import): string | undefined {
  const area = areas.find((each) => each.files.test(file));
  const room = roomOf(file);
  if (from.startsWith('.')) {
    const target = normalize(join(dirname(file), from));
    if (!productFolders.some((folder) => target.startsWith(`${folder}/`)))
      return `${target} is not part of the product, and a release does not have it`;
    if (target === 'agent/main.ts') return 'agent/main.ts is the composition root: nobody imports it';
    if (area !== undefined)
      return area.files.test(target) || area.may.some((may) => may.test(target))
        ? undefined
        : `${area.name} may not import ${target}: ${area.why}`;
    if (/^agent\/(base|model)\//.test(target)) return undefined;
    if (roomOf(target) !== room)
      return `room ${room} may import values only from itself, base and model: what it needs of ${target} arrives as a parameter, wired in agent/cli/wiring`;
    if (!isShell(file) && isShell(target)) return `a pure file may not import the shell ${target}: data comes from shells to it`;
    return undefined;
  }
  if (isBuiltin(from)) {
    if (!from.startsWith('node:')) return `write node:${from}`;
    if (/^node:timers/.test(from)) return 'timers are in agent/base/clock.ts alone';
    if (room === undefined && !pureAreas.includes(area?.name ?? '')) return undefined;
    const pure = pureBuiltins[from];
    if (pure === 'all' || (pure !== undefined && names !== 'all' && names.every((name) => pure.includes(name)))) return undefined;
  } else {
    const name = from.startsWith('@') ? from.split('/').slice(0, 2).join('/') : (from.split('/')[0] ?? '');
    if (area !== undefined) return area.packages.includes(name) ? undefined : `${name} is not for ${area.name}`;
    if (purePackages.includes(name)) return undefined;
  }
  if (isShell(file) && shellIo.some((each) => each.file.test(file) && each.may.includes(from))) return undefined;
  return `${from} does I/O: ${isShell(file) ? 'a driver does that, and this shell gets it as a parameter (or list it in shellIo with its why)' : 'pure files decide; a shell feeds them'}`;
}

/** The calls of node:fs that a file makes or could make. */
function fileCallsOf(javascript: string, code: string): ReadonlySet<string> {
  const imported = importsOf(javascript)
    .filter(({ from }) => /^node:fs(\/promises)?$/.test(from))
    .flatMap(({ names }) => (names === 'all' ? [] : names));
  const members = [...code.matchAll(/\bfs\s*\.\s*(?:promises\s*\.\s*)?(\w+)/g)].map(([, name = '']) => name);
  return new Set([...imported, ...members]);
}

/** Everything that is wrong with a file of the product. */
function problemsOf(file: string, source: string): string[] {
  let javascript: string;
  try {
    javascript = stripTypeScriptTypes(source);
  } catch (error) {
    return [
      `${file}: has more than types to strip (enum, namespace, parameter property): ${error instanceof Error ? error.message : error}`,
    ];
  }
  const problems: string[] = [];
  for (const each of importsOf(javascript)) {
    const problem = importProblem(file, each);
    if (problem !== undefined) problems.push(`${file}: imports ${each.from}: ${problem}`);
  }
  const code = codeOf(javascript);
  for (const ban of bans) {
    if (!ban.where.test(file) || ban.except?.some((each) => each.file.test(file)) === true) continue;
    const found = ban.pattern.exec(ban.in === 'source' ? source : code);
    if (found !== null) problems.push(`${file}: ${found[0]} (${ban.what}): ${ban.why}`);
  }
  const called = fileCallsOf(javascript, code);
  for (const { what, names, except, why } of fileCalls)
    for (const name of names)
      if (called.has(name) && !except.some((each) => each.file.test(file))) problems.push(`${file}: ${name} (${what}): ${why}`);
  return problems;
}

// ---------------------------------------------------------------------------------------------------------------------- the tests

const files = globSync(
  productFolders.map((folder) => `${folder}/**/*.ts`),
  { cwd: repository },
).sort();

describe('architecture', () => {
  test('the files are seen, and so are their imports', () => {
    assert.ok(files.length > 100, `only ${files.length} files`);
    const imports = files.flatMap((file) => importsOf(stripTypeScriptTypes(readFileSync(join(repository, file), 'utf8'))));
    assert.ok(imports.length > files.length, `only ${imports.length} imports`);
  });

  test('every folder of agent/ is a room or an area', () => {
    const unknown = files.filter((file) => roomOf(file) === undefined && !areas.some((area) => area.files.test(file)));
    assert.deepEqual(unknown, []);
  });

  test('every file keeps to the table', () => {
    const problems = files.flatMap((file) => problemsOf(file, readFileSync(join(repository, file), 'utf8')));
    assert.deepEqual(problems, [], `\n${problems.join('\n')}`);
  });

  test('no object is looked into by a name that others choose, but through base/own.ts', () => {
    const uses = foreignKeyUses(repository, productFolders).filter(({ file }) => file !== 'agent/base/own.ts');
    const why = 'a name that may be constructor or __proto__: use ownValue and setOwn of agent/base/own.ts, or a Map';
    assert.deepEqual(
      uses.map(({ file, line, text }) => `${file}:${line}: ${text}: ${why}`),
      [],
    );
  });

  test("Kubernetes' version is spelt once, and it is the one that the lab runs", () => {
    const spelt = files.filter((file) =>
      [...readFileSync(join(repository, file), 'utf8').matchAll(stringOrComment)].some(
        ([token]) => !token.startsWith('/') && /\bv?1\.36\.\d/.test(token),
      ),
    );
    assert.deepEqual(spelt, ['agent/model/kubernetes-version.ts']);
    assert.equal(ours, kubernetesVersion);
  });

  test('each listed shell exists', () => {
    const stale = [...shells, ...shellIo, ...fileCalls.flatMap(({ except }) => except)].filter(
      ({ file }) => !files.some((each) => file.test(each)),
    );
    assert.deepEqual(stale, []);
  });

  const cases: Record<string, { file: string; source: string; says?: RegExp }> = {
    'a pure file imports its own room': { file: 'agent/pods/plan.ts', source: `import { a } from './phase.ts';` },
    'a type from anywhere is free': {
      file: 'agent/pods/plan.ts',
      source: `import type { A } from '../drivers/cri/client.ts';\ntype B = typeof import('node:fs');`,
    },
    'an inline type still loads its file': {
      file: 'agent/pods/plan.ts',
      source: `import { type A } from '../images/decide.ts';`,
      says: /room pods may import values only/,
    },
    'a room imports a room': {
      file: 'agent/pods/worker.ts',
      source: `import {\n  a,\n  b,\n} from '../images/decide.ts';`,
      says: /arrives as a parameter/,
    },
    'a room imports a driver': {
      file: 'agent/pods/worker.ts',
      source: `import { a } from '../drivers/cri/client.ts';`,
      says: /arrives as a parameter/,
    },
    'a pure file imports a shell': {
      file: 'agent/pods/plan.ts',
      source: `import { a } from './worker.ts';`,
      says: /may not import the shell/,
    },
    'a pure file re-exports a shell': {
      file: 'agent/pods/plan.ts',
      source: `export * from './apply.ts';`,
      says: /may not import the shell/,
    },
    'a pure file reads files': { file: 'agent/pods/plan.ts', source: `import { readFile } from 'node:fs/promises';`, says: /does I\/O/ },
    'a pure file connects': { file: 'agent/node/addresses.ts', source: `import { connect, isIP } from 'node:net';`, says: /does I\/O/ },
    'isIP is pure': { file: 'agent/node/addresses.ts', source: `import { isIP } from 'node:net';` },
    'a worker reads files': { file: 'agent/node/worker.ts', source: `import fs from 'node:fs';`, says: /gets it as a parameter/ },
    'a dynamic import counts': { file: 'agent/node/status.ts', source: `const fs = await import('node:fs');`, says: /does I\/O/ },
    'an import for its effect counts': { file: 'agent/base/loop.ts', source: `import '../cli/run.ts';`, says: /agent\/base may not/ },
    'a driver imports a room': {
      file: 'agent/drivers/kube/client.ts',
      source: `import { a } from '../../pods/plan.ts';`,
      says: /speaks for a neighbour/,
    },
    'the wiring imports anything': { file: 'agent/cli/run.ts', source: `import { a } from '../../proxy/model.ts';` },
    'nobody imports the root': { file: 'agent/cli/run.ts', source: `import { a } from '../main.ts';`, says: /composition root/ },
    'the product imports a test': {
      file: 'agent/cli/up.ts',
      source: `import { a } from '../../test/testbed/lab.ts';`,
      says: /not part of the product/,
    },
    'the proxy imports the agent': {
      file: 'proxy/model.ts',
      source: `import { a } from '../agent/config/config.ts';`,
      says: /house of its own/,
    },
    'the model of the proxy runs a command': {
      file: 'proxy/model/plan.ts',
      source: `import { spawn } from 'node:child_process';`,
      says: /does I\/O/,
    },
    'the model of the proxy imports a backend': {
      file: 'proxy/model/plan.ts',
      source: `import { a } from '../backends/nftables/layout.ts';`,
      says: /without touching one/,
    },
    'a package in the wrong place': { file: 'agent/pods/plan.ts', source: `import { pino } from 'pino';`, says: /does I\/O/ },
    'a second reader of YAML': { file: 'agent/cli/up.ts', source: `import { parse } from 'yaml';`, says: /yaml is not for agent\/cli/ },
    'the one reader of YAML': { file: 'agent/model/yaml.ts', source: `import { Parser } from 'yaml';` },
    'a timer': { file: 'agent/pods/worker.ts', source: 'setTimeout(() => {}, 5);', says: /time is injected/ },
    'a timer in a template': { file: 'agent/pods/worker.ts', source: 'const a = `at ${Date.now()}`;', says: /time is injected/ },
    'the present moment as a Date': { file: 'agent/pods/worker.ts', source: 'const a = new Date();', says: /time is injected/ },
    'a given moment as a Date': { file: 'agent/pods/worker.ts', source: 'const a = new Date(now);' },
    "a socket's timer": { file: 'agent/server/stream-proxy.ts', source: 'socket.setTimeout(5);' },
    'words in strings, comments and patterns': {
      file: 'agent/pods/worker.ts',
      source: `// Date.now\nconst a = 'Date.now()'; /* setTimeout */ const b = /'process.exit'/; const c = \`process.exit\`;`,
    },
    'an exit': { file: 'agent/cli/run.ts', source: 'process.exit(1);', says: /skips every cleanup/ },
    'a server': { file: 'agent/drivers/sys/x.ts', source: 'const a = createServer();', says: /hears them all/ },
    'an error heard once': { file: 'agent/cli/run.ts', source: `socket.once('error', fail);`, says: /use on/ },
    'a cast to a socket': { file: 'agent/server/x.ts', source: 'end(stream as Socket);', says: /a Duplex/ },
    'the environment in a room': { file: 'agent/images/decide.ts', source: 'const home = process.env.HOME;', says: /as parameters/ },
    'a tree removed by hand': {
      file: 'agent/pods/apply.ts',
      source: 'await rm(folder, { recursive: true, force: true });',
      says: /use removeTree/,
    },
    'a tree removed by hand, over two lines': {
      file: 'agent/cli/down.ts',
      source: 'fs.rmSync(path.join(dir, name),\n  { force: true, recursive });',
      says: /use removeTree/,
    },
    'a file removed': { file: 'agent/cli/down.ts', source: 'rmSync(file, { force: true }); mkdirSync(at, { recursive: true });' },
    'a file that is opened by its path': {
      file: 'agent/drivers/kube/client.ts',
      source: `import { open } from 'node:fs/promises';`,
      says: /drivers\/files\/look\.ts looks first/,
    },
    'a file that is read through fs': {
      file: 'agent/drivers/kube/client.ts',
      source: `import fs from 'node:fs';\nawait fs.promises.readFile('/x');`,
      says: /looks first/,
    },
    'a file that is written by hand': {
      file: 'agent/drivers/kube/client.ts',
      source: `import { renameSync } from 'node:fs';`,
      says: /the one writer/,
    },
    'an open handle may be read': { file: 'agent/drivers/kube/client.ts', source: `await handle.readFile(); await looked.open();` },
    'an enum': { file: 'agent/pods/plan.ts', source: 'enum A { B }', says: /more than types to strip/ },
  };
  for (const [name, { file, source, says }] of Object.entries(cases))
    test(`the test itself: ${name}`, () => {
      const problems = problemsOf(file, source);
      if (says === undefined) assert.deepEqual(problems, []);
      else assert.match(problems.join('\n'), says);
    });
});
