// Packs the agent and its libraries into a few files of plain JavaScript: `node scripts/bundle.ts FOLDER`. The launcher runs these, since stripped code in few files takes
// 15 MiB less memory than some three hundred modules do, and starts sooner (docs/measurements.md). Names stay and lines are short, so that stack traces can be read.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { build, type Plugin } from 'esbuild';

const repository = resolve(import.meta.dirname, '..');
const [given] = process.argv.slice(2);
if (given === undefined) throw new Error('usage: node scripts/bundle.ts FOLDER');
const folder = resolve(given);

/** What sources say of their own place stays true: they are found from where the bundle lies, so that a checkout can be moved. */
const places: Plugin = {
  name: 'places',
  setup(context) {
    context.onLoad({ filter: /\/agent\/.*\.ts$/ }, ({ path }) => {
      const here = (target: string): string => `new URL(${JSON.stringify(relative(folder, target))}, import.meta.url)`;
      const contents = readFileSync(path, 'utf8')
        .replaceAll(/import\.meta\.resolve\('\.\/child\.ts'\)/g, "new URL('./child.mjs', import.meta.url).href")
        .replaceAll(/(?<!new URL\('\.\/child\.mjs', )import\.meta\.url/g, `${here(path)}.href`)
        .replaceAll('import.meta.dirname', `decodeURIComponent(${here(dirname(path))}.pathname)`);
      return { contents, loader: 'ts' };
    });
  },
};

// Written aside and moved: who starts meanwhile never finds a half.
const siblings = dirname(folder);
const fresh = `${folder}.${process.pid}`;
mkdirSync(siblings, { recursive: true });
try {
  const result = await build({
    absWorkingDir: repository,
    entryPoints: { main: 'agent/main.ts', child: 'agent/drivers/mounts/child.ts' },
    outdir: fresh,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node26',
    // Has a native part, which it finds from where it lies.
    external: ['koffi'],
    // V8 keeps the text as long as the process lives.
    minifySyntax: true,
    minifyWhitespace: true,
    lineLimit: 120,
    legalComments: 'none',
    // CommonJS libraries ask for Node's own modules by require.
    banner: { js: "import { createRequire as requireFrom } from 'node:module';\nconst require = requireFrom(import.meta.url);" },
    plugins: [places],
    logLevel: 'silent',
  });
  for (const { text, location } of result.warnings) console.error(`keelson: bundle: ${text} (${location?.file}:${location?.line})`);
  // Somebody else may have made the same meanwhile.
  if (!existsSync(folder)) renameSync(fresh, folder);
} finally {
  rmSync(fresh, { recursive: true, force: true });
}

// A folder is for one state of the sources. Those of the last few stay: an agent that runs needs its own, for the children that it starts.
const kept = 8;
const byAge = readdirSync(siblings)
  .map((name) => join(siblings, name))
  .sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
for (const old of byAge.slice(kept)) rmSync(old, { recursive: true, force: true });
