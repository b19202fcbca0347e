// The image of the lab's cluster DNS, under the name that kubeadm's Deployment asks for.
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { coreDnsVersion, ensureBinary } from './binaries.ts';
import { makeImage } from './images.ts';
import { cacheRoot, withLock } from './images-debian.ts';
import { ensureLayer } from './images-layers.ts';

/** Path of a tar that holds the image, made when the cache has none of this version. */
export const ensureCoreDnsImage = async (): Promise<string> => {
  const binary = await ensureBinary('coredns');
  const file = join(cacheRoot(), 'lab', 'images', `${basename(dirname(binary))}.tar`);
  const made = (): boolean => existsSync(file) && existsSync(`${file}.json`);
  if (!made())
    await withLock(`${file}.lock`, async () => {
      if (made()) return;
      // Root, with the one capability kubeadm's Deployment leaves it: upstream's image has that as a file capability, which a tar made here does not carry.
      await makeImage(
        {
          names: [`registry.k8s.io/coredns/coredns:v${coreDnsVersion}`],
          base: [await ensureLayer('coredns')],
          config: { Entrypoint: ['/coredns'], WorkingDir: '/' },
        },
        file,
      );
    });
  return file;
};
