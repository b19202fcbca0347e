/** `net/ipv4/tcp_rmem` as `net.ipv4.tcp_rmem`: where a slash comes first, dots are part of names and slashes part them. */
export function sysctlName(name: string): string {
  const separator = /[./]/.exec(name)?.[0];
  if (separator !== '/') return name;
  return [...name].map((c) => (c === '/' ? '.' : c === '.' ? '/' : c)).join('');
}
