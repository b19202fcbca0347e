import { countProcessSize, longestArgumentBytes, tooLong } from './env-limits.ts';

// `$(NAME)` references in env values, commands, arguments and subPathExpr (k8s.io/kubernetes/third_party/forked/golang/expansion).

/**
 * Replaces each `$(NAME)` by what `lookup` says; `undefined` leaves the reference as it stands. `$$` is a plain `$`, so `$$(NAME)` stays `$(NAME)`;
 * a `$` before anything else, or a reference that is never closed, stays too. Throws AgentError CreateContainerConfigError, which names `what`, as soon as the
 * result is longer than `mostBytes`.
 */
export function expand(
  text: string,
  lookup: (name: string) => string | undefined,
  mostBytes = longestArgumentBytes,
  what = 'an argument of the command',
): string {
  let result = '';
  let replacedBytes = 0;
  const lastClose = text.lastIndexOf(')');
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    const next = text[i + 1];
    if (char !== '$' || next === undefined) {
      result += char;
    } else if (next === '$') {
      result += '$';
      i++;
    } else if (next === '(') {
      // Without another `)` nothing is closed any more: looking for it at each `$(` would take minutes for a long text.
      const end = i + 2 > lastClose ? -1 : text.indexOf(')', i + 2);
      if (end < 0) {
        result += '$(';
        i++;
      } else {
        const name = text.slice(i + 2, end);
        const value = lookup(name);
        replacedBytes += value === undefined ? 0 : Buffer.byteLength(value);
        if (replacedBytes > mostBytes) throw tooLong(what);
        result += value ?? `$(${name})`;
        i = end;
      }
    } else {
      result += `$${next}`;
      i++;
    }
  }
  if (Buffer.byteLength(result) > mostBytes) throw tooLong(what);
  return result;
}

/** Expands every element against a container's final environment: its command, or its args. Throws AgentError CreateContainerConfigError for too long ones. */
export function expandAll(
  texts: readonly string[] | undefined,
  envs: Iterable<{ readonly name: string; readonly value: string }>,
): string[] {
  const values = new Map([...envs].map((env) => [env.name, env.value]));
  const size = countProcessSize();
  return (texts ?? []).map((text) => {
    const argument = expand(text, (name) => values.get(name));
    size.addArgument(argument);
    return argument;
  });
}

/** Expands a subPathExpr; every name must have a value, and those that have none are told. */
export function expandSubPath(
  expression: string,
  envs: Iterable<{ readonly name: string; readonly value: string }>,
): { readonly path: string; readonly missing: readonly string[] } {
  const values = new Map([...envs].map((env) => [env.name, env.value]));
  const missing: string[] = [];
  const lookup = (name: string): string => {
    const value = values.get(name) ?? '';
    if (value === '') missing.push(name);
    return value;
  };
  const path = expand(expression, lookup, longestArgumentBytes, 'a subPathExpr');
  return { path, missing };
}

/** Each `$(NAME)` in the text, and where it is. No regular expression: one takes minutes for a long text of `$(` that are never closed. */
function* referencesIn(text: string): Generator<{ readonly name: string; readonly start: number; readonly end: number }> {
  for (let from = 0; ; ) {
    const start = text.indexOf('$(', from);
    const close = start < 0 ? -1 : text.indexOf(')', start + 2);
    if (close < 0) return;
    from = close + 1;
    yield { name: text.slice(start + 2, close), start, end: from };
  }
}

/** The names that `$(NAME)` in these texts may stand for. */
export function referredNames(texts: readonly string[]): Set<string> {
  return new Set(texts.flatMap((text) => [...referencesIn(text)].map(({ name }) => name)));
}

/**
 * Expands a lifecycle hook's command, which kubelet runs as it is written. So only the references to variables that there are may change:
 * `$(NAME)` becomes the value, `$$(NAME)` a plain `$(NAME)`. `$$` and `$(date)` are a shell's, and stay. Throws AgentError CreateContainerConfigError for
 * what becomes longer than the kernel takes.
 */
export function expandHookCommand(command: readonly string[], values: ReadonlyMap<string, string>): string[] {
  const size = countProcessSize();
  return command.map((text) => {
    const argument = expandKnown(text, values);
    size.addArgument(argument);
    return argument;
  });
}

function expandKnown(text: string, values: ReadonlyMap<string, string>): string {
  let result = '';
  let done = 0;
  let replacedBytes = 0;
  for (const { name, start, end } of referencesIn(text)) {
    const value = values.get(name);
    if (value === undefined) continue;
    if (start > done && text[start - 1] === '$') result += text.slice(done, start - 1) + text.slice(start, end);
    else {
      replacedBytes += Buffer.byteLength(value);
      if (replacedBytes > longestArgumentBytes) throw tooLong('an argument of the command');
      result += text.slice(done, start) + value;
    }
    done = end;
  }
  return result + text.slice(done);
}

/**
 * The environment that a container was made with, from what a runtime tells of it when asked for everything: containerd keeps the request.
 * Undefined when the runtime does not tell.
 */
export function madeEnvironment(info: string | undefined): Map<string, string> | undefined {
  if (info === undefined) return undefined;
  let told: unknown;
  try {
    told = JSON.parse(info);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
  const envs = (told as { config?: { envs?: unknown } | null } | null)?.config?.envs;
  if (!Array.isArray(envs)) return undefined;
  const values = new Map<string, string>();
  for (const each of envs as ({ key?: unknown; value?: unknown } | null)[]) {
    if (typeof each?.key === 'string') values.set(each.key, typeof each.value === 'string' ? each.value : '');
  }
  return values;
}
