/** A pod that has left something on the node; namespace and name are empty where what is left does not tell them. */
export interface Leftover {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
}

/** Every pod that has a folder (or a note of the agent's own), a cgroup or a log folder on the node. */
export function leftovers(podFolders: readonly string[], podCgroups: readonly string[], logFolders: readonly string[]): Leftover[] {
  const found = new Map<string, Leftover>();
  for (const uid of [...podFolders, ...podCgroups]) found.set(uid, { uid, namespace: '', name: '' });
  for (const folder of logFolders) {
    // `<namespace>_<name>_<uid>`: neither of the three holds an underscore.
    const [namespace, name, uid, ...more] = folder.split('_');
    if (namespace && name && uid && more.length === 0) found.set(uid, { uid, namespace, name });
  }
  return [...found.values()];
}
