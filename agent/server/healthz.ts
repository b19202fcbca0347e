/** One thing that must work for the node to be healthy; the error's text is shown to nobody but the log. */
export interface HealthCheck {
  readonly name: string;
  check(): Error | undefined;
}

export interface HealthAnswer {
  readonly status: number;
  readonly body: string;
  /** What failed, for the log. */
  readonly failed: readonly { readonly name: string; readonly error: Error }[];
}

/** Answers `/healthz` (`name` undefined) or `/healthz/<name>` in upstream's words (apiserver, pkg/server/healthz). Undefined: there is no such check. */
export function answerHealthz(checks: readonly HealthCheck[], name: string | undefined, query: URLSearchParams): HealthAnswer | undefined {
  if (name !== undefined) {
    const found = checks.find((c) => c.name === name);
    if (found === undefined) return undefined;
    const error = found.check();
    if (error === undefined) return { status: 200, body: 'ok', failed: [] };
    return { status: 500, body: `internal server error: ${error.message}\n`, failed: [{ name, error }] };
  }
  const excluded = new Set(query.getAll('exclude'));
  const unknown = new Set(excluded);
  const failed: { name: string; error: Error }[] = [];
  let lines = '';
  for (const one of checks) {
    const checkName = one.name;
    if (excluded.has(checkName)) {
      unknown.delete(checkName);
      lines += `[+]${checkName} excluded: ok\n`;
      continue;
    }
    const error = one.check();
    if (error === undefined) lines += `[+]${checkName} ok\n`;
    else {
      lines += `[-]${checkName} failed: reason withheld\n`;
      failed.push({ name: checkName, error });
    }
  }
  if (unknown.size > 0) {
    const names = [...unknown].sort().map((n) => `"${n}"`);
    lines += `warn: some health checks cannot be excluded: no matches for ${names.join(',')}\n`;
  }
  if (failed.length > 0) return { status: 500, body: `${lines}healthz check failed\n`, failed };
  return { status: 200, body: query.has('verbose') ? `${lines}healthz check passed\n` : 'ok', failed: [] };
}
