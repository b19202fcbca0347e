// What makes a node look like a machine of its own besides its agent: names and numbers in /etc, user IDs for pods, and, for specs that look at it from
// outside, a login by ssh and a journal.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { chmod, mkdir, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ensureBinary } from './binaries.ts';
import { cacheRoot, ensureTools, makeOnce, openSuite, say } from './images-debian.ts';
import { nodeAddress } from './network.ts';
import { type LabRecord, labPaths, type NodeRecord, startComponent } from './record.ts';

const programs = { getsubids: 'usr/bin/getsubids', 'systemd-journal-remote': 'lib/systemd/systemd-journal-remote' };
const packages = ['uidmap', 'libsubid4', 'systemd-journal-remote', 'libsystemd-shared', 'libmicrohttpd12'];

/** A folder for the PATH, with programs that a lab's machines have and this one may not: getsubids, systemd-journal-remote. Nothing is installed. */
export const ensureMachineTools = async (): Promise<string> => {
  const target = join(cacheRoot(), 'lab', 'machine-tools');
  const home = await makeOnce(target, async (folder) => {
    say(`unpacking ${Object.keys(programs).join(' and ')}`);
    const suite = await openSuite('bookworm');
    const root = join(folder, 'root');
    for (const name of packages) await suite.unpack(name, root);
    const [architecture = ''] = await readdir(join(root, 'usr/lib')).then((names) => names.filter((name) => name.endsWith('-linux-gnu')));
    const libraries = ['', '/systemd'].map((below) => join(target, 'root/usr/lib', `${architecture}${below}`)).join(':');
    await mkdir(join(folder, 'bin'));
    for (const [name, path] of Object.entries(programs)) {
      const script = `#!/bin/sh\nLD_LIBRARY_PATH=${libraries} exec ${join(target, 'root', path)} "$@"\n`;
      await writeFile(join(folder, 'bin', name), script);
      await chmod(join(folder, 'bin', name), 0o755);
    }
  });
  return join(home, 'bin');
};

// As few as the pods of a node need (110 by default): the spec on this range takes it for a coincidence when it is wide.
const podIds = 'kubelet:65536:7208960\n';

/** Files of /etc that the nodes of a lab have in common: a user `kubelet`, whose subordinate IDs are those of pods with users of their own. */
const commonFiles = (): Record<string, string> => ({
  passwd: `${readFileSync('/etc/passwd', 'utf8').trimEnd()}\nkubelet:x:64000:65534::/nonexistent:/usr/sbin/nologin\n`,
  subuid: podIds,
  subgid: podIds,
});

/** Writes them, and tells what is to be mounted over what. */
const commonBinds = (lab: LabRecord): { from: string; to: string }[] => {
  const folder = join(labPaths(lab.name).home, 'etc');
  mkdirSync(folder, { recursive: true });
  return Object.entries(commonFiles()).map(([name, text]) => {
    const from = join(folder, name);
    if (!existsSync(from)) writeFileSync(from, text, { mode: 0o644 });
    return { from, to: `/etc/${name}` };
  });
};

/** What the suite has mounted where it runs: the nodes' users, whose IDs it asks for there, and the nodes' addresses, since it logs in to them by name. */
export const suiteBinds = (lab: LabRecord): { from: string; to: string }[] => {
  const binds = commonBinds(lab);
  const hosts = join(labPaths(lab.name).home, 'etc', 'hosts');
  const lines = lab.nodes.map(({ name, index }) => `${nodeAddress(index).v4} ${name}`);
  writeFileSync(hosts, `${readFileSync('/etc/hosts', 'utf8').trimEnd()}\n${lines.join('\n')}\n`);
  return [...binds, { from: hosts, to: '/etc/hosts' }];
};

/** Folders and files of a node that are mounted over the machine's: its /etc/machine-id and its journal besides what all nodes have. */
export const machineBinds = (lab: LabRecord, node: NodeRecord): { from: string; to: string }[] => {
  const { home } = labPaths(lab.name).node(node.id);
  const id = join(home, 'machine-id');
  if (!existsSync(id)) {
    mkdirSync(home, { recursive: true });
    writeFileSync(id, `${randomBytes(16).toString('hex')}\n`, { mode: 0o444 });
  }
  const journal = join(home, 'journal');
  mkdirSync(journal, { recursive: true });
  // A lone node's kubelet is started by who has not the tools on the PATH.
  return [...(lab.alone === true ? [] : commonBinds(lab)), { from: id, to: '/etc/machine-id' }, { from: journal, to: '/var/log/journal' }];
};

/** Environment by which the suite finds the way into a lab's nodes (test/e2e/framework/ssh). */
export const sshEnvironment = (lab: LabRecord): Record<string, string> => ({
  KUBE_SSH_USER: 'root',
  KUBE_SSH_KEY_PATH: join(labPaths(lab.name).home, 'ssh', 'key.pem'),
});

const sshPublicKey = (lab: LabRecord): string => {
  const { KUBE_SSH_KEY_PATH: file = '' } = sshEnvironment(lab);
  const publicFile = join(dirname(file), 'key.pub.pem');
  if (!existsSync(publicFile)) {
    const { privateKey, publicKey } = generateKeyPairSync('ed25519');
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
    writeFileSync(publicFile, publicKey.export({ type: 'spki', format: 'pem' }));
  }
  return publicFile;
};

/** Starts a node's ssh server, and the way of its agent's log into its journal. */
export const startMachine = async (lab: LabRecord, node: NodeRecord): Promise<void> => {
  const paths = labPaths(lab.name);
  await ensureTools({ journalctl: 'systemd' });
  const tools = await ensureMachineTools();
  const machineId = readFileSync(join(paths.node(node.id).home, 'machine-id'), 'utf8').trim();
  const journal = join('/var/log/journal', machineId);
  mkdirSync(join(paths.node(node.id).home, 'journal', machineId), { recursive: true });
  const log = lab.components[`${node.id}/agent`]?.logFile;
  if (log === undefined) throw new Error(`node ${node.id} has no agent whose log could go to its journal`);
  await startComponent(lab, `${node.id}/machine`, {
    argv: [
      await ensureBinary('machine'),
      `-key=${sshPublicKey(lab)}`,
      `-log=${log}`,
      `-journal=${join(journal, 'system.journal')}`,
      `-journal-remote=${join(tools, 'systemd-journal-remote')}`,
    ],
    place: { node: node.id },
  });
};

/** Puts a credential provider for the private registry into a folder of the node: its configuration, and the program, which wants a pod's token. */
export const writeCredentialProvider = (etc: string, registry: { repository: string; auth: { user: string; password: string } }): void => {
  const image = registry.repository.replace(/\/$/, '');
  const config = {
    apiVersion: 'kubelet.config.k8s.io/v1',
    kind: 'CredentialProviderConfig',
    providers: [
      {
        name: 'lab-registry',
        apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
        matchImages: [image],
        defaultCacheDuration: '0s',
        // Only pods of service accounts with these annotations, which the spec's has: others must go on being refused.
        tokenAttributes: {
          serviceAccountTokenAudience: credentialAudience,
          cacheType: 'ServiceAccount',
          requireServiceAccount: true,
          requiredServiceAccountAnnotationKeys: ['domain.io/identity-id', 'domain.io/identity-type'],
        },
      },
    ],
  };
  const answer = {
    apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
    kind: 'CredentialProviderResponse',
    cacheKeyType: 'Registry',
    cacheDuration: '0s',
    auth: { [image]: { username: registry.auth.user, password: registry.auth.password } },
  };
  const program = join(etc, 'credential-providers', 'lab-registry');
  mkdirSync(dirname(program), { recursive: true });
  writeFileSync(join(etc, 'credential-provider.yaml'), JSON.stringify(config), { mode: 0o600 });
  writeFileSync(
    program,
    [
      '#!/bin/sh',
      'case $(cat) in',
      `*'"serviceAccountToken":"'*) echo '${JSON.stringify(answer)}' ;;`,
      '*) echo "the request has no service account token" >&2; exit 1 ;;',
      'esac',
      '',
    ].join('\n'),
  );
  chmodSync(program, 0o700);
};

/** The flags by which an agent finds it. */
export const credentialProviderFlags = [
  '--image-credential-provider-config=/etc/kubernetes/credential-provider.yaml',
  '--image-credential-provider-bin-dir=/etc/kubernetes/credential-providers',
];

/** Whom the tokens are for that the credential provider gets; nodes need leave to ask for them. */
export const credentialAudience = 'lab-registry';
