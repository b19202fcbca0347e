/** What readers of a table hold. Keys are strings (a pod UID, `namespace/name`, an image reference); values are frozen. */
export interface ReadonlyTable<T> {
  readonly name: string;
  readonly size: number;
  /** False until the source has delivered its first complete state: until then absence is unknown, not news. */
  readonly synced: boolean;
  get(key: string): T | undefined;
  has(key: string): boolean;
  keys(): IterableIterator<string>;
  values(): IterableIterator<T>;
  entries(): IterableIterator<[string, T]>;
  /** Calls `listener` with each key that is set, changed or deleted from now on. Listeners must be quick and must not throw. */
  subscribe(listener: (key: string) => void): Disposable;
  /** Calls `listener` once the table is synced: at once if it already is. */
  onSynced(listener: () => void): Disposable;
}

/** A keyed table with one writer. It holds state and tells which keys changed; it decides nothing. */
export class Table<T> implements ReadonlyTable<T> {
  readonly name: string;
  #rows = new Map<string, T>();
  #listeners = new Set<(key: string) => void>();
  #syncedListeners = new Set<() => void>();
  #synced = false;

  constructor(name: string) {
    this.name = name;
  }

  get size(): number {
    return this.#rows.size;
  }

  get synced(): boolean {
    return this.#synced;
  }

  get(key: string): T | undefined {
    return this.#rows.get(key);
  }

  has(key: string): boolean {
    return this.#rows.has(key);
  }

  keys(): IterableIterator<string> {
    return this.#rows.keys();
  }

  values(): IterableIterator<T> {
    return this.#rows.values();
  }

  entries(): IterableIterator<[string, T]> {
    return this.#rows.entries();
  }

  /** Sets a row and tells subscribers, unless the very same value is there already. */
  set(key: string, value: T): void {
    if (this.#rows.get(key) === value && this.#rows.has(key)) return;
    this.#rows.set(key, Object.freeze(value));
    this.#tell(key);
  }

  /** Removes a row; absence is success. */
  delete(key: string): void {
    if (this.#rows.delete(key)) this.#tell(key);
  }

  /** Makes the rows exactly these; `same` (default: identity) says which rows did not change and need not be told. */
  replace(rows: Iterable<[string, T]>, same: (a: T, b: T) => boolean = Object.is): void {
    const next = new Map(rows);
    for (const key of [...this.#rows.keys()]) if (!next.has(key)) this.delete(key);
    for (const [key, value] of next) {
      const old = this.#rows.get(key);
      if (old === undefined || !same(old, value)) this.set(key, value);
    }
  }

  /** Says that the first complete state has been delivered. Safe to call again. */
  markSynced(): void {
    if (this.#synced) return;
    this.#synced = true;
    for (const listener of [...this.#syncedListeners]) listener();
    this.#syncedListeners.clear();
  }

  subscribe(listener: (key: string) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  onSynced(listener: () => void): Disposable {
    if (this.#synced) listener();
    else this.#syncedListeners.add(listener);
    return { [Symbol.dispose]: () => void this.#syncedListeners.delete(listener) };
  }

  #tell(key: string): void {
    for (const listener of this.#listeners) listener(key);
  }
}
