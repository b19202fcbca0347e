// gRPC's status codes by number, spelt as Go's `codes` spells them: those words reach events and statuses.
const codeNames = [
  'OK',
  'Canceled',
  'Unknown',
  'InvalidArgument',
  'DeadlineExceeded',
  'NotFound',
  'AlreadyExists',
  'PermissionDenied',
  'ResourceExhausted',
  'FailedPrecondition',
  'Aborted',
  'OutOfRange',
  'Unimplemented',
  'Internal',
  'Unavailable',
  'DataLoss',
  'Unauthenticated',
] as const;

/** The name of a status code; one that gRPC does not have is Unknown, as in Go. */
export function grpcCodeName(code: number): string {
  return codeNames[code] ?? 'Unknown';
}

/** What Go's gRPC prints of a status, and so what kubelet's users read and search for. */
export function grpcStatusText(code: string, details: string): string {
  return `rpc error: code = ${code} desc = ${details}`;
}
