import { AgentError, messageOf } from '../../base/errors.ts';
import { type OperationName, operations } from './operations.ts';

// Runs one operation in a process that can be killed: `child.ts <operation> <arguments as JSON> <PID of the agent>`.
// The answer is one line of JSON on stdout, after lines that tell how far it is.

type Operation = (args: unknown, progress: (removed: number) => void) => Promise<unknown>;

async function runAsChild(name: string, json: string, agent: number): Promise<string> {
  // An agent that starts anew knows nothing of this process, and may make anew what is being removed.
  const checkAgent = (): void => {
    if (process.ppid !== agent) throw new AgentError('Canceled', 'the agent that asked for it is gone');
  };
  const progress = (removed: number): void => {
    checkAgent();
    process.stdout.write(`${JSON.stringify({ removed })}\n`);
  };
  try {
    // It may have ended while this process started.
    checkAgent();
    const operation = operations[name as OperationName] as Operation | undefined;
    if (operation === undefined) throw new AgentError('Internal', `unknown operation ${name}`);
    return JSON.stringify({ result: await operation(JSON.parse(json), progress) });
  } catch (error) {
    return JSON.stringify({ code: error instanceof AgentError ? error.code : 'Internal', message: messageOf(error) });
  }
}

if (import.meta.main)
  process.stdout.write(`${await runAsChild(process.argv[2] ?? '', process.argv[3] ?? '{}', Number(process.argv[4]))}\n`);
