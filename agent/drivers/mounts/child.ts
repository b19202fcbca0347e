import { AgentError, messageOf } from '../../base/errors.ts';
import { type OperationName, operations } from './operations.ts';

// Runs one operation in a process that can be killed: `child.ts <operation> <arguments as JSON>`. The answer is one line of JSON on stdout.

export async function runAsChild(name: string, json: string): Promise<string> {
  try {
    const operation = operations[name as OperationName] as ((args: unknown) => Promise<unknown>) | undefined;
    if (operation === undefined) throw new AgentError('Internal', `unknown operation ${name}`);
    return JSON.stringify({ result: await operation(JSON.parse(json)) });
  } catch (error) {
    return JSON.stringify({ code: error instanceof AgentError ? error.code : 'Internal', message: messageOf(error) });
  }
}

if (import.meta.main) process.stdout.write(`${await runAsChild(process.argv[2] ?? '', process.argv[3] ?? '{}')}\n`);
