import type { Image } from '../../cri-protos/generated/cri.ts';
import { parseImageName, withDefaultTag } from '../model/image-name.ts';

/** What is remembered of an image. Times are `mono`, ms. */
export interface ImageRecord {
  readonly id: string;
  readonly firstSeen: number;
  /** When it was last seen in use; undefined: never since the agent started. */
  readonly lastUsed: number | undefined;
  readonly sizeBytes: number;
  readonly pinned: boolean;
  readonly inUse: boolean;
}

export interface GcPolicy {
  /** Above this share of the file system of images, in percent, images go until the low one is reached. */
  readonly highPercent: number;
  readonly lowPercent: number;
  /** Younger ones stay: a pod is perhaps about to use them. */
  readonly minAgeMs: number;
  /** Not used for longer they go, however much room there is; 0: never for that. */
  readonly maxAgeMs: number;
}

/** Who uses images, by the runtime's IDs and digests, and by the names that specs have. */
export interface ImageUsers {
  readonly ids: ReadonlySet<string>;
  readonly names: ReadonlySet<string>;
}

/** What is known of the images now, given what was known and what the runtime lists. */
export function noteImages(
  before: ReadonlyMap<string, ImageRecord>,
  images: readonly Image[],
  users: ImageUsers,
  now: number,
): Map<string, ImageRecord> {
  const names = new Set([...users.names].flatMap((name) => fullName(name) ?? []));
  const records = new Map<string, ImageRecord>();
  for (const image of images) {
    const id = image.id ?? '';
    if (id === '') continue;
    const old = before.get(id);
    const known = [id, ...(image.repo_digests ?? [])];
    const inUse =
      known.some((one) => users.ids.has(one)) ||
      [...(image.repo_tags ?? []), ...(image.repo_digests ?? [])].some((name) => names.has(name));
    records.set(id, {
      id,
      firstSeen: old?.firstSeen ?? now,
      lastUsed: inUse ? now : old?.lastUsed,
      sizeBytes: image.size ?? 0,
      pinned: image.pinned === true,
      inUse,
    });
  }
  return records;
}

/** `busybox` → `docker.io/library/busybox:latest`, as runtimes list it; undefined when it is no image's name. */
export function fullName(image: string): string | undefined {
  try {
    const { repository, tag, digest } = parseImageName(withDefaultTag(image));
    return digest !== undefined ? `${repository}@${digest}` : `${repository}:${tag}`;
  } catch {
    // A pod with such a name never starts, and uses nothing.
    return undefined;
  }
}

/** Those that may go, the longest unused first, then the oldest. */
function removable(records: ReadonlyMap<string, ImageRecord>): ImageRecord[] {
  return [...records.values()]
    .filter((image) => !image.inUse && !image.pinned)
    .sort((a, b) => (a.lastUsed ?? -1) - (b.lastUsed ?? -1) || a.firstSeen - b.firstSeen);
}

/** Those that nobody has used for too long. Nothing goes for its age before the agent has watched for that long. */
export function tooOld(records: ReadonlyMap<string, ImageRecord>, policy: GcPolicy, startedAt: number, now: number): ImageRecord[] {
  if (policy.maxAgeMs <= 0 || now - startedAt <= policy.maxAgeMs) return [];
  return removable(records).filter((image) => now - (image.lastUsed ?? image.firstSeen) > policy.maxAgeMs);
}

/** Those to remove one after another until enough is free: unused, not pinned and not too young. */
export function forSpace(records: ReadonlyMap<string, ImageRecord>, policy: GcPolicy, now: number): ImageRecord[] {
  return removable(records).filter((image) => now - image.firstSeen >= policy.minAgeMs);
}

export interface DiskState {
  readonly capacityBytes: number;
  readonly availableBytes: number;
}

/** How full the disk is, in percent, and how many bytes to free; undefined while it is not too full. */
export function bytesToFree(
  { capacityBytes, availableBytes }: DiskState,
  policy: GcPolicy,
): { percent: number; bytes: number } | undefined {
  const available = Math.min(availableBytes, capacityBytes);
  const percent = 100 - Math.trunc((available * 100) / capacityBytes);
  if (percent < policy.highPercent) return undefined;
  return { percent, bytes: Math.trunc((capacityBytes * (100 - policy.lowPercent)) / 100) - available };
}

/** What a person is told when that did not suffice, in kubelet's words. */
export function insufficientText(percent: number, capacityBytes: number, freedBytes: number): string {
  return (
    `Insufficient free disk space on the node's image filesystem (${percent}% of ${sizeText(capacityBytes)} used). ` +
    `Failed to free sufficient space by deleting unused images (freed ${freedBytes} bytes). ` +
    'Investigate disk usage, as it could be used by active images, logs, volumes, or other data.'
  );
}

function sizeText(bytes: number): string {
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  if (bytes < 1024) return `${bytes} B`;
  let size = bytes / 1024;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${size.toFixed(1)} ${units[unit]}`;
}
