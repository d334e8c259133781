import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { freePort } from '../../src/dev/embedded-postgres.js';
import {
  type DeploymentFiles,
  deploymentProblems,
  type Manifest,
  readDeploymentFiles,
  requestedPaths,
} from '../support/deployment-files.js';
import { TestApp } from '../support/test-app.js';

/** Sets or, with undefined, removes the field at a path such as `spec.template.spec`. */
function set(root: unknown, path: string, value: unknown): void {
  const names = path.split('.');
  const last = names.pop() ?? '';
  const parent = names.reduce<unknown>((object, name) => (object as Record<string, unknown>)[name], root);
  if (typeof parent !== 'object' || parent === null || (value === undefined && !(last in parent)))
    throw new Error(`There is no ${path}.`);
  if (value === undefined && Array.isArray(parent)) parent.splice(Number(last), 1);
  else if (value === undefined) Reflect.deleteProperty(parent, last);
  else Object.assign(parent, { [last]: value });
}

function named(manifests: readonly Manifest[], kind: string): Manifest {
  const found = manifests.find((each) => each.kind === kind);
  if (!found) throw new Error(`There is no ${kind}.`);
  return found;
}

const POD = 'spec.template.spec';
const CONTAINER = `${POD}.containers.0`;

/** Mistakes in a manifest: its kind, the field, the wrong value, and the problem that must be found. */
const KUBERNETES_MISTAKES: readonly (readonly [
  kind: string,
  path: string,
  value: unknown,
  problem: string,
])[] = [
  ['Deployment', 'sepc', {}, '/sepc is unknown'],
  ['Deployment', `${POD}.terminationGracePeriodSecond`, 35, 'terminationGracePeriodSecond is unknown'],
  ['Deployment', `${CONTAINER}.readinessprobe`, {}, 'readinessprobe is unknown'],
  ['Deployment', 'spec.selector', undefined, 'selector'],
  ['Deployment', 'spec.revisionHistoryLimit', 'five', 'revisionHistoryLimit'],
  ['Deployment', 'apiVersion', 'extensions/v1beta1', 'has no schema here'],
  ['Deployment', 'spec.replicas', 3, 'HorizontalPodAutoscaler’s'],
  ['Deployment', 'spec.strategy.rollingUpdate.maxUnavailable', 1, 'maxUnavailable'],
  ['Deployment', 'spec.selector.matchLabels', { 'app.kubernetes.io/name': 'other' }, 'Deployment does not'],
  [
    'Deployment',
    'spec.selector.matchLabels',
    { 'app.kubernetes.io/name': 'chat-images' },
    'selects the migration',
  ],
  ['Deployment', `${POD}.terminationGracePeriodSeconds`, 30, 'is not longer than SHUTDOWN_DELAY_MS'],
  ['Deployment', `${POD}.automountServiceAccountToken`, true, 'automountServiceAccountToken'],
  ['Deployment', `${POD}.securityContext.runAsUser`, undefined, 'runAsUser'],
  ['Deployment', `${POD}.securityContext.runAsNonRoot`, false, 'runAsNonRoot'],
  ['Deployment', `${POD}.securityContext.seccompProfile.type`, 'Unconfined', 'seccompProfile'],
  ['Deployment', `${POD}.topologySpreadConstraints.1.labelSelector.matchLabels`, { a: 'b' }, 'Constraints 1'],
  ['Deployment', `${POD}.volumes.0.emptyDir.sizeLimit`, '16Mi', '/dev/shm is too small'],
  ['Deployment', `${CONTAINER}.image`, 'chat-images', 'does not replace the image'],
  ['Deployment', `${CONTAINER}.envFrom`, [{ secretRef: { name: 'chat-images' } }], 'does not read'],
  ['Deployment', `${CONTAINER}.securityContext.readOnlyRootFilesystem`, false, 'readOnlyRootFilesystem'],
  ['Deployment', `${CONTAINER}.securityContext.capabilities`, { drop: ['NET_RAW'] }, 'capabilities'],
  ['Deployment', `${CONTAINER}.securityContext.capabilities.add`, ['SYS_ADMIN'], 'capabilities'],
  ['Deployment', `${CONTAINER}.ports.0.containerPort`, 8080, 'http is not PORT'],
  ['Deployment', `${CONTAINER}.ports.1.containerPort`, 9090, 'metrics is not METRICS_PORT'],
  ['Deployment', `${CONTAINER}.livenessProbe.httpGet.port`, 'metrics', 'a probe asks metrics'],
  ['Deployment', `${CONTAINER}.readinessProbe.failureThreshold`, 3, 'not false within SHUTDOWN_DELAY_MS'],
  ['Deployment', `${CONTAINER}.readinessProbe.timeoutSeconds`, 1, 'given up before'],
  ['Deployment', `${CONTAINER}.startupProbe.failureThreshold`, 3, 'less than 30 seconds'],
  ['Deployment', `${CONTAINER}.resources.limits.memory`, '768Mi', 'limit is too small'],
  ['Deployment', `${CONTAINER}.resources.requests.memory`, '2Gi', 'over the limit'],
  ['ConfigMap', 'data.SHUTDOWN_TIMEOUT', '1', 'SHUTDOWN_TIMEOUT is no setting'],
  ['ConfigMap', 'data.JWT_SECRET', 'x'.repeat(40), 'JWT_SECRET is a secret'],
  ['ConfigMap', 'data.APP_URL', undefined, 'APP_URL is missing'],
  ['ConfigMap', 'data.TRUST_PROXY', 'all', 'TRUST_PROXY must be'],
  ['ConfigMap', 'data.PORT', '8080', 'http is not PORT'],
  ['ConfigMap', 'data.METRICS_HOST', '127.0.0.1', 'METRICS_HOST is not reached'],
  ['ConfigMap', 'data.SHUTDOWN_TIMEOUT_MS', '60000', 'is not longer than SHUTDOWN_DELAY_MS'],
  ['ConfigMap', 'data.UPLOAD_MEMORY_MIB', '512', 'limit is too small'],
  ['ConfigMap', 'data.DECODE_PROCESSES', '8', '/dev/shm is too small'],
  ['Service', 'spec.selector', { 'app.kubernetes.io/name': 'other' }, 'Service does not select'],
  ['Service', 'spec.selector', { 'app.kubernetes.io/name': 'chat-images' }, 'Service selects the migration'],
  ['Service', 'spec.ports.0.targetPort', 'https', 'Service leads to https'],
  ['PodDisruptionBudget', 'spec.selector.matchLabels', { a: 'b' }, 'PodDisruptionBudget does not select'],
  ['PodDisruptionBudget', 'spec.maxUnavailable', 3, 'maxUnavailable'],
  ['HorizontalPodAutoscaler', 'spec.scaleTargetRef.name', 'other', 'does not scale the Deployment'],
  ['HorizontalPodAutoscaler', 'spec.minReplicas', 1, 'minReplicas'],
  ['NetworkPolicy', 'spec.podSelector.matchLabels', { a: 'b' }, 'NetworkPolicy does not select'],
  ['NetworkPolicy', 'spec.ingress.0.ports.0.port', 'web', 'does not let in http'],
  [
    'NetworkPolicy',
    'spec.ingress.0.from.0.namespaceSelector.matchLabels',
    { 'kubernetes.io/metadata.name': 'monitoring' },
    'namespaces share ports',
  ],
  ['NetworkPolicy', 'spec.egress.0.ports.0.port', 54, 'does not let out UDP 53'],
  ['NetworkPolicy', 'spec.egress.2', undefined, 'does not let out TCP 443'],
  ['ServiceMonitor', 'spec.endpoints.0.port', 'http-metrics', 'ServiceMonitor asks http-metrics'],
  ['ServiceMonitor', 'spec.endpoints.0.intervall', '30s', 'intervall is unknown'],
  ['ServiceMonitor', 'spec.selector.matchLabels', { a: 'b' }, 'ServiceMonitor does not select'],
  ['Namespace', 'metadata.labels', {}, 'the namespace is another one'],
];

const MIGRATION_MISTAKES: typeof KUBERNETES_MISTAKES = [
  ['Job', 'spec.backofLimit', 1, 'backofLimit is unknown'],
  ['Job', `${CONTAINER}.command`, ['node', 'dist/migrate.js'], 'dist/migrate.js is not there'],
  ['Job', `${CONTAINER}.securityContext.allowPrivilegeEscalation`, true, 'allowPrivilegeEscalation'],
  ['Job', `${CONTAINER}.envFrom.0.secretRef.name`, 'chat-images', 'does not read its Secret'],
  ['NetworkPolicy', 'spec.podSelector.matchLabels', { a: 'b' }, 'no policy for the migration'],
  ['NetworkPolicy', 'spec.egress.1.ports.0.port', 3306, 'is let out to TCP 3306'],
];

const APP_MISTAKES: readonly (readonly [path: string, value: unknown, problem: string])[] = [
  ['services.0.termination.grace_period', 35, 'Unrecognized key'],
  ['services.0.termination.drain_seconds', 300, 'drain_seconds'],
  ['services.0.termination.grace_period_seconds', 30, 'is not longer than SHUTDOWN_DELAY_MS'],
  ['services.0.instance_size_slug', 'apps-d-3vcpu', 'instance_size_slug'],
  ['services.0.instance_size_slug', 'apps-s-1vcpu-0.5gb', 'too little memory'],
  ['services.0.instance_count', 1, 'fewer than three'],
  ['services.0.http_port', 8080, 'http_port is not PORT'],
  ['services.0.internal_ports', [9090], 'internal_ports is not METRICS_PORT'],
  ['services.0.image.digest', `sha256:${'0'.repeat(64)}`, 'needs a tag or a digest'],
  ['services.0.health_check.failure_threshold', 9, 'not false within SHUTDOWN_DELAY_MS'],
  ['services.0.health_check.timeout_seconds', 1, 'given up before'],
  ['services.0.envs.0.value', 'postgres://user:password@host/database', 'DATABASE_URL is not secret, or has'],
  ['services.0.envs.0.key', 'DATABASE', 'DATABASE is no setting'],
  ['services.0.envs.2', undefined, 'JWT_SECRET is missing'],
  ['envs.0.key', 'APP_ADDRESS', 'APP_ADDRESS is no setting'],
  ['envs.0.value', 'api.example.com', 'APP_URL must be'],
  ['envs.0.type', 'SECRET', 'APP_URL is a secret for all components'],
  ['jobs.0.kind', 'POST_DEPLOY', 'before the deployment'],
  ['jobs.0.run_command', 'npm run migrate', 'has another command'],
  ['jobs.0.image.tag', '0.0.9', 'another image'],
  ['jobs.0.envs.0.key', 'DATABASE_DIRECT_URL', 'DATABASE_DIRECT_URL is no secret'],
  ['ingress.rules.0.component.preserve_path_prefix', false, 'all paths as they are'],
];

describe('deploy/', () => {
  it('fits the schemas, the settings, and itself', () => {
    expect(deploymentProblems(readDeploymentFiles())).toEqual([]);
  });

  it.each(KUBERNETES_MISTAKES)('is found wrong with %s %s: %j', (kind, path, value, problem) => {
    const files = readDeploymentFiles();
    set(named(files.service.manifests, kind), path, value);
    expect(deploymentProblems(files).join('\n')).toContain(problem);
  });

  it.each(MIGRATION_MISTAKES)(
    'is found wrong with the migration’s %s %s: %j',
    (kind, path, value, problem) => {
      const files = readDeploymentFiles();
      set(named(files.migration.manifests, kind), path, value);
      expect(deploymentProblems(files).join('\n')).toContain(problem);
    },
  );

  it.each(APP_MISTAKES)('is found wrong with the app’s %s: %j', (path, value, problem) => {
    const files = readDeploymentFiles();
    set(files.app, path, value);
    expect(deploymentProblems(files).join('\n')).toContain(problem);
  });

  it.each<[string, (files: DeploymentFiles) => void, string]>([
    [
      'a file that is not listed',
      ({ service }) => service.files.push('role.yaml'),
      'does not list each file',
    ],
    [
      'another version of the migration',
      ({ migration }) => set(migration.kustomization, 'images.0.newTag', '0.0.9'),
      'another image than the service',
    ],
    [
      'an image that may change',
      ({ service }) => set(service.kustomization, 'images.0.newTag', 'latest'),
      'newTag',
    ],
    [
      'a secret that is missing',
      ({ service }) => service.secretKeys.splice(service.secretKeys.indexOf('JWT_SECRET'), 1),
      'JWT_SECRET is missing',
    ],
    [
      'a value in the example of a Secret',
      ({ service }) => service.secretKeys.push('REDIS_URL=redis://cache'),
      'REDIS_URL=redis://cache is no setting',
    ],
    [
      'no address for the migration',
      ({ migration }) => migration.secretKeys.splice(0, 1),
      'DATABASE_URL is missing',
    ],
  ])('is found wrong with %s', (_, change, problem) => {
    const files = readDeploymentFiles();
    change(files);
    expect(deploymentProblems(files).join('\n')).toContain(problem);
  });
});

describe('the service', () => {
  let test: TestApp;
  let metricsPort: number;

  beforeAll(async () => {
    metricsPort = await freePort();
    test = await TestApp.start({ METRICS_PORT: String(metricsPort) });
  });

  afterAll(() => test.stop());

  it('answers each probe and the ServiceMonitor', async () => {
    const { health, metrics } = requestedPaths(readDeploymentFiles());
    const urls = [
      ...health.map((path) => `http://127.0.0.1:${test.settings.port}${path}`),
      ...metrics.map((path) => `http://127.0.0.1:${metricsPort}${path}`),
    ];
    const answers = await Promise.all(urls.map(async (url) => [url, (await fetch(url)).status]));
    expect(answers).toEqual(urls.map((url) => [url, 200]));
    expect([...new Set(health)].sort()).toEqual(['/api/health', '/api/health/ready']);
  });
});
