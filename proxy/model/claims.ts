import type { Frontend } from './frontend.ts';

/** The Service that asks for frontends, with what its place in the order depends on. */
export interface Claimant {
  /** `namespace/name`. */
  readonly key: string;
  /** Milliseconds since the epoch. */
  readonly createdMs: number;
  readonly uid: string;
}

/** A frontend that a Service asks for and another one has. */
export interface Conflict {
  readonly frontend: Frontend;
  /** `namespace/name` of the Service that has it. */
  readonly owner: string;
}

/**
 * Who owns each frontend. Several Services may ask for one address and port: then a cluster IP
 * comes first, else the older Service, by creationTimestamp and then UID. The next in line takes
 * over when the owner goes. (Upstream programs whichever a Go map hands out last.)
 */
export interface Claims {
  /**
   * Makes the frontends of a Service exactly these; none when it is gone. Returns the keys of all
   * frontends it had or has: their owner, or what the owner wants, may have changed.
   */
  set(claimant: Claimant, frontends: readonly Frontend[]): Set<string>;
  /** What the owner wants of this frontend; undefined when nobody asks for it. */
  owner(key: string): Frontend | undefined;
  /** Those who wait behind the owner of this frontend. */
  waiting(key: string): readonly Conflict[];
  /** The frontends that a Service asks for, owned or not. */
  of(service: string): readonly Frontend[];
  /** The keys of all frontends that somebody owns. */
  keys(): IterableIterator<string>;
  readonly size: number;
}

interface Claim {
  readonly claimant: Claimant;
  readonly frontend: Frontend;
}

export function createClaims(): Claims {
  // Ordered: the owner first. Nearly all of them have one row.
  const claims = new Map<string, Claim[]>();
  const byService = new Map<string, readonly Frontend[]>();

  function remove(service: string, key: string): void {
    const rest = claims.get(key)?.filter(({ claimant }) => claimant.key !== service) ?? [];
    if (rest.length === 0) claims.delete(key);
    else claims.set(key, rest);
  }

  function set(claimant: Claimant, frontends: readonly Frontend[]): Set<string> {
    const touched = new Set<string>();
    for (const { key } of byService.get(claimant.key) ?? []) {
      remove(claimant.key, key);
      touched.add(key);
    }
    if (frontends.length === 0) byService.delete(claimant.key);
    else byService.set(claimant.key, frontends);
    for (const frontend of frontends) {
      const claim = { claimant, frontend };
      const others = claims.get(frontend.key);
      if (others === undefined) claims.set(frontend.key, [claim]);
      else claims.set(frontend.key, [...others, claim].sort(compareClaims));
      touched.add(frontend.key);
    }
    return touched;
  }

  return {
    set,
    owner: (key) => claims.get(key)?.[0]?.frontend,
    waiting(key) {
      const [owner, ...rest] = claims.get(key) ?? [];
      return owner === undefined ? [] : rest.map(({ frontend }) => ({ frontend, owner: owner.claimant.key }));
    },
    of: (service) => byService.get(service) ?? [],
    keys: () => claims.keys(),
    get size() {
      return claims.size;
    },
  };
}

function compareClaims(a: Claim, b: Claim): number {
  return (
    Number(b.frontend.kind === 'clusterIP') - Number(a.frontend.kind === 'clusterIP') ||
    a.claimant.createdMs - b.claimant.createdMs ||
    compareText(a.claimant.uid, b.claimant.uid) ||
    compareText(a.claimant.key, b.claimant.key)
  );
}

const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
