import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GrpcError } from '../../../agent/drivers/grpc/errors.ts';
import { afterPullFailure, type ImageFacts, isForgotten, judgePullErrors, nextImageStep } from '../../../agent/images/decide.ts';
import { formatGoDuration, parseGoDuration } from '../../../agent/images/go-duration.ts';

const base: ImageFacts = { image: 'web:1', pullPolicy: 'IfNotPresent', now: 100_000 };
const backoff = { delayMs: 20_000, failedAt: 90_000, lastError: 'ErrImagePull: no such tag' };

const steps: [string, Partial<ImageFacts>, string][] = [
  ['an unreadable name is invalid, whatever the policy', { image: 'Web:1', pullPolicy: 'Never' }, 'fail InvalidImageName'],
  ['Always pulls without looking', { pullPolicy: 'Always' }, 'pull web:1'],
  ['IfNotPresent looks first', {}, 'inspect web:1'],
  ['Never looks first', { pullPolicy: 'Never' }, 'inspect web:1'],
  ['no tag means latest, to the runtime too', { image: 'web', pullPolicy: 'IfNotPresent' }, 'inspect web:latest'],
  ['no policy and no tag: Always', { image: 'web', pullPolicy: undefined }, 'pull web:latest'],
  ['no policy and a tag: IfNotPresent', { pullPolicy: undefined }, 'inspect web:1'],
  ['a failed look is an inspect error', { inspected: { error: 'rpc error: code = Unavailable desc = gone' } }, 'fail ImageInspectError'],
  ['absent: pull', { inspected: { imageRef: undefined } }, 'pull web:1'],
  ['absent with Never: never', { pullPolicy: 'Never', inspected: { imageRef: undefined } }, 'fail ErrImageNeverPull'],
  ['present: may this pod use it?', { inspected: { imageRef: 'sha256:a' } }, 'verify sha256:a'],
  ['present and allowed: use', { inspected: { imageRef: 'sha256:a' }, accessible: true }, 'use sha256:a'],
  ['present and not allowed: pull to prove it', { inspected: { imageRef: 'sha256:a' }, accessible: false }, 'pull web:1'],
  [
    'present, not allowed, Never: as if it were absent',
    { pullPolicy: 'Never', inspected: { imageRef: 'sha256:a' }, accessible: false },
    'fail ErrImageNeverPull',
  ],
  ['a failure lately: back off', { pullPolicy: 'Always', backoff }, 'fail ImagePullBackOff until 110000'],
  [
    'the image has come meanwhile: use it in spite of the back-off',
    { inspected: { imageRef: 'sha256:a' }, accessible: true, backoff },
    'use sha256:a',
  ],
  ['the back-off is over: pull', { pullPolicy: 'Always', backoff, now: 110_000 }, 'pull web:1'],
];
for (const [name, facts, expected] of steps)
  test(name, () => {
    const step = nextImageStep({ ...base, ...facts });
    const said =
      step.kind === 'fail'
        ? `fail ${step.reason}${step.retryAt === undefined ? '' : ` until ${step.retryAt}`}`
        : `${step.kind} ${step.kind === 'inspect' || step.kind === 'pull' ? step.runtimeImage : step.imageRef}`;
    assert.equal(said, expected);
  });

const words: [string, Partial<ImageFacts>, event: string, message: string | undefined][] = [
  ['pull', { pullPolicy: 'Always' }, 'Normal Pulling Pulling image "web:1"', undefined],
  [
    'use',
    { inspected: { imageRef: 'sha256:a' }, accessible: true },
    'Normal Pulled Container image "web:1" already present on machine and can be accessed by the pod',
    undefined,
  ],
  [
    'never',
    { pullPolicy: 'Never', inspected: { imageRef: undefined } },
    'Warning ErrImageNeverPull Container image "web:1" is not present with pull policy of Never',
    'Container image "web:1" is not present with pull policy of Never',
  ],
  [
    'back-off',
    { pullPolicy: 'Always', backoff },
    'Normal BackOff Back-off pulling image "web:1"',
    'Back-off pulling image "web:1": ErrImagePull: no such tag',
  ],
  [
    'invalid',
    { image: 'INVALID:x:y' },
    'Warning InspectFailed Failed to apply default image tag "INVALID:x:y": couldn\'t parse image name "INVALID:x:y": invalid reference format: repository name (library/INVALID) must be lowercase',
    'Failed to apply default image tag "INVALID:x:y": couldn\'t parse image name "INVALID:x:y": invalid reference format: repository name (library/INVALID) must be lowercase',
  ],
];
for (const [name, facts, event, message] of words)
  test(`kubelet's words: ${name}`, () => {
    const step = nextImageStep({ ...base, ...facts });
    assert.ok('event' in step);
    assert.equal(`${step.event.type} ${step.event.reason} ${step.event.message}`, event);
    assert.equal('message' in step ? step.message : undefined, message);
  });

const failures: [string, unknown[], reason: string, message: string, event: string][] = [
  [
    'a gRPC status keeps its code',
    [new GrpcError('NotFound', 'failed to resolve reference')],
    'ErrImagePull',
    'rpc error: code = NotFound desc = failed to resolve reference',
    'Failed to pull image "web": rpc error: code = NotFound desc = failed to resolve reference',
  ],
  [
    'an unknown code says nothing and is dropped',
    [new GrpcError('Unknown', 'disk on fire')],
    'ErrImagePull',
    'disk on fire',
    'Failed to pull image "web": disk on fire',
  ],
  [
    'several credentials, several errors',
    [new GrpcError('Unknown', 'a'), new GrpcError('Unknown', 'b'), new GrpcError('Unknown', 'a')],
    'ErrImagePull',
    '[a, b]',
    'Failed to pull image "web": [a, b]',
  ],
  [
    'the registry is away',
    [new GrpcError('Unknown', 'RegistryUnavailable: no route')],
    'RegistryUnavailable',
    'image pull failed for web because the registry is unavailable: no route',
    'Failed to pull image "web": RegistryUnavailable: no route',
  ],
  [
    'a bad signature',
    [new GrpcError('Unknown', 'SignatureValidationFailed')],
    'SignatureValidationFailed',
    'image pull failed for web because the signature validation failed',
    'Failed to pull image "web": SignatureValidationFailed',
  ],
];
for (const [name, errors, reason, message, event] of failures)
  test(`failed pull: ${name}`, () => {
    const failure = judgePullErrors('web', errors);
    assert.deepEqual([failure.reason, failure.message, failure.event.message], [reason, message, event]);
  });

test('back-off doubles from 10 s to 5 min, and starts anew after 10 quiet minutes', () => {
  let state = afterPullFailure(undefined, 'x', 0);
  const delays = [state.delayMs];
  for (let i = 0; i < 6; i++) {
    state = afterPullFailure(state, 'x', state.failedAt + state.delayMs);
    delays.push(state.delayMs);
  }
  assert.deepEqual(delays, [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]);
  assert.equal(isForgotten(state, state.failedAt + 600_000), false);
  assert.equal(isForgotten(state, state.failedAt + 600_001), true);
  assert.equal(afterPullFailure(state, 'x', state.failedAt + 600_001).delayMs, 10_000);
});

const durations: [number, string][] = [
  [0, '0s'],
  [0.4, '0s'],
  [815.9, '815ms'],
  [1000, '1s'],
  [1203, '1.203s'],
  [62_500, '1m2.5s'],
  [60_000, '1m0s'],
  [7_200_000, '2h0m0s'],
];
for (const [ms, text] of durations) test(`${ms} ms is ${text}`, () => assert.equal(formatGoDuration(ms), text));

const parsed: [string, number | undefined][] = [
  ['12h', 43_200_000],
  ['1h30m', 5_400_000],
  ['1.5s', 1500],
  ['0', 0],
  ['0s', 0],
  ['-1m', -60_000],
  ['10', undefined],
  ['', undefined],
  ['1d', undefined],
];
for (const [text, ms] of parsed) test(`${JSON.stringify(text)} is ${ms} ms`, () => assert.equal(parseGoDuration(text), ms));
