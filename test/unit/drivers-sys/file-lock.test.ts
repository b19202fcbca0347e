import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { takeLock } from '../../../agent/cli/local/lock.ts';
import { tryLockFile } from '../../../agent/drivers/sys/file-lock.ts';

const racer = `
import { openSync, closeSync, rmSync, constants } from 'node:fs';
const { tryLockFile } = await import(process.argv[1]);
const [, , file, inside, rounds] = process.argv;
let taken = 0, together = 0, tries = 0;
process.stdout.write('ready\\n');
await new Promise((resolve) => process.stdin.once('data', resolve));
for (let n = 0; n < Number(rounds); n++) {
  tries++;
  const lock = tryLockFile(file);
  if ('heldBy' in lock) continue;
  taken++;
  // O_EXCL: whoever finds it there is not alone.
  try { closeSync(openSync(inside, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY)); rmSync(inside); } catch { together++; }
  lock[Symbol.dispose]();
}
process.stdout.write(JSON.stringify({ taken, together, tries }) + '\\n');
process.exit(0);
`;

const module = import.meta.resolve('../../../agent/drivers/sys/file-lock.ts');

const lineOf = async (child: ChildProcess): Promise<string> => {
  let text = '';
  while (!text.endsWith('\n')) text += String((await once(child.stdout as NodeJS.ReadableStream, 'data'))[0]);
  return text;
};

describe('the lock of up and down', () => {
  const folder = mkdtempSync(join(tmpdir(), 'keelson-lock-'));
  after(() => rmSync(folder, { recursive: true }));

  test('no two of racing processes are in at once', { timeout: 60_000 }, async () => {
    const start = (): ChildProcess =>
      spawn(process.execPath, ['--input-type=module', '-e', racer, module, join(folder, 'race.lock'), join(folder, 'inside'), '5000'], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
    const racers = [start(), start(), start(), start()];
    await Promise.all(racers.map(lineOf));
    for (const each of racers) each.stdin?.write('go\n');
    const counts = (await Promise.all(racers.map(lineOf))).map(
      (line) => JSON.parse(line) as Record<'taken' | 'together' | 'tries', number>,
    );
    const sum = (what: 'taken' | 'together' | 'tries'): number => counts.reduce((total, each) => total + each[what], 0);
    assert.equal(sum('tries'), 20_000);
    assert.ok(sum('taken') > 100, `taken ${sum('taken')} times only`);
    assert.equal(sum('together'), 0);
  });

  test('who holds it is told, and a file that was left behind counts for nothing', () => {
    const file = join(folder, 'a', 'held.lock');
    const lock = takeLock(file);
    assert.throws(() => takeLock(file), new RegExp(`another keelson up or down is under way \\(process ${process.pid}\\)`));
    lock[Symbol.dispose]();
    assert.equal(existsSync(file), false);
    for (const left of ['', '{"pid":1,"startTicks":"1","bootId":"x"}', `${process.ppid}\n`]) {
      writeFileSync(file, left);
      takeLock(file)[Symbol.dispose]();
    }
  });

  test('it ends with its process, however that ends', async () => {
    const file = join(folder, 'killed.lock');
    const hold = `const { tryLockFile } = await import(process.argv[1]); globalThis.lock = tryLockFile(process.argv[2]); process.stdout.write('held\\n'); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', hold, module, file], { stdio: ['ignore', 'pipe', 'inherit'] });
    await lineOf(child);
    assert.deepEqual(tryLockFile(file), { heldBy: child.pid });
    child.kill('SIGKILL');
    await once(child, 'exit');
    const lock = tryLockFile(file);
    assert.ok(!('heldBy' in lock));
    lock[Symbol.dispose]();
  });
});
