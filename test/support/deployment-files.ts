import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { parse } from 'yaml';
import { z } from 'zod';
import {
  environmentSchema,
  loadDatabaseSettings,
  loadSettings,
  type Settings,
  SettingsError,
} from '../../src/config/settings.js';
import { type AppSpec, appSpecSchema } from './app-spec-schema.js';
import { kubernetesProblems } from './kubernetes-schema.js';

/** A value for each secret, so that the settings can be read. */
const SECRETS: Readonly<Record<string, string>> = {
  DATABASE_URL: 'postgres://user:password@db.example.com:25060/docavailable?sslmode=require',
  DATABASE_CA_CERT: 'test/tls/ca.pem',
  JWT_SECRET: 'made with openssl rand -hex 32, as the file says',
  DO_SPACES_KEY: 'key',
  DO_SPACES_SECRET: 'secret',
  REDIS_URL: 'rediss://user:password@redis.example.com:25061/0',
  REDIS_CA_CERT: 'test/tls/ca.pem',
};

/** The longest check of a backend by readiness, in seconds. */
const READINESS_CHECK_SECONDS = 2;

/** In MiB, by "Decoding" in docs/operations.md: of the service, of the largest pictures, and of each decoding process. */
const [SERVICE_MIB, PICTURES_MIB, DECODER_MIB] = [150, 400, 60];

const MIGRATE = ['node', 'dist/commands/migrate.js', 'up'];

const labels = z.record(z.string(), z.string());
const selector = z.object({ matchLabels: labels });
const quantity = z.string().regex(/^\d+(Mi|Gi)$/);

const manifest = z.looseObject({
  apiVersion: z.string(),
  kind: z.string(),
  metadata: z.looseObject({ name: z.string(), labels: labels.default({}) }),
});
export type Manifest = z.output<typeof manifest>;

const kustomization = z.strictObject({
  apiVersion: z.literal('kustomize.config.k8s.io/v1beta1'),
  kind: z.literal('Kustomization'),
  namespace: z.string(),
  images: z.tuple([
    z.strictObject({ name: z.string(), newName: z.string(), newTag: z.string().regex(/^\d+\.\d+\.\d+$/) }),
  ]),
  resources: z.array(z.string()),
});

const probe = z.object({
  httpGet: z.object({ path: z.string(), port: z.string() }),
  periodSeconds: z.number(),
  timeoutSeconds: z.number(),
  failureThreshold: z.number(),
});

const envFrom = z.union([
  z.object({ configMapRef: z.object({ name: z.string() }) }),
  z.object({ secretRef: z.object({ name: z.string() }) }),
]);

const container = z.object({
  image: z.string(),
  envFrom: z.array(envFrom),
  resources: z.object({
    requests: z.object({ cpu: z.string(), memory: quantity }),
    limits: z.object({ memory: quantity }),
  }),
});

/** The pod security level `restricted`, and a file system that can't be written to. */
const restrictedPod = z.object({
  automountServiceAccountToken: z.literal(false),
  enableServiceLinks: z.literal(false),
  securityContext: z.object({
    runAsNonRoot: z.literal(true),
    runAsUser: z.number().min(1),
    seccompProfile: z.object({ type: z.literal('RuntimeDefault') }),
  }),
  containers: z.tuple([
    z.object({
      securityContext: z.object({
        allowPrivilegeEscalation: z.literal(false),
        readOnlyRootFilesystem: z.literal(true),
        capabilities: z.strictObject({ drop: z.tuple([z.literal('ALL')]) }),
      }),
    }),
  ]),
});

const deployment = manifest.extend({
  spec: z.object({
    replicas: z.never('is the HorizontalPodAutoscaler’s').optional(),
    strategy: z.object({ rollingUpdate: z.object({ maxUnavailable: z.literal(0) }) }),
    selector,
    template: z.object({
      metadata: z.object({ labels }),
      spec: z.object({
        terminationGracePeriodSeconds: z.number(),
        topologySpreadConstraints: z.array(z.object({ labelSelector: selector })).min(1),
        containers: z.tuple([
          container.extend({
            ports: z.array(z.object({ name: z.string(), containerPort: z.number() })),
            startupProbe: probe,
            readinessProbe: probe,
            livenessProbe: probe,
            volumeMounts: z.tuple([z.object({ name: z.string(), mountPath: z.literal('/dev/shm') })]),
          }),
        ]),
        volumes: z.tuple([
          z.object({
            name: z.string(),
            emptyDir: z.object({ medium: z.literal('Memory'), sizeLimit: quantity }),
          }),
        ]),
      }),
    }),
  }),
});

const job = manifest.extend({
  spec: z.object({
    template: z.object({
      metadata: z.object({ labels }),
      spec: z.object({
        restartPolicy: z.literal('Never'),
        containers: z.tuple([container.extend({ command: z.array(z.string()) })]),
      }),
    }),
  }),
});

const policyPorts = z.array(
  z.object({ protocol: z.enum(['TCP', 'UDP']), port: z.union([z.string(), z.number()]) }),
);
const networkPolicy = manifest.extend({
  spec: z.object({
    podSelector: selector,
    policyTypes: z.tuple([z.literal('Ingress'), z.literal('Egress')]),
    ingress: z
      .array(
        z.object({
          from: z.tuple([
            z.object({
              namespaceSelector: z.object({
                matchLabels: z.strictObject({ 'kubernetes.io/metadata.name': z.string() }),
              }),
            }),
          ]),
          ports: policyPorts,
        }),
      )
      .default([]),
    egress: z.array(z.object({ to: z.array(z.unknown()).min(1), ports: policyPorts })),
  }),
});

const service = manifest.extend({
  spec: z.object({
    selector: labels,
    ports: z.array(z.object({ name: z.string(), port: z.number(), targetPort: z.string() })),
  }),
});

const budget = manifest.extend({ spec: z.object({ maxUnavailable: z.literal(1), selector }) });

const autoscaler = manifest.extend({
  spec: z.object({
    scaleTargetRef: z.object({ apiVersion: z.string(), kind: z.string(), name: z.string() }),
    minReplicas: z.number().min(3),
    maxReplicas: z.number(),
  }),
});

const monitor = manifest.extend({
  spec: z.object({
    selector,
    endpoints: z.tuple([z.object({ port: z.string(), path: z.literal('/metrics') })]),
  }),
});

/** A folder with a kustomization, as the files say. */
type Folder = {
  kustomization: unknown;
  files: string[];
  manifests: Manifest[];
  /** The keys of its Secret. */
  secretKeys: string[];
};

/** What `deploy/` holds. */
export type DeploymentFiles = { service: Folder; migration: Folder; app: unknown };

export function readDeploymentFiles(): DeploymentFiles {
  return {
    service: readFolder('deploy/kubernetes'),
    migration: readFolder('deploy/kubernetes/migration'),
    app: readYaml('deploy/app-platform.yaml'),
  };
}

function readFolder(folder: string): Folder {
  const files = readdirSync(folder).filter((file) => file.endsWith('.yaml') && file !== 'kustomization.yaml');
  return {
    kustomization: readYaml(join(folder, 'kustomization.yaml')),
    files,
    manifests: files.map((file) => manifest.parse(readYaml(join(folder, file)))),
    secretKeys: readFileSync(join(folder, 'secret.env.example'), 'utf8')
      .split('\n')
      .filter((line) => /^\w/.test(line))
      // A key with a value is no key of the Secret, so it is reported.
      .map((line) => line.replace(/=$/, '')),
  };
}

function readYaml(path: string): unknown {
  return parse(readFileSync(path, 'utf8'));
}

/** The paths that the probes, health checks and the ServiceMonitor request. */
export function requestedPaths({ service: { manifests }, app }: DeploymentFiles): {
  health: string[];
  metrics: string[];
} {
  const [pod] = one(deployment, manifests, 'Deployment').spec.template.spec.containers;
  const { services } = appSpecSchema.parse(app);
  return {
    health: [
      ...[pod.startupProbe, pod.readinessProbe, pod.livenessProbe].map(({ httpGet }) => httpGet.path),
      ...services.flatMap((each) => [each.health_check.http_path, each.liveness_health_check.http_path]),
    ],
    metrics: one(monitor, manifests, 'ServiceMonitor').spec.endpoints.map(({ path }) => path),
  };
}

/** Everything that is wrong with the files: by the schemas, with the settings, and among themselves. A line for each. */
export function deploymentProblems(files: DeploymentFiles): string[] {
  const problems = [...files.service.manifests, ...files.migration.manifests].flatMap(kubernetesProblems);
  const check: Check = (holds, problem) => {
    if (!holds) problems.push(problem);
  };
  for (const part of [checkKubernetes, checkMigration, checkAppPlatform]) {
    try {
      part(files, check);
    } catch (error) {
      if (error instanceof SettingsError) problems.push(...error.problems);
      else if (error instanceof z.ZodError) problems.push(z.prettifyError(error));
      else throw error;
    }
  }
  return problems;
}

type Check = (holds: boolean, problem: string) => void;

function checkKubernetes({ service: folder, migration }: DeploymentFiles, check: Check): void {
  const { manifests, secretKeys } = folder;
  checkKustomization(folder, check);
  const config = one(manifest.extend({ data: labels }), manifests, 'ConfigMap');
  const settings = settingsOf(config.data, secretKeys, check);
  const { spec, metadata } = one(deployment, manifests, 'Deployment');
  const pod = spec.template.spec;
  const [main] = pod.containers;
  checkRestricted(manifests, 'Deployment', check);
  check(
    isDeepStrictEqual(main.envFrom, [
      { configMapRef: { name: config.metadata.name } },
      { secretRef: { name: 'chat-images' } },
    ]),
    'the Deployment does not read the ConfigMap and the Secret',
  );

  const ports = new Map(main.ports.map(({ name, containerPort }) => [name, containerPort]));
  check(ports.get('http') === settings.port, 'the port http is not PORT');
  check(ports.get('metrics') === settings.metrics?.port, 'the port metrics is not METRICS_PORT');
  check(settings.metrics?.host === '0.0.0.0', 'METRICS_HOST is not reached from other pods');
  for (const { httpGet } of [main.startupProbe, main.readinessProbe, main.livenessProbe])
    check(httpGet.port === 'http', `a probe asks ${httpGet.port}`);
  const { readinessProbe: ready, startupProbe: start } = main;
  check(
    ready.periodSeconds * ready.failureThreshold * 1000 <= settings.shutdownDelayMs,
    'readiness is not false within SHUTDOWN_DELAY_MS',
  );
  check(ready.timeoutSeconds > READINESS_CHECK_SECONDS, 'readiness is given up before the service answers');
  check(start.periodSeconds * start.failureThreshold >= 30, 'the start has less than 30 seconds');
  check(
    pod.terminationGracePeriodSeconds > stopSeconds(settings),
    'terminationGracePeriodSeconds is not longer than SHUTDOWN_DELAY_MS and SHUTDOWN_TIMEOUT_MS together',
  );

  const { requests, limits } = main.resources;
  check(mebibytes(limits.memory) >= neededMebibytes(settings), 'the memory limit is too small');
  check(mebibytes(requests.memory) <= mebibytes(limits.memory), 'the memory request is over the limit');
  const [{ name: volume, emptyDir }] = pod.volumes;
  check(main.volumeMounts[0].name === volume, '/dev/shm is not the volume in memory');
  const files = (settings.uploads.decodeProcesses * settings.uploads.maxFileBytes) / 1024 ** 2;
  check(mebibytes(emptyDir.sizeLimit) >= files, '/dev/shm is too small');

  const own = spec.template.metadata.labels;
  const migrationLabels = one(job, migration.manifests, 'Job').spec.template.metadata.labels;
  const serving = one(service, manifests, 'Service');
  const policy = one(networkPolicy, manifests, 'NetworkPolicy');
  const scrape = one(monitor, manifests, 'ServiceMonitor');
  const selectors = {
    Deployment: spec.selector.matchLabels,
    Service: serving.spec.selector,
    PodDisruptionBudget: one(budget, manifests, 'PodDisruptionBudget').spec.selector.matchLabels,
    NetworkPolicy: policy.spec.podSelector.matchLabels,
    ...Object.fromEntries(
      pod.topologySpreadConstraints.map(({ labelSelector }, index) => [
        `topologySpreadConstraints ${index}`,
        labelSelector.matchLabels,
      ]),
    ),
  };
  for (const [kind, wanted] of Object.entries(selectors)) {
    check(selects(wanted, own), `${kind} does not select the pods`);
    check(!selects(wanted, migrationLabels), `${kind} selects the migration`);
  }
  check(
    selects(scrape.spec.selector.matchLabels, serving.metadata.labels),
    'ServiceMonitor does not select the Service',
  );
  for (const { targetPort } of serving.spec.ports)
    check(ports.has(targetPort), `Service leads to ${targetPort}`);
  const servicePorts = serving.spec.ports.map(({ name }) => name);
  for (const { port } of scrape.spec.endpoints)
    check(servicePorts.includes(port), `ServiceMonitor asks ${port}`);

  // Each port is for one namespace.
  const { ingress } = policy.spec;
  const allowed = ingress.flatMap(({ from: [{ namespaceSelector }], ports: [...open] }) =>
    open.map(({ port }) => [port, namespaceSelector.matchLabels['kubernetes.io/metadata.name']] as const),
  );
  check(
    isDeepStrictEqual(allowed.map(([port]) => port).sort(), [...ports.keys()].sort()),
    'NetworkPolicy does not let in http and metrics, each once',
  );
  check(new Set(allowed.map(([, namespace]) => namespace)).size === allowed.length, 'namespaces share ports');
  const outward = egressPorts(policy);
  const storagePort = settings.storage.driver === 's3' ? new URL(settings.storage.endpoint).port : '';
  const needed = ['UDP 53', 'TCP 53', 'TCP 5432', 'TCP 25060', 'TCP 6379', 'TCP 25061'];
  for (const port of [...needed, `TCP ${storagePort === '' ? 443 : storagePort}`])
    check(outward.includes(port), `NetworkPolicy does not let out ${port}`);

  const scaler = one(autoscaler, manifests, 'HorizontalPodAutoscaler').spec;
  check(
    isDeepStrictEqual(scaler.scaleTargetRef, {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      name: metadata.name,
    }),
    'HorizontalPodAutoscaler does not scale the Deployment',
  );
  check(scaler.maxReplicas >= scaler.minReplicas, 'maxReplicas is under minReplicas');
}

function checkMigration({ service: other, migration }: DeploymentFiles, check: Check): void {
  const { manifests, secretKeys } = migration;
  const { images, namespace } = checkKustomization(migration, check);
  const serving = kustomization.parse(other.kustomization);
  check(isDeepStrictEqual(images, serving.images), 'the migration has another image than the service');
  check(namespace === serving.namespace, 'the migration has another namespace than the service');
  const { template } = one(job, manifests, 'Job').spec;
  const [main] = template.spec.containers;
  checkRestricted(manifests, 'Job', check);
  checkCommand(main.command, check);
  check(
    isDeepStrictEqual(main.envFrom, [{ secretRef: { name: 'chat-images-migration' } }]),
    'the Job does not read its Secret alone',
  );
  loadDatabaseSettings(secretsOf(secretKeys, check));
  const policy = one(networkPolicy, manifests, 'NetworkPolicy');
  check(
    selects(policy.spec.podSelector.matchLabels, template.metadata.labels),
    'no policy for the migration',
  );
  const outward = egressPorts(one(networkPolicy, other.manifests, 'NetworkPolicy'));
  for (const port of egressPorts(policy))
    check(outward.includes(port), `the migration is let out to ${port}, the service is not`);
  for (const port of ['UDP 53', 'TCP 53', 'TCP 5432', 'TCP 25060'])
    check(egressPorts(policy).includes(port), `the migration is not let out to ${port}`);
}

function checkAppPlatform({ app }: DeploymentFiles, check: Check): void {
  const { envs, services, jobs, ingress } = appSpecSchema.parse(app);
  const [main] = services;
  check(services.length === 1 && main !== undefined, 'there is not one service');
  if (!main) return;
  const settings = settingsOf(plainValues(envs, check), secretNames(main.envs, check), check);
  check(main.http_port === settings.port, 'http_port is not PORT');
  check(
    isDeepStrictEqual(main.internal_ports, settings.metrics && [settings.metrics.port]),
    'internal_ports is not METRICS_PORT',
  );
  check(settings.metrics?.host === '0.0.0.0', 'METRICS_HOST is not reached from other components');
  check(main.instance_count >= 3, 'there are fewer than three instances');
  const { health_check: ready, termination } = main;
  check(ready.timeout_seconds > READINESS_CHECK_SECONDS, 'readiness is given up before the service answers');
  check(
    ready.period_seconds * ready.failure_threshold * 1000 <= settings.shutdownDelayMs,
    'readiness is not false within SHUTDOWN_DELAY_MS',
  );
  check(
    termination.grace_period_seconds > stopSeconds(settings),
    'grace_period_seconds is not longer than SHUTDOWN_DELAY_MS and SHUTDOWN_TIMEOUT_MS together',
  );
  const size = Number(/-([\d.]+)gb/.exec(main.instance_size_slug)?.[1]) * 1024;
  check(size >= neededMebibytes(settings), 'the instance has too little memory');

  const [migration] = jobs;
  check(jobs.length === 1 && migration?.kind === 'PRE_DEPLOY', 'there is not one job before the deployment');
  if (migration) {
    checkCommand(migration.run_command.split(' '), check);
    check(isDeepStrictEqual(migration.image, main.image), 'the migration has another image than the service');
    loadDatabaseSettings({
      ...plainValues(envs, check),
      ...secretsOf(secretNames(migration.envs, check), check),
    });
  }
  check(
    isDeepStrictEqual(
      ingress.rules.map(({ component, match }) => [component, match.path.prefix]),
      [[{ name: main.name, preserve_path_prefix: true }, '/']],
    ),
    'the service does not get all paths as they are',
  );
}

/** The files that are listed are there, and no others; the image of each container is the one that is replaced. */
function checkKustomization(
  { kustomization: own, files, manifests }: Folder,
  check: Check,
): z.output<typeof kustomization> {
  const listed = kustomization.parse(own);
  check(
    isDeepStrictEqual([...listed.resources].sort(), [...files].sort()),
    'kustomization.yaml does not list each file',
  );
  for (const { kind, metadata } of manifests) {
    if (kind === 'Namespace')
      check(
        metadata.name === listed.namespace &&
          metadata.labels['pod-security.kubernetes.io/enforce'] === 'restricted',
        'the namespace is another one',
      );
  }
  const images = manifests
    .filter(({ kind }) => ['Deployment', 'Job'].includes(kind))
    .flatMap((workload) => {
      const pod = z
        .looseObject({ template: z.looseObject({ spec: z.looseObject({}) }) })
        .parse(workload.spec);
      return z.array(z.object({ image: z.string() })).parse(pod.template.spec.containers);
    });
  for (const { image } of images)
    check(image === listed.images[0].name, `kustomization.yaml does not replace the image ${image}`);
  return listed;
}

function checkRestricted(manifests: readonly Manifest[], kind: string, check: Check): void {
  const schema = z.object({ spec: z.object({ template: z.object({ spec: restrictedPod }) }) });
  const { error } = schema.safeParse(manifests.find((each) => each.kind === kind));
  check(error === undefined, `${kind}: ${error ? z.prettifyError(error) : ''}`);
}

function checkCommand(command: readonly string[], check: Check): void {
  check(isDeepStrictEqual(command, MIGRATE), 'the migration has another command');
  check(existsSync(command[1] ?? ''), `${command[1] ?? ''} is not there`);
}

/** The settings by plain and secret variables. Each is a variable of the service, and stands in the place for its kind. */
function settingsOf(
  plain: Readonly<Record<string, string>>,
  secretKeys: readonly string[],
  check: Check,
): Settings {
  for (const key of [...Object.keys(plain), ...secretKeys])
    check(Object.hasOwn(environmentSchema.shape, key), `${key} is no setting`);
  for (const key of Object.keys(plain)) check(!Object.hasOwn(SECRETS, key), `${key} is a secret`);
  return loadSettings({ NODE_ENV: 'production', ...plain, ...secretsOf(secretKeys, check) });
}

function secretsOf(keys: readonly string[], check: Check): Record<string, string> {
  for (const key of keys) check(Object.hasOwn(SECRETS, key), `${key} is no secret`);
  return Object.fromEntries(keys.map((key) => [key, SECRETS[key] ?? '']));
}

type Variables = AppSpec['envs'];

function plainValues(variables: Variables, check: Check): Record<string, string> {
  for (const { key, type, value } of variables)
    check(
      type === 'GENERAL' && value !== undefined,
      `${key} is a secret for all components, or has no value`,
    );
  return Object.fromEntries(variables.map(({ key, value = '' }) => [key, value]));
}

function secretNames(variables: Variables, check: Check): string[] {
  for (const { key, type, value } of variables)
    check(type === 'SECRET' && value === undefined, `${key} is not secret, or has a value`);
  return variables.map(({ key }) => key);
}

function one<S extends z.ZodType>(schema: S, manifests: readonly Manifest[], kind: string): z.output<S> {
  return schema.parse(manifests.find((each) => each.kind === kind));
}

function selects(wanted: Readonly<Record<string, string>>, own: Readonly<Record<string, string>>): boolean {
  return (
    Object.keys(wanted).length > 0 && Object.entries(wanted).every(([name, value]) => own[name] === value)
  );
}

function egressPorts({ spec }: z.output<typeof networkPolicy>): string[] {
  return spec.egress.flatMap(({ ports }) => ports).map(({ protocol, port }) => `${protocol} ${port}`);
}

function stopSeconds({ shutdownDelayMs, shutdownTimeoutMs }: Settings): number {
  return (shutdownDelayMs + shutdownTimeoutMs) / 1000;
}

function neededMebibytes({ uploads }: Settings): number {
  return uploads.memoryBytes / 1024 ** 2 + SERVICE_MIB + PICTURES_MIB + DECODER_MIB * uploads.decodeProcesses;
}

function mebibytes(text: string): number {
  return parseInt(text) * (text.endsWith('Gi') ? 1024 : 1);
}
