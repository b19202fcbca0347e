import { AgentError, messageOf } from '../../base/errors.ts';
import { type OperationName, operations } from './operations.ts';

// Runs one operation in a process that can be killed: `child.ts <operation> <arguments as JSON>`. The answer is one line of JSON on stdout, after lines
// that tell how far it is.

type Operation = (args: unknown, progress: (removed: number) => void) => Promise<unknown>;

async function runAsChild(name: string, json: string): Promise<string> {
  const parent = process.ppid;
  const progress = (removed: number): void => {
    // An agent that starts anew knows nothing of this process, and may make anew what is being removed.
    if (process.ppid !== parent) throw new AgentError('Canceled', 'the agent that asked for it is gone');
    process.stdout.write(`${JSON.stringify({ removed })}\n`);
  };
  try {
    const operation = operations[name as OperationName] as Operation | undefined;
    if (operation === undefined) throw new AgentError('Internal', `unknown operation ${name}`);
    return JSON.stringify({ result: await operation(JSON.parse(json), progress) });
  } catch (error) {
    return JSON.stringify({ code: error instanceof AgentError ? error.code : 'Internal', message: messageOf(error) });
  }
}

if (import.meta.main) process.stdout.write(`${await runAsChild(process.argv[2] ?? '', process.argv[3] ?? '{}')}\n`);
