import { AgentError } from '../base/errors.ts';

// A pod's UID names folders and cgroups, which are removed with all that is in them when the pod ends. The API server gives UUIDs, this agent and kubelet
// hashes; but a manifest may say its own, and a sandbox of somebody else's may be labelled with anything.

/**
 * True for a UID that a manifest may give. No underscore: cgroups of systemd have one for each dash, and folders of logs have one between namespace, name and
 * UID, so that such a UID would not be found again.
 */
export function isPodUid(uid: string): boolean {
  return /^[A-Za-z0-9]([A-Za-z0-9.-]{0,126}[A-Za-z0-9])?$/.test(uid);
}

/** The UID, as the name of a folder. Throws AgentError InvalidArgument for one that would lead elsewhere: `..`, `a/b`. */
export function uidAsName(uid: string): string {
  if (uid === '' || uid === '.' || uid === '..' || /[/\0]/.test(uid))
    throw new AgentError('InvalidArgument', `${JSON.stringify(uid)} is no UID of a pod`);
  return uid;
}
