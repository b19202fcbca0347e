// Upstream's own descriptors, out of the Go modules: .proto files where a module ships them, else the descriptor compiled into its .pb.go.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadFileDescriptorSetFromBuffer, loadSync, type PackageDefinition } from '@grpc/proto-loader';
import { ensureGo } from '../../testbed/binaries.ts';

const go = await ensureGo();

/** The folder of a Go module in the module cache, downloaded when it is not there. */
export function goModuleDir(module: string, version: string): string {
  // Outside any module, so that no go.mod of ours is consulted.
  const info = execFileSync(go, ['mod', 'download', '-json', `${module}@${version}`], { cwd: '/', encoding: 'utf8' });
  return (JSON.parse(info) as { Dir: string }).Dir;
}

/** The descriptors of a .proto file of a Go module. */
export function upstreamProto(module: string, version: string, file: string): PackageDefinition {
  return loadSync(join(goModuleDir(module, version), file), { keepCase: true });
}

/** The descriptors compiled into a .pb.go of a Go module (protoc-gen-go ≥ 1.36: one constant of joined string literals). */
export function upstreamGoDescriptor(module: string, version: string, file: string): PackageDefinition {
  const source = readFileSync(join(goModuleDir(module, version), file), 'utf8');
  const body = /_rawDesc = "" \+\n((?:\t"(?:[^"\\]|\\.)*"(?: \+)?\n)+)/.exec(source)?.[1];
  if (body === undefined) throw new Error(`${file} has no raw descriptor`);
  const descriptor = Buffer.concat([...body.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map((match) => unescapeGo(match[1] ?? '')));
  // A FileDescriptorSet is its files as field 1.
  return loadFileDescriptorSetFromBuffer(Buffer.concat([Buffer.from([0x0a, ...varint(descriptor.length)]), descriptor]), {
    keepCase: true,
  });
}

function varint(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
}

const escapes: Record<string, number> = { a: 7, b: 8, t: 9, n: 10, v: 11, f: 12, r: 13, '"': 34, '\\': 92 };

function unescapeGo(literal: string): Buffer {
  const parts = [...literal.matchAll(/\\x([0-9a-f]{2})|\\([0-7]{3})|\\u([0-9a-f]{4})|\\(.)|([^\\]+)/g)];
  return Buffer.concat(
    parts.map(([, hex, octal, unicode, letter, plain]) => {
      if (hex !== undefined) return Buffer.from([Number.parseInt(hex, 16)]);
      if (octal !== undefined) return Buffer.from([Number.parseInt(octal, 8)]);
      if (unicode !== undefined) return Buffer.from(String.fromCodePoint(Number.parseInt(unicode, 16)));
      if (letter !== undefined) return Buffer.from([escapes[letter] ?? letter.charCodeAt(0)]);
      return Buffer.from(plain ?? '');
    }),
  );
}

interface Shape {
  name: string;
  field?: { name: string; number: number; label: string; type: string; typeName: string }[];
  nestedType?: (Shape & { options?: { mapEntry?: boolean } | null })[];
  enumType?: Shape[];
  value?: { name: string; number: number }[];
}

/**
 * A contract as flat facts: `Message.field` → "7 repeated string", `Enum.NAME` → "3", `Service.Method` → "Request → stream Response". Two
 * contracts agree where their facts do. Descriptors name types
 * relatively or absolutely, so only the last part of a type name counts.
 */
export function factsOf(definitions: PackageDefinition): Map<string, string> {
  const facts = new Map<string, string>();
  const last = (name: string): string => name.split('.').at(-1) ?? name;

  function visit(prefix: string, shape: Shape): void {
    for (const value of shape.value ?? []) facts.set(`${prefix}.${value.name}`, String(value.number));
    for (const field of shape.field ?? []) {
      const entry = shape.nestedType?.find((nested) => nested.options?.mapEntry === true && nested.name === last(field.typeName));
      const type =
        entry === undefined
          ? `${field.label === 'LABEL_REPEATED' ? 'repeated ' : ''}${field.typeName === '' ? field.type : last(field.typeName)}`
          : `map ${(entry.field ?? []).map((f) => (f.typeName === '' ? f.type : last(f.typeName))).join(' to ')}`;
      facts.set(`${prefix}.${field.name}`, `${field.number} ${type}`);
    }
    for (const nested of shape.nestedType ?? []) if (nested.options?.mapEntry !== true) visit(`${prefix}.${nested.name}`, nested);
    for (const nested of shape.enumType ?? []) visit(`${prefix}.${nested.name}`, nested);
  }

  for (const [name, definition] of Object.entries(definitions)) {
    const { format, type } = definition as { format?: string; type?: Shape };
    if (typeof format === 'string' && type !== undefined) {
      visit(name, type);
      continue;
    }
    for (const [method, shape] of Object.entries(
      definition as Record<
        string,
        { requestType: { type: Shape }; responseType: { type: Shape }; requestStream: boolean; responseStream: boolean }
      >,
    )) {
      const request = `${shape.requestStream ? 'stream ' : ''}${shape.requestType.type.name}`;
      facts.set(`${name}.${method}`, `${request} → ${shape.responseStream ? 'stream ' : ''}${shape.responseType.type.name}`);
    }
  }
  return facts;
}
