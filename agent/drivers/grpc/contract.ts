import { fileURLToPath } from 'node:url';
import type { MethodDefinition, Options } from '@grpc/proto-loader';
import { loadSync } from '@grpc/proto-loader';
import { ownValue, setOwn } from '../../base/own.ts';

/**
 * How gRPC values look everywhere in the agent; cri-protos/generated is written to match. 64-bit integers are numbers: above 2^53 they round, which costs
 * a nanosecond timestamp up to 256 ns and is nothing to a byte count.
 */
const protoOptions: Options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };

export type Method = Omit<MethodDefinition<object, object>, 'requestType' | 'responseType' | 'originalName' | 'options'>;

/** The methods of services of a contract file in cri-protos, by name, for clients and servers. Parsing the CRI's costs some 60 ms, so callers keep the result. */
export function loadServices<Names extends string>(file: string, services: readonly Names[]): Record<Names, ReadonlyMap<string, Method>> {
  const definitions = loadFile(file);
  return Object.fromEntries(services.map((service) => [service, pickService(definitions, service)])) as Record<
    Names,
    ReadonlyMap<string, Method>
  >;
}

type Definitions = ReturnType<typeof loadSync>;

function loadFile(file: string): Definitions {
  return loadSync(fileURLToPath(new URL(`../../../cri-protos/${file}`, import.meta.url)), protoOptions);
}

function pickService(definitions: Definitions, service: string): ReadonlyMap<string, Method> {
  const definition = ownValue(definitions, service);
  if (definition === undefined) throw new Error(`no service ${service} in this contract`);
  return new Map(
    Object.entries(definition as Record<string, MethodDefinition<object, object>>).map(([name, method]) => [
      name,
      {
        path: method.path,
        requestStream: method.requestStream,
        responseStream: method.responseStream,
        requestSerialize: method.requestSerialize,
        requestDeserialize: (bytes: Buffer) => withoutNulls(method.requestDeserialize(bytes)),
        responseSerialize: method.responseSerialize,
        responseDeserialize: (bytes: Buffer) => withoutNulls(method.responseDeserialize(bytes)),
      },
    ]),
  );
}

/** protobufjs says null for a message that was not sent; here absence is undefined. Changes `value` in place: it is freshly decoded. */
function withoutNulls<T>(value: T): T {
  if (Array.isArray(value)) {
    for (const item of value) if (typeof item === 'object') withoutNulls(item);
    return value;
  }
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  const fields = value as Record<string, unknown>;
  for (const key in fields) {
    const field = ownValue(fields, key);
    if (field === null) setOwn(fields, key, undefined);
    else if (typeof field === 'object') withoutNulls(field);
  }
  return value;
}
