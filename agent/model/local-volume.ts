import type { Volume } from './generated/api.ts';

/** Whether what lies in a volume counts as the pod's ephemeral storage (pkg/volume/util IsLocalEphemeralVolume). */
export function isLocalEphemeral(volume: Pick<Volume, 'emptyDir' | 'configMap' | 'gitRepo'>): boolean {
  return volume.gitRepo !== undefined || volume.configMap !== undefined || (volume.emptyDir !== undefined && !volume.emptyDir.medium);
}
