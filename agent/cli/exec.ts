import { spawn } from 'node:child_process';
import { AgentError } from '../base/errors.ts';
import { agent, defaultContainer, parsePodName } from './local/client.ts';
import { runStream } from './local/exec-stream.ts';
import { localCluster, socketToAsk } from './local/paths.ts';
import { toolPath } from './local/tool.ts';

const help = `Usage: keelson exec POD [-c CONTAINER] [-n NAMESPACE] [-i] [-t] -- COMMAND [ARGUMENT …]

Runs a command in a container, as kubectl exec does; ends with the command's exit code. POD is the name in its manifest, or NAMESPACE/NAME.
`;

interface ExecArguments {
  readonly pod: string;
  readonly container: string | undefined;
  readonly namespace: string | undefined;
  readonly stdin: boolean;
  readonly tty: boolean;
  readonly command: readonly string[];
}

/** What stands behind the pod's name (and an optional `--`) is the command, flags included. Undefined when help is wanted. Throws AgentError Usage. */
export function parseExecArguments(args: readonly string[]): ExecArguments | undefined {
  let pod: string | undefined;
  let container: string | undefined;
  let namespace: string | undefined;
  let stdin = false;
  let tty = false;
  const rest = [...args];
  const usage = (problem: string): never => {
    throw new AgentError('Usage', `${problem}\n\n${help}`);
  };
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === '--') break;
    if (arg === '-h' || arg === '--help') return undefined;
    const [flag = '', inline] = arg.split(/=(.*)/s);
    if (flag === '-c' || flag === '--container') container = inline ?? rest.shift();
    else if (flag === '-n' || flag === '--namespace') namespace = inline ?? rest.shift();
    else if (/^-[it]{1,2}$/.test(flag) || flag === '--stdin' || flag === '--tty') {
      if (flag.startsWith('--') ? flag === '--stdin' : flag.includes('i')) stdin = true;
      if (flag.startsWith('--') ? flag === '--tty' : flag.includes('t')) tty = true;
    } else if (arg.startsWith('-')) usage(`unknown flag ${arg}`);
    else if (pod === undefined) pod = arg;
    else {
      rest.unshift(arg);
      break;
    }
  }
  if (pod === undefined) return usage('name a pod');
  if (rest.length === 0) return usage('name a command');
  return { pod, container, namespace, stdin, tty, command: rest };
}

/** `keelson exec` */
export async function exec(args: readonly string[], signal: AbortSignal): Promise<number> {
  const wanted = parseExecArguments(args);
  if (wanted === undefined) {
    process.stdout.write(help);
    return 0;
  }
  const pod = parsePodName(wanted.pod, wanted.namespace);
  const container = wanted.container ?? defaultContainer(await agent.why(pod, signal));
  if (wanted.tty && !process.stdin.isTTY) process.stderr.write('Unable to use a TTY - input is not a terminal or the right kind of file\n');
  const tty = wanted.tty && process.stdin.isTTY;
  const query = new URLSearchParams(wanted.command.map((part) => ['command', part]));
  if (wanted.stdin) query.set('stdin', '1');
  if (tty) query.set('tty', '1');
  if (socketToAsk() === localCluster.nodeSocket && process.env.KEELSON_IN_NODE === undefined) return await execInCluster(args, signal);
  const { url } = await agent.exec(pod, container, query, signal);
  return await runStream(url, { stdin: wanted.stdin, tty }, process, signal);
}

/** The runtime of the local cluster's node serves streams in the node's own network: this program goes there and does it again. */
async function execInCluster(args: readonly string[], signal: AbortSignal): Promise<number> {
  const self = [process.execPath, ...process.execArgv, process.argv[1] ?? ''];
  const child = spawn('nsenter', [`--net=${localCluster.nodeNetwork}`, '--', ...self, 'exec', ...args], {
    stdio: 'inherit',
    env: { ...process.env, PATH: toolPath, KEELSON_SOCKET: localCluster.nodeSocket, KEELSON_IN_NODE: '1' },
  });
  const onAbort = (): void => void child.kill('SIGTERM');
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    child.on('error', reject);
    child.once('close', (code) => resolve(code ?? 1));
    return await promise;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
