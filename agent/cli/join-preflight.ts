import { constants } from 'node:fs';
import { access, readFile, stat } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';

/** A check before joining, named as kubeadm names it, so that `--ignore-preflight-errors` works the same. */
export interface PreflightCheck {
  readonly name: string;
  /** What is wrong and what to do, or `undefined`. */
  run(): Promise<string | undefined>;
}

export interface PreflightPlaces {
  readonly kubeconfig: string;
  readonly bootstrapKubeconfig: string;
  readonly caPath: string;
  readonly criSocket: string;
}

const serverPort = 10250;

/** The checks of a joining worker: privileges, nothing of an earlier join in the way, a runtime that answers, a free port, forwarding. */
export function preflightChecks(places: PreflightPlaces, ipv6: boolean): PreflightCheck[] {
  const rejoin = 'this machine seems to have joined a cluster already; to join (again), stop the agent and remove the file';
  return [
    {
      name: 'IsPrivilegedUser',
      run: async () => (process.getuid?.() === 0 ? undefined : 'joining needs root: run it in a root shell (su -), or with sudo'),
    },
    ...[places.kubeconfig, places.bootstrapKubeconfig, places.caPath].map((path) => ({
      // kubeadm names these checks by their path.
      name: `FileAvailable-${path.replaceAll('/', '-')}`,
      run: async () => ((await exists(path)) ? `${path} exists: ${rejoin}` : undefined),
    })),
    { name: 'CRI', run: () => runtimeProblem(places.criSocket) },
    { name: `Port-${serverPort}`, run: () => portProblem(serverPort) },
    forwarding(ipv6 ? '/proc/sys/net/ipv6/conf/default/forwarding' : '/proc/sys/net/ipv4/ip_forward'),
  ];
}

function forwarding(path: string): PreflightCheck {
  return {
    name: `FileContent-${path.replaceAll('/', '-')}`,
    run: async () => {
      const text = await readFile(path, 'utf8').catch(() => undefined);
      return text === undefined || text.trim() === '1'
        ? undefined
        : `${path} is ${text.trim()}, so pods reach nothing beyond this node: echo 1 > ${path}`;
    },
  };
}

async function exists(path: string): Promise<boolean> {
  return await access(path, constants.F_OK).then(
    () => true,
    () => false,
  );
}

async function runtimeProblem(socket: string): Promise<string | undefined> {
  const path = socket.replace(/^unix:\/\//, '');
  const found = await stat(path).catch(() => undefined);
  if (found === undefined)
    return `there is no container runtime at ${socket}: start one (systemctl start containerd), or name its socket with --cri-socket`;
  if (!found.isSocket()) return `${path} is not a socket`;
  return await new Promise((resolve) => {
    const probe: Socket = connect(path, () => {
      probe.destroy();
      resolve(undefined);
    });
    probe.on('error', (error) => resolve(`the container runtime at ${socket} does not answer: ${error.message}`));
  });
}

async function portProblem(port: number): Promise<string | undefined> {
  return await new Promise((resolve) => {
    const server = createServer();
    server.on('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code === 'EADDRINUSE' ? `port ${port} is in use: is a kubelet or keelson running? Stop it first` : error.message),
    );
    server.listen(port, () => server.close(() => resolve(undefined)));
  });
}

// In kubeadm's order; each is what its package makes (cmd/kubeadm/app/constants).
const knownSockets = ['/var/run/containerd/containerd.sock', '/var/run/crio/crio.sock', '/var/run/cri-dockerd.sock'];

/** The CRI sockets that are on this machine, as endpoints. */
export async function findCriSockets(): Promise<string[]> {
  const found: string[] = [];
  for (const path of knownSockets) if ((await stat(path).catch(() => undefined))?.isSocket()) found.push(`unix://${path}`);
  return found;
}
