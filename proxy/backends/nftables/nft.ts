// The table by text, through the nft binary. Changes go through one process that is kept (`nft -i`, a
// line a batch: 0.3 ms); what is large or makes structure, through one of its own (`nft -f -`: 2 ms,
// and 14 more when it deletes: it waits for an RCU grace period as it exits).
import type { Clock } from '../../../agent/base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../../agent/base/errors.ts';
import { type Log, silentLog } from '../../../agent/base/log.ts';
import type { Family } from '../../model/address.ts';
import { batchRefused } from '../backend.ts';
import { collect, firstLine } from '../collect.ts';
import { type NetworkFiles, ownNetwork, routeLoopbackTo } from '../localnet.ts';
import { batchCommands, layoutText, setText } from './batch.ts';
import { isOurTable, tableName } from './layout.ts';
import { type Listing, parseListing } from './listing.ts';
import type { Netfilter } from './netfilter.ts';
import { type Interactive, nftTool, residentBytes, startInteractive } from './process.ts';

/**
 * Errors besides `BatchRefused`: `NftMissing`, `NftCrashed`, `NftFailed` and `DeadlineExceeded`.
 * Several calls at once must not be made.
 */
export function createNft(family: Family, options: NftOptions): Netfilter {
  const nft = createRunner(options);
  const { files = ownNetwork, log = silentLog } = options;
  const table = `${family} ${tableName}`;

  /**
   * Without elements. Only `list ruleset` leaves them in the kernel: `-t list table` and `list tables` of nft 1.0.6 fetch all
   * elements of all tables first (0.35 s of CPU and 60 MB at 5,000 Services of five endpoints).
   */
  async function ruleset(signal: AbortSignal): Promise<string> {
    return (await nft.list(['-t', 'list', 'ruleset', family], signal)) ?? '';
  }

  async function terse(signal: AbortSignal): Promise<Listing | undefined> {
    let text: string;
    try {
      text = await ruleset(signal);
    } catch (error) {
      if (!hasCode(error, 'NftCrashed')) throw error;
      // On a set of somebody else (kubernetes#136786). A list of one table looks at no other.
      text = (await nft.list(['-t', 'list', 'table', family, tableName], signal)) ?? '';
    }
    const start = text.indexOf(`table ${table} {\n`);
    return start < 0 ? undefined : parseListing(text.slice(start, text.indexOf('\n}\n', start) + 3));
  }

  async function removeTables(which: (name: string) => boolean, signal: AbortSignal): Promise<void> {
    const text = await ruleset(signal);
    const names = [...text.matchAll(/^table \S+ (\S+) \{$/gm)]
      .map(([, name = '']) => name)
      .filter((name) => isOurTable(name) && which(name));
    if (names.length > 0) await nft.load(names.map((name) => `delete table ${family} ${name}\n`).join(''), signal);
  }

  return {
    define: (layout, contents, replace, signal) => {
      const fills = contents.map(({ set, keys }) => setText(family, set, keys));
      return nft.load([replace ? `delete table ${table}\n` : '', layoutText(layout), ...fills].join(''), signal);
    },
    apply: (batch, signal) => nft.run(batchCommands(batch), signal),
    fill: ({ set, keys }, signal) => nft.load(setText(family, set, keys), signal),
    drop: (chains, sets, signal) => {
      const removals = [...chains.map((name) => `delete chain ${table} ${name}`), ...sets.map((name) => `delete map ${table} ${name}`)];
      return nft.load(`${removals.join('\n')}\n`, signal);
    },
    async read(elements, signal) {
      if (!elements) return terse(signal);
      const text = await nft.list(['list', 'table', family, tableName], signal);
      return text === undefined ? undefined : parseListing(text);
    },
    async readSet(set, signal) {
      const text = await nft.list(['list', 'map', family, tableName, set], signal);
      return parseListing(text ?? '').sets.get(set) ?? new Map();
    },
    async routeLoopbackTo(addresses) {
      try {
        await routeLoopbackTo(addresses, files);
      } catch (error) {
        // Every other way to the node port works without it.
        log.warn({ err: messageOf(error) }, 'node ports cannot be reached on 127.0.0.1');
      }
    },
    removeOlder: (signal) => removeTables((name) => name !== tableName, signal),
    remove: (signal) => removeTables(() => true, signal),
    [Symbol.asyncDispose]: () => nft[Symbol.asyncDispose](),
  };
}

interface Runner extends AsyncDisposable {
  /** Runs commands as one transaction. */
  run(commands: readonly string[], signal: AbortSignal): Promise<void>;
  /** The same for text of many lines. */
  load(text: string, signal: AbortSignal): Promise<void>;
  /** What nft prints; undefined when what it should list is not there. */
  list(args: readonly string[], signal: AbortSignal): Promise<string | undefined>;
}

export interface NftOptions {
  readonly clock: Clock;
  /** The command; a test runs it in a network namespace. Default `nft`. */
  readonly command?: readonly string[];
  /** Of the namespace that the command runs in. */
  readonly files?: NetworkFiles;
  readonly log?: Log;
}

/** nft reads a long line slowly: 1 MB takes it a second. */
const longestLine = 64 * 1024;
const deadlineMs = 30_000;
/** It leaks a little; a new one costs 10 ms. */
const largestResidentBytes = 50 * 1024 ** 2;
const looksAtMemoryEvery = 256;

function createRunner({ clock, command = ['nft'] }: NftOptions): Runner {
  let kept: Interactive | undefined;
  let batches = 0;

  async function spawned<T>(signal: AbortSignal, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    using deadline = clock.deadline(signal, deadlineMs);
    return await run(deadline.signal);
  }

  async function load(text: string, signal: AbortSignal): Promise<void> {
    const { code, stderr } = await spawned(signal, (bounded) => collect(nftTool, command, { args: ['-f', '-'], input: text }, bounded));
    if (code !== 0) throw refusal(stderr);
  }

  return {
    load,
    async run(commands, signal) {
      const line = commands.join('; ');
      if (line.length > longestLine) return load(`${commands.join('\n')}\n`, signal);
      if (kept !== undefined && ++batches % looksAtMemoryEvery === 0 && (await residentBytes(kept.pid)) > largestResidentBytes) {
        await kept.end();
        kept = undefined;
      }
      kept ??= await startInteractive(command);
      const process = kept;
      try {
        const said = await spawned(signal, (bounded) => process.ask(line, bounded));
        if (/^Error: /m.test(said)) throw refusal(said);
      } catch (error) {
        if (!hasCode(error, batchRefused)) {
          // Its next answer could be to this question.
          kept = undefined;
          await process.end();
        }
        throw error;
      }
    },
    async list(args, signal) {
      const { code, stdout, stderr } = await spawned(signal, (bounded) => collect(nftTool, command, { args }, bounded));
      if (code === 0) return stdout;
      if (/No such file or directory/.test(stderr)) return undefined;
      throw new AgentError('NftFailed', `nft ${args.join(' ')}: ${firstLine(stderr)}`);
    },
    async [Symbol.asyncDispose]() {
      await kept?.end();
      kept = undefined;
    },
  };
}

function refusal(said: string): AgentError {
  return new AgentError(batchRefused, firstLine(said));
}
