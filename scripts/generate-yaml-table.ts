// Writes test/unit/model/yaml/upstream.json: what upstream's reader makes of the inputs beside it.
import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { inputs } from '../test/unit/model/yaml/inputs.ts';
import { askUpstream } from '../test/unit/model/yaml/upstream.ts';

const answers = await askUpstream(inputs);
const lines = inputs.map((input, i) => JSON.stringify({ input, ...answers[i] }));
await writeFile(join(resolve(import.meta.dirname, '..'), 'test/unit/model/yaml/upstream.json'), `[\n${lines.join(',\n')}\n]\n`);
