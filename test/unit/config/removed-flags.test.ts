import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { loadConfig } from '../../../agent/config/config.ts';
import { removedFlags } from '../../../agent/config/removed-flags.ts';

const noFiles = { readFile: () => Promise.reject(new Error('no files')), listFiles: async () => [] };
const warningsOf = async (argv: string[]): Promise<readonly string[]> => (await loadConfig(argv, noFiles)).warnings;

describe('flags of older kubelets', () => {
  // Command lines as they were written: by kubeadm, by distributions and in the documentation of their day.
  const cases: Record<string, { argv: string[]; warnings: RegExp[] }> = {
    'kubeadm 1.34': {
      argv: ['--pod-infra-container-image=registry.k8s.io/pause:3.10.1', '--hostname-override=n1'],
      warnings: [/^flag --pod-infra-container-image has no effect: Kubernetes 1\.35 removed it, so delete it; .*kubeadm-flags\.env$/],
    },
    'kubeadm 1.23': {
      argv: ['--container-runtime=remote', '--container-runtime-endpoint=/run/containerd/containerd.sock', '--network-plugin=cni'],
      warnings: [/^flag --container-runtime has no effect: Kubernetes 1\.27 removed it/, /^flag --network-plugin .* Kubernetes 1\.24/],
    },
    'a value as a word of its own': {
      argv: [
        '--cni-bin-dir',
        '/opt/cni/bin',
        '--cni-conf-dir',
        '/etc/cni/net.d',
        '--image-pull-progress-deadline',
        '2m',
        '--max-pods',
        '5',
      ],
      warnings: [/--cni-bin-dir/, /--cni-conf-dir/, /--image-pull-progress-deadline/],
    },
    'switches take no word': {
      argv: ['--logtostderr', '--register-schedulable=false', '--keep-terminated-pod-volumes', '--v=2'],
      warnings: [/--logtostderr/, /--register-schedulable .*--register-with-taints=/, /--keep-terminated-pod-volumes/],
    },
    'underscores, as an old unit may have them': { argv: ['--log_dir=/var/log'], warnings: [/^flag --log-dir has no effect/] },
    'a name that kube-proxy has too': { argv: ['--iptables-masquerade-bit=14'], warnings: [/--iptables-masquerade-bit .* 1\.31/] },
  };
  for (const [name, { argv, warnings }] of Object.entries(cases))
    test(name, async () => {
      const found = await warningsOf(argv);
      assert.equal(found.length, warnings.length, found.join('\n'));
      for (const [i, pattern] of warnings.entries()) assert.match(found[i] ?? '', pattern);
    });

  test('each is taken, warned of and named once', async () => {
    const argv = removedFlags.map(({ name, kind }) => `--${name}${kind === 'bool' ? '' : '=x'}`);
    const found = await warningsOf(argv);
    assert.equal(found.length, removedFlags.length);
    assert.equal(new Set(removedFlags.map(({ name }) => name)).size, removedFlags.length);
    for (const [i, { name }] of removedFlags.entries())
      assert.match(found[i] ?? '', new RegExp(`^flag --${name} has no effect: Kubernetes 1\\.\\d\\d removed it, so delete it; .`));
  });

  test('what never was a flag is still an error', async () => {
    await assert.rejects(warningsOf(['--network-plugins=cni']), { code: 'InvalidFlag' });
  });
});
