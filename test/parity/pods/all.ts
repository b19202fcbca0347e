// The pods of the comparison.
import type { Case } from '../case.ts';
import { ends, refusals, resizes, statics } from './ends.ts';
import { env } from './env.ts';
import { images } from './images.ts';
import { network } from './network.ts';
import { hooks, probes } from './probes.ts';
import { restarts } from './restarts.ts';
import { security } from './security.ts';
import { volumes } from './volumes.ts';

export const cases: readonly Case[] = [
  ...restarts,
  ...images,
  ...probes,
  ...hooks,
  ...env,
  ...volumes,
  ...security,
  ...network,
  ...refusals,
  ...ends,
  ...resizes,
  ...statics,
];
