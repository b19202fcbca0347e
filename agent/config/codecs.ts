// Parts that KubeletConfiguration and KubeProxyConfiguration have in common.
import * as z from 'zod';
import { messageOf } from '../base/errors.ts';
import { parseQuantity } from '../model/quantity.ts';
import { formatDuration, parseDuration } from './duration.ts';
import { gateEnabled } from './feature-gates.ts';

/** A Go duration: text in a file, milliseconds here. */
export const duration = z.codec(z.string(), z.number(), {
  decode: (text, ctx) => {
    try {
      return parseDuration(text);
    } catch (error) {
      ctx.issues.push({ code: 'custom', message: messageOf(error), input: text });
      return z.NEVER;
    }
  },
  encode: (ms) => formatDuration(ms),
});

// logging.flushFrequency may also be a number of nanoseconds (component-base logs/api/v1 TimeOrMetaDuration).
const durationOrNanoseconds = z.codec(z.union([z.string(), z.number()]), z.number(), {
  decode: (value, ctx) => {
    if (typeof value === 'number') return value / 1e6;
    try {
      return parseDuration(value);
    } catch (error) {
      ctx.issues.push({ code: 'custom', message: messageOf(error), input: value });
      return z.NEVER;
    }
  },
  encode: (ms) => formatDuration(ms),
});

export const quantityText = z.codec(z.union([z.string(), z.number()]), z.string(), {
  decode: (value, ctx) => {
    try {
      parseQuantity(value);
    } catch (error) {
      ctx.issues.push({ code: 'custom', message: messageOf(error), input: value });
    }
    return String(value);
  },
  encode: (text) => text,
});

export const int32 = z.int32();
export const int64 = z.int();
export const strings = z.array(z.string());
export const stringMap = z.record(z.string(), z.string());

const outputRouting = z.strictObject({ splitStream: z.boolean().optional(), infoBufferSize: quantityText.optional() });

/** LoggingConfiguration of component-base (logs/api/v1/types.go), the same in each component's file. */
export const logging = z.strictObject({
  format: z.string().optional(),
  flushFrequency: durationOrNanoseconds.optional(),
  verbosity: z.uint32().optional(),
  vmodule: z.array(z.strictObject({ filePattern: z.string(), verbosity: z.uint32() })).optional(),
  options: z.strictObject({ text: outputRouting.optional(), json: outputRouting.optional() }).optional(),
});

interface Logging {
  readonly format: string;
  readonly vmodule: readonly unknown[];
  readonly options: Readonly<Record<'text' | 'json', { readonly splitStream: boolean; readonly infoBufferSize: string }>>;
}

/** What is wrong with the logging part of a configuration whose defaults are filled in. */
export function checkLogging(given: Logging, featureGates: Readonly<Record<string, boolean>>): string[] {
  const { format, vmodule, options } = given;
  const problems: string[] = [];
  if (format !== 'text' && format !== 'json') problems.push(`logging.format: Invalid value: "${format}": Unsupported log format`);
  if (vmodule.length > 0 && format !== 'text') problems.push('logging.vmodule: Forbidden: Only supported for text log format');
  for (const name of ['text', 'json'] as const)
    if (
      (options[name].splitStream || parseQuantity(options[name].infoBufferSize) !== 0) &&
      !gateEnabled(featureGates, 'LoggingAlphaOptions')
    )
      problems.push(`logging.options.${name}: Forbidden: Feature LoggingAlphaOptions is disabled`);
  return problems;
}
