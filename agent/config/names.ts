// Kubernetes' rules for names (k8s.io/apimachinery/pkg/util/validation). Each check gives the problems found, none when the text is fine.

const namePart = /^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$/;
const dns1123Subdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const partRule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/** Label keys, taint keys, resource names: `name` or `dns.prefix/name`. */
export function checkQualifiedName(text: string): string[] {
  const parts = text.split('/');
  if (parts.length > 2) return [`a qualified name ${partRule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`];
  const problems: string[] = [];
  const name = parts[parts.length - 1] ?? '';
  if (parts.length === 2) {
    const prefix = parts[0] ?? '';
    if (prefix === '') problems.push('prefix part must be non-empty');
    else problems.push(...checkDns1123Subdomain(prefix).map((p) => `prefix part ${p}`));
  }
  if (name === '') problems.push('name part must be non-empty');
  else if (name.length > 63) problems.push('name part must be no more than 63 characters');
  if (!namePart.test(name)) problems.push(`name part ${partRule} (e.g. 'MyName', 'my.name' or '123-abc')`);
  return problems;
}

/** Values of labels and taints. */
export function checkLabelValue(text: string): string[] {
  const problems: string[] = [];
  if (text.length > 63) problems.push('must be no more than 63 characters');
  if (text !== '' && !namePart.test(text))
    problems.push(`a valid label must be an empty string or ${partRule.replace('must consist', 'consist')}`);
  return problems;
}

/** Node names and other object names. */
export function checkDns1123Subdomain(text: string): string[] {
  const problems: string[] = [];
  if (text.length > 253) problems.push('must be no more than 253 characters');
  if (!dns1123Subdomain.test(text))
    problems.push(
      "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com')",
    );
  return problems;
}
