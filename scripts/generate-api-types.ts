// Writes agent/model/generated/api.ts: the Kubernetes API types this agent uses, taken from the OpenAPI document of the Kubernetes it is built against.
// Usage: node scripts/generate-api-types.ts [swagger.json]. Without an argument the document comes from the Go module k8s.io/kubernetes (downloaded if absent).
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const kubernetesVersion = 'v1.36.1';
// Types the agent names; everything they refer to comes along.
const roots = [
  'io.k8s.api.core.v1.Pod',
  'io.k8s.api.core.v1.PodList',
  'io.k8s.api.core.v1.PodTemplate',
  'io.k8s.api.core.v1.Node',
  'io.k8s.api.core.v1.Service',
  'io.k8s.api.core.v1.ConfigMap',
  'io.k8s.api.core.v1.Secret',
  'io.k8s.api.core.v1.Namespace',
  'io.k8s.api.core.v1.Event',
  'io.k8s.api.core.v1.ServiceAccount',
  'io.k8s.api.core.v1.PersistentVolume',
  'io.k8s.api.core.v1.PersistentVolumeClaim',
  'io.k8s.api.authentication.v1.TokenRequest',
  'io.k8s.api.authentication.v1.TokenReview',
  'io.k8s.api.authorization.v1.SubjectAccessReview',
  'io.k8s.api.certificates.v1.CertificateSigningRequest',
  'io.k8s.api.certificates.v1beta1.ClusterTrustBundle',
  'io.k8s.api.coordination.v1.Lease',
  'io.k8s.api.discovery.v1.EndpointSlice',
  'io.k8s.api.networking.v1.ServiceCIDR',
  'io.k8s.api.node.v1.RuntimeClass',
  'io.k8s.api.storage.v1.CSINode',
  'io.k8s.api.storage.v1.CSIDriver',
  'io.k8s.api.storage.v1.VolumeAttachment',
  'io.k8s.api.scheduling.v1.PriorityClass',
  'io.k8s.apimachinery.pkg.apis.meta.v1.Status',
  'io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta',
  'io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector',
];

interface Schema {
  $ref?: string;
  type?: string;
  format?: string;
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  additionalProperties?: Schema;
}

function defaultDocument(): string {
  const info = execFileSync('go', ['mod', 'download', '-json', `k8s.io/kubernetes@${kubernetesVersion}`], { cwd: '/', encoding: 'utf8' });
  return join((JSON.parse(info) as { Dir: string }).Dir, 'api/openapi-spec/swagger.json');
}

const definitions = (JSON.parse(readFileSync(process.argv[2] ?? defaultDocument(), 'utf8')) as { definitions: Record<string, Schema> })
  .definitions;

// Well-known scalars whose OpenAPI schema says less (or other) than their JSON form does.
const scalars: Record<string, string> = {
  'io.k8s.apimachinery.pkg.api.resource.Quantity': 'string',
  'io.k8s.apimachinery.pkg.util.intstr.IntOrString': 'number | string',
  'io.k8s.apimachinery.pkg.apis.meta.v1.Time': 'string',
  'io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime': 'string',
  'io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1': 'unknown',
  'io.k8s.apimachinery.pkg.runtime.RawExtension': 'unknown',
};

function shortName(full: string): string {
  return full.slice(full.lastIndexOf('.') + 1);
}

function refName(ref: string): string {
  return ref.replace('#/definitions/', '');
}

const wanted = new Map<string, Schema>();
function collect(full: string): void {
  if (scalars[full] !== undefined || wanted.has(full)) return;
  const schema = definitions[full];
  if (schema === undefined) throw new Error(`the OpenAPI document has no ${full}`);
  wanted.set(full, schema);
  collectSchema(schema);
}
function collectSchema(schema: Schema): void {
  if (schema.$ref !== undefined) collect(refName(schema.$ref));
  for (const p of Object.values(schema.properties ?? {})) collectSchema(p);
  if (schema.items !== undefined) collectSchema(schema.items);
  if (schema.additionalProperties !== undefined) collectSchema(schema.additionalProperties);
}
for (const root of roots) collect(root);

const byShort = new Map<string, string>();
for (const full of [...wanted.keys()].sort()) {
  const short = shortName(full);
  const other = byShort.get(short);
  // core/v1 keeps the plain name; a clash elsewhere carries its group in front (events, discovery, storage).
  if (other !== undefined && other !== full) {
    const loser = full.includes('.core.v1.') ? other : full;
    const winner = loser === full ? other : full;
    const parts = loser.split('.');
    byShort.set(short, winner);
    const group = parts.at(-3) ?? '';
    byShort.set(group.charAt(0).toUpperCase() + group.slice(1) + short, loser);
  } else byShort.set(short, full);
}
const nameOf = new Map([...byShort].map(([short, full]) => [full, short]));

function typeOf(schema: Schema): string {
  if (schema.$ref !== undefined) {
    const full = refName(schema.$ref);
    return scalars[full] ?? nameOf.get(full) ?? 'unknown';
  }
  switch (schema.type) {
    case 'string':
      return 'string';
    case 'boolean':
      return 'boolean';
    case 'integer':
    case 'number':
      return 'number';
    case 'array': {
      const item = typeOf(schema.items ?? {});
      return item.includes(' ') ? `(${item})[]` : `${item}[]`;
    }
    case 'object':
      return `Record<string, ${schema.additionalProperties === undefined ? 'unknown' : typeOf(schema.additionalProperties)}>`;
    default:
      return 'unknown';
  }
}

const key = (name: string): string => (/^[A-Za-z_][A-Za-z0-9_]*$/.test(name) ? name : `'${name}'`);
let out = `// Generated by scripts/generate-api-types.ts from k8s.io/kubernetes ${kubernetesVersion}. Do not edit.\n`;
for (const [short, full] of [...byShort].sort(([a], [b]) => (a < b ? -1 : 1))) {
  const schema = wanted.get(full);
  if (schema === undefined) continue;
  if (schema.properties === undefined) {
    out += `\nexport type ${short} = ${typeOf(schema)};\n`;
    continue;
  }
  out += `\n/** ${full} */\nexport interface ${short} {\n`;
  const required = new Set(schema.required ?? []);
  for (const [name, p] of Object.entries(schema.properties)) {
    out += required.has(name) ? `  ${key(name)}: ${typeOf(p)};\n` : `  ${key(name)}?: ${typeOf(p)} | undefined;\n`;
  }
  out += '}\n';
}
const target = join(import.meta.dirname, '../agent/model/generated/api.ts');
writeFileSync(target, out);
process.stdout.write(`${target}: ${byShort.size} types\n`);
