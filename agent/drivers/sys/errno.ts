import { AgentError } from '../../base/errors.ts';
import { ownValue } from '../../base/own.ts';

// errno name → the code that callers branch on. One place translates, so that no room knows errno.
const codes: Record<string, string> = {
  ENOENT: 'NotFound',
  ESRCH: 'NotFound',
  EEXIST: 'AlreadyExists',
  EBUSY: 'Busy',
  EACCES: 'PermissionDenied',
  EPERM: 'PermissionDenied',
  EROFS: 'ReadOnly',
  EINVAL: 'InvalidArgument',
  ENOTDIR: 'NotADirectory',
  EISDIR: 'IsADirectory',
  ENOTEMPTY: 'NotEmpty',
  ELOOP: 'UnexpectedSymlink',
  ENOSPC: 'NoSpace',
  EDQUOT: 'NoSpace',
  ENODEV: 'NotSupported',
  ENOSYS: 'NotSupported',
  EOPNOTSUPP: 'NotSupported',
  ESTALE: 'StaleHandle',
  ENXIO: 'StaleHandle',
  EIO: 'StaleHandle',
  EMFILE: 'TooManyFiles',
  ENFILE: 'TooManyFiles',
};

/** The AgentError code for an errno name such as `ENOENT`; a name not in the table is its own code. */
export function codeOfErrno(name: string): string {
  return ownValue(codes, name) ?? name;
}

/** Translates what node:fs throws; `what` says the deed and the object: `cannot create directory /x`. Anything else is passed through. */
export function fromFsError(error: unknown, what: string): unknown {
  if (error instanceof AgentError || !(error instanceof Error)) return error;
  const name = (error as NodeJS.ErrnoException).code;
  return typeof name === 'string' ? new AgentError(codeOfErrno(name), `${what}: ${error.message}`, { cause: error }) : error;
}

/** True when node:fs (or a translation of it) says one of these errno names. */
export function isErrno(error: unknown, ...names: string[]): boolean {
  if (error instanceof AgentError) return names.some((name) => codeOfErrno(name) === error.code);
  return error instanceof Error && names.includes((error as NodeJS.ErrnoException).code ?? '');
}
