// Keeps a node's pods coming and going: creates, changes and deletes them at random, some of them while they start, some twice, some by force.
import { readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stringify } from 'yaml';
import type { Pod } from '../../../agent/model/generated/api.ts';
import { api } from '../../testbed/control-plane.ts';
import { labPaths } from '../../testbed/record.ts';
import { configMapName, ephemeralContainer, missingName, resizedTo, type Shape, secretName, shapes, staticSpec } from './shapes.ts';

export type DriverOptions = {
  readonly lab: string;
  readonly namespace: string;
  readonly nodeName: string;
  /** Pods to keep. */
  readonly target: number;
  readonly random: () => number;
  /** Requests that failed for another reason than that the pod is gone, or there already. */
  readonly failed: (what: string, error: unknown) => void;
};

export type Driver = {
  /** Resolves when no more is done, after every request that is under way. */
  stop(): Promise<void>;
  shapeOf(podName: string): Shape | undefined;
  /** What the configMap holds, as the API server has last confirmed it. */
  readonly configValue: string;
  readonly done: ReadonlyMap<string, number>;
  readonly manifests: string;
};

const staticNames = ['static-a', 'static-b', 'static-c'];

type Living = { name: string; shape: Shape; n: number; diesAt: number; created: boolean };

/** Resolves when the driver runs and the objects that its pods refer to are there. */
export const startDriver = async (options: DriverOptions): Promise<Driver> => {
  const { lab, namespace, random } = options;
  const base = `/api/v1/namespaces/${namespace}`;
  const living = new Map<string, Living>();
  const sorts = new Map(shapes.map((shape) => [shape.sort, shape]));
  const deck = shapes.flatMap((shape) => Array.from({ length: shape.weight }, () => shape));
  const manifests = join(labPaths(lab).node('n1').home, 'etc-kubernetes', 'manifests');
  const done = new Map<string, number>();
  const underWay = new Set<Promise<void>>();
  let stopped = false;
  let serial = 0;
  let configVersion = 0;
  let configValue = '0';

  const count = (what: string): void => void done.set(what, (done.get(what) ?? 0) + 1);
  const between = (least: number, most: number): number => least + random() * (most - least);
  const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(random() * list.length)];

  /** Does it beside everything else. That an object is gone, is there already or was changed by others is part of the game. */
  const launch = (what: string, work: () => Promise<unknown>): void => {
    const doing = work()
      .then(() => count(what))
      .catch((error: unknown) => {
        if (!/NotFound|AlreadyExists|Conflict|Invalid|Forbidden/.test(String(error))) options.failed(what, error);
      })
      .finally(() => underWay.delete(doing));
    underWay.add(doing);
  };
  const patch = (path: string, body: object, type = 'strategic-merge-patch'): Promise<unknown> =>
    api({ name: lab }, `${base}/${path}`, { method: 'PATCH', body, contentType: `application/${type}+json` });

  const create = (): void => {
    const shape = pick(deck) ?? shapes[0];
    if (shape === undefined) return;
    const n = serial++;
    const name = `${shape.sort}-${n}`;
    const spec = shape.spec(n);
    const pod: Pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace, labels: { sort: shape.sort }, annotations: { changed: '0' } },
      spec: { ...spec, nodeName: options.nodeName, terminationGracePeriodSeconds: spec.terminationGracePeriodSeconds ?? 8 },
    };
    // One in five is deleted while it starts.
    const lifeMs = random() < 0.2 ? between(50, 4000) : between(20_000, 180_000);
    const one: Living = { name, shape, n, diesAt: performance.now() + lifeMs, created: false };
    living.set(name, one);
    launch('create', async () => {
      try {
        await api({ name: lab }, `${base}/pods`, { method: 'POST', body: pod });
      } catch (error) {
        if (!String(error).includes('AlreadyExists')) living.delete(name);
        throw error;
      }
      one.created = true;
    });
  };

  const remove = (one: Living): void => {
    living.delete(one.name);
    const call = (graceSeconds?: number): Promise<unknown> =>
      api({ name: lab }, `${base}/pods/${one.name}`, {
        method: 'DELETE',
        ...(graceSeconds === undefined ? {} : { body: { apiVersion: 'v1', kind: 'DeleteOptions', gracePeriodSeconds: graceSeconds } }),
      });
    const dice = random();
    const pauseMs = between(50, 3000);
    if (dice < 0.5) launch('delete', () => call());
    else if (dice < 0.65) launch('delete within a second', () => call(1));
    else if (dice < 0.8) launch('force delete', () => call(0));
    else if (dice < 0.9)
      launch('delete, and again sooner', async () => {
        await call();
        await sleep(pauseMs);
        await call(1);
      });
    else
      launch('delete, then by force', async () => {
        await call();
        await sleep(pauseMs);
        await call(0);
      });
  };

  const change = (one: Living): void => {
    const step = Math.floor(random() * 1000);
    switch (pick(one.shape.doings ?? [])) {
      case 'annotate':
        launch('annotate', () => patch(`pods/${one.name}`, { metadata: { annotations: { changed: String(step) } } }));
        break;
      case 'add-ephemeral':
        launch('ephemeral container', () =>
          patch(`pods/${one.name}/ephemeralcontainers`, { spec: { ephemeralContainers: [ephemeralContainer(step)] } }),
        );
        break;
      case 'resize':
        launch('resize', () => patch(`pods/${one.name}/resize`, { spec: { containers: [{ name: 'main', resources: resizedTo(step) }] } }));
        break;
      case 'make-missing':
        launch('the missing configMap, for a while', async () => {
          await api({ name: lab }, `${base}/configmaps`, {
            method: 'POST',
            body: { metadata: { name: missingName }, data: { key: 'there' } },
          });
          await sleep(3000);
          await api({ name: lab }, `${base}/configmaps/${missingName}`, { method: 'DELETE' });
        });
        break;
      case undefined:
    }
  };

  const changeSources = (): void => {
    const value = String(++configVersion);
    launch('configMap changed', async () => {
      await patch(`configmaps/${configMapName}`, { data: { key: value } });
      configValue = value;
    });
    launch('secret changed', () => patch(`secrets/${secretName}`, { stringData: { word: `word-${value}` } }));
  };

  const changeStatic = (): void => {
    const name = pick(staticNames) ?? '';
    const file = join(manifests, `${name}.yaml`);
    if (random() < 0.3) {
      rmSync(file, { force: true });
      count('static pod removed');
      return;
    }
    const version = Math.floor(random() * 1000);
    const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace, labels: { sort: 'static' } }, spec: staticSpec(version) };
    writeFileSync(join(manifests, `.${name}`), stringify(pod));
    renameSync(join(manifests, `.${name}`), file);
    count('static pod written');
  };

  await api({ name: lab }, `${base}/configmaps`, {
    method: 'POST',
    body: { metadata: { name: configMapName }, data: { key: configValue } },
  });
  await api({ name: lab }, `${base}/secrets`, {
    method: 'POST',
    body: { metadata: { name: secretName }, stringData: { word: 'swordfish' } },
  });

  const loop = (async (): Promise<void> => {
    let nextSources = 0;
    let nextStatic = 0;
    while (!stopped) {
      const now = performance.now();
      for (let i = 0; i < 3 && living.size < options.target - staticNames.length && underWay.size < 20; i++) create();
      for (const one of [...living.values()]) if (one.created && now >= one.diesAt) remove(one);
      const one = pick([...living.values()]);
      if (one?.created === true && random() < 0.3) change(one);
      if (now >= nextSources) {
        changeSources();
        nextSources = now + between(10_000, 40_000);
      }
      if (now >= nextStatic) {
        changeStatic();
        nextStatic = now + between(3000, 20_000);
      }
      await sleep(between(100, 900));
    }
    while (underWay.size > 0) await Promise.allSettled([...underWay]);
  })();

  return {
    manifests,
    done,
    shapeOf: (podName) => sorts.get(podName.replace(/-\d+$/, '')),
    get configValue() {
      return configValue;
    },
    async stop() {
      stopped = true;
      await loop;
      for (const name of readdirSync(manifests)) rmSync(join(manifests, name), { force: true });
    },
  };
};
