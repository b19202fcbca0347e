// A node:test reporter: a line for each file that ended, everything about what failed, and each outcome as a line of JSON for the run (test/run/main.ts).
import { appendFileSync } from 'node:fs';
import { relative } from 'node:path';
import { type Completed, isFile, type Line, type Outcome, outcomeOf, sumOf, sumText } from './outcomes.ts';

type Event =
  | { readonly type: 'test:complete'; readonly data: Completed }
  | { readonly type: 'test:dequeue'; readonly data: { readonly name: string; readonly file?: string } }
  | { readonly type: 'test:stderr' | 'test:stdout'; readonly data: { readonly file: string; readonly message: string } }
  | { readonly type: 'test:diagnostic'; readonly data: { readonly file?: string; readonly message: string } }
  | { readonly type: 'other' };

const outcomesFile = process.env.KEELSON_TEST_OUTCOMES;

function note(line: Line): void {
  if (outcomesFile !== undefined) appendFileSync(outcomesFile, `${JSON.stringify(line)}\n`);
}

const shown = (file: string | undefined): string => (file === undefined ? '' : relative(process.cwd(), file));

/** A stack without Node's own frames. */
const withoutNode = (text: string): string => text.replaceAll(/^ +at .*\(?node:internal.*\n?/gm, '').trimEnd();

const indent = (text: string): string => text.replaceAll(/^(?=.)/gm, '      ');

export default async function* report(events: AsyncIterable<Event>): AsyncGenerator<string> {
  const byFile = new Map<string, Outcome[]>();
  const printed = new Map<string, string[]>();
  const crashed = new Set<string>();
  for await (const event of events) {
    if (event.type === 'test:stderr' || event.type === 'test:stdout') {
      const { file, message } = event.data;
      // What a file that crashed has written comes after the news of its end.
      if (crashed.has(file)) yield `${indent(message)}\n`;
      else printed.set(file, [...(printed.get(file) ?? []), ...message.trimEnd().split('\n')].slice(-40));
    } else if (event.type === 'test:diagnostic') {
      // What a test has counted, such as the cases of a fuzz, belongs to what a run shows.
      if (event.data.message.startsWith('count: ')) yield `  ${event.data.message}\n`;
    } else if (event.type === 'test:dequeue') {
      if (isFile(event.data)) note({ begun: shown(event.data.file) });
    } else if (event.type === 'test:complete') {
      const { data } = event;
      const file = shown(data.file);
      const outcomes = byFile.get(file) ?? [];
      byFile.set(file, outcomes);
      let outcome = outcomeOf({ ...data, file });
      if (isFile(data) && outcome === undefined && outcomes.length === 0)
        outcome = { kind: 'failed', name: data.name, file, message: 'no test in this file', seconds: 0 };
      if (outcome !== undefined) {
        outcomes.push(outcome);
        note({ outcome });
        if (outcome.kind === 'skipped') yield `  skipped ${file}: ${outcome.name}${outcome.message === '' ? '' : `: ${outcome.message}`}\n`;
        if (outcome.kind === 'failed') {
          yield `  FAILED  ${file}: ${outcome.name} (${outcome.seconds.toFixed(1)} s)\n${indent(withoutNode(outcome.message))}\n`;
          if (isFile(data) && data.file !== undefined) {
            crashed.add(data.file);
            yield `${indent((printed.get(data.file) ?? []).join('\n'))}\n`;
          }
        }
      }
      if (isFile(data)) {
        note({ ended: file });
        yield `  ${file}: ${sumText(sumOf(outcomes))} (${(data.details.duration_ms / 1000).toFixed(1)} s)\n`;
      }
    }
  }
}
