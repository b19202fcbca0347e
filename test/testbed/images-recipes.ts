// Which images the suite asks for and what is in them. Names and versions: kubernetes v1.36.1, test/utils/image/manifest.go; entrypoints, users and
// ports: test/images/*/Dockerfile there; contents: our own, of Debian packages, small C programs and binaries of the Go modules.
import type { ImageConfig } from './images-archive.ts';

export type LayerName =
  | 'pause'
  | 'busybox'
  | 'effective-uid'
  | 'debian'
  | 'agnhost'
  | 'coredns'
  | 'kitten'
  | 'nautilus'
  | 'nginx'
  | 'regression-issue-74839';

export type ImageRecipe = { layers: readonly LayerName[]; config: ImageConfig };

const e2e = 'registry.k8s.io/e2e-test-images';

const agnhost: ImageRecipe = {
  layers: ['debian', 'coredns', 'agnhost'],
  config: {
    Entrypoint: ['/agnhost'],
    Cmd: ['pause'],
    ExposedPorts: ['80/tcp', '8080/tcp', '8081/tcp', '9376/tcp', '5000/tcp'],
    WorkingDir: '/',
  },
};

const pause: ImageRecipe = { layers: ['pause'], config: { Entrypoint: ['/pause'], User: '65535:65535', WorkingDir: '/' } };

const nginx: ImageRecipe = {
  layers: ['debian', 'nginx'],
  config: { Entrypoint: ['/docker-entrypoint.sh'], Cmd: ['nginx', '-g', 'daemon off;'], ExposedPorts: ['80/tcp'], StopSignal: 'SIGQUIT' },
};

const webserver = (picture: 'kitten' | 'nautilus'): ImageRecipe => ({
  layers: [...agnhost.layers, picture],
  config: { ...agnhost.config, Cmd: ['test-webserver'] },
});

const shell: ImageConfig = { Cmd: ['sh'] };

/**
 * Images of one archive share layers, and each layer is imported once. `private` images are not for importing: a registry serves them to those who
 * have the password.
 */
export const imageGroups = {
  small: {
    // The manifest's, kubeadm's of some releases back, and containerd's own defaults.
    'registry.k8s.io/pause:3.10.2': pause,
    'registry.k8s.io/pause:3.10.1': pause,
    'registry.k8s.io/pause:3.10': pause,
    [`${e2e}/busybox:1.37.0-1`]: { layers: ['busybox'], config: shell },
    [`${e2e}/nonroot:1.5`]: { layers: ['busybox'], config: { ...shell, User: '1234' } },
    [`${e2e}/nonewprivs:1.4`]: { layers: ['busybox', 'effective-uid'], config: { Cmd: ['nnp'] } },
  },
  debian: {
    [`${e2e}/agnhost:2.63.0`]: agnhost,
    [`${e2e}/agnhost:2.55`]: agnhost,
    [`${e2e}/kitten:1.8`]: webserver('kitten'),
    [`${e2e}/nautilus:1.8`]: webserver('nautilus'),
    [`${e2e}/glibc-dns-testing:2.0.0`]: { layers: ['debian', 'coredns'], config: { Cmd: ['bash'] } },
    [`${e2e}/ipc-utils:1.4`]: { layers: ['debian'], config: { Cmd: ['/bin/sh'] } },
    [`${e2e}/nginx:1.15-4`]: nginx,
    [`${e2e}/nginx:1.27-0`]: nginx,
    [`${e2e}/perl:5.26`]: { layers: ['debian'], config: { Cmd: ['perl', '-de0'] } },
    [`${e2e}/regression-issue-74839:1.4`]: { layers: ['regression-issue-74839'], config: { Entrypoint: ['/regression-issue-74839'] } },
    'registry.k8s.io/build-image/distroless-iptables:v0.9.1': { layers: ['debian'], config: {} },
  },
  private: {
    'gcr.io/k8s-authenticated-test/agnhost:2.6': agnhost,
  },
} as const satisfies Record<string, Record<string, ImageRecipe>>;

export type ImageGroup = keyof typeof imageGroups;

/** The sandbox image nodes are configured with. */
export const pauseImage = 'registry.k8s.io/pause:3.10.2';
