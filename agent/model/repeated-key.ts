/** A key that stands more than once in a mapping. The last one counts. */
export interface RepeatedKey {
  readonly key: string;
  /** Where the mapping is, such as `spec.containers[0]`; empty for the document itself. */
  readonly at: string;
  /** Of the last one, counted from 1. */
  readonly line: number;
}

/** A repeated key in words, for warnings and errors. */
export function describeRepeated({ key, at, line }: RepeatedKey): string {
  return `line ${line}: the key ${JSON.stringify(key)} stands more than once in ${at === '' ? 'the document' : at}`;
}
