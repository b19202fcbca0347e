// `$(NAME)` references in env values, commands, arguments and subPathExpr (k8s.io/kubernetes/third_party/forked/golang/expansion).

/**
 * Replaces each `$(NAME)` by what `lookup` says; `undefined` leaves the reference as it stands. `$$` is a plain `$`, so `$$(NAME)` stays `$(NAME)`;
 * a `$` before anything else, or a reference that is never closed, stays too.
 */
export function expand(text: string, lookup: (name: string) => string | undefined): string {
  let result = '';
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    const next = text[i + 1];
    if (char !== '$' || next === undefined) {
      result += char;
    } else if (next === '$') {
      result += '$';
      i++;
    } else if (next === '(') {
      const end = text.indexOf(')', i + 2);
      if (end < 0) {
        result += '$(';
        i++;
      } else {
        const name = text.slice(i + 2, end);
        result += lookup(name) ?? `$(${name})`;
        i = end;
      }
    } else {
      result += `$${next}`;
      i++;
    }
  }
  return result;
}

/** Expands every element against a container's final environment: its command, or its args. */
export function expandAll(
  texts: readonly string[] | undefined,
  envs: Iterable<{ readonly name: string; readonly value: string }>,
): string[] {
  const values = new Map([...envs].map((env) => [env.name, env.value]));
  return (texts ?? []).map((text) => expand(text, (name) => values.get(name)));
}

/** Expands a subPathExpr; every name must have a value, and those that have none are told. */
export function expandSubPath(
  expression: string,
  envs: Iterable<{ readonly name: string; readonly value: string }>,
): { readonly path: string; readonly missing: readonly string[] } {
  const values = new Map([...envs].map((env) => [env.name, env.value]));
  const missing: string[] = [];
  const path = expand(expression, (name) => {
    const value = values.get(name) ?? '';
    if (value === '') missing.push(name);
    return value;
  });
  return { path, missing };
}
