// Labels, ConfigMap keys, environment variables, containers, images: names that others choose may be `constructor` or `__proto__`. A plain object finds the first
// in its prototype, and takes the second for it. So whoever reads or writes an object by such a name does it here; test/architecture.test.ts sees to that.

/** The entry of this name that the object itself has; undefined where there is none, or no object. */
export function ownValue<T>(map: Readonly<Record<string, T>> | null | undefined, key: string): T | undefined {
  return map !== undefined && map !== null && Object.hasOwn(map, key) ? map[key] : undefined;
}

/** Sets the entry, whatever its name: `map['__proto__'] = value` would not. */
export function setOwn<T>(map: Record<string, T>, key: string, value: T): void {
  Object.defineProperty(map, key, { value, writable: true, enumerable: true, configurable: true });
}
