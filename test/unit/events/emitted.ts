// The reasons of events that the agent's sources name.
import { globSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const repository = resolve(import.meta.dirname, '../../..');

// Reasons that are put together, by the text that does it.
const composed: { file: string; text: string; reasons: readonly string[] }[] = [
  { file: 'agent/pods/admission.ts', text: '`OutOf${', reasons: ['OutOfcpu', 'OutOfmemory', 'OutOfpods'] },
];
// Files that name reasons without recording them.
const mentions = /^agent\/(model\/generated\/|cli\/wiring\/metrics\.ts$)/;

const sources = globSync('agent/**/*.ts', { cwd: repository }).map((file) => ({
  file,
  text: readFileSync(join(repository, file), 'utf8'),
}));

/** True when some source names this reason. */
export function isNamed(reason: string): boolean {
  if (composed.some(({ file, text, reasons }) => reasons.includes(reason) && sources.some((s) => s.file === file && s.text.includes(text))))
    return true;
  return sources.some(({ file, text }) => !mentions.test(file) && text.includes(`'${reason}'`));
}

/** The reasons that stand beside the type of an event, or in the refusal of a pod, by the file that has them. */
export function recordedReasons(): Map<string, string> {
  const found = new Map<string, string>();
  for (const { file, text } of sources) {
    const refusals = file === 'agent/pods/admission.ts' ? text.matchAll(/\breason: '(\w+)'/g) : [];
    for (const [, reason = ''] of [...text.matchAll(/'(?:Normal|Warning)',\s*(?:reason: )?'(\w+)'/g), ...refusals])
      if (reason !== 'Normal' && reason !== 'Warning') found.set(reason, file);
  }
  return found;
}
