import { z } from 'zod';

/*
 * The fields of App Platform's app spec that deploy/app-platform.yaml uses, by the provider's reference
 * (https://docs.digitalocean.com/products/app-platform/reference/app-spec/) and its OpenAPI document, as of November 2026.
 * An unknown field is an error. No package that runs on Node 20 has this schema, so it is written by hand.
 */

const name = z.string().regex(/^[a-z][a-z0-9-]{0,30}[a-z0-9]$/);

const image = z
  .strictObject({
    registry_type: z.enum(['DOCR', 'DOCKER_HUB', 'GHCR']),
    registry: z.string().optional(),
    repository: z.string().min(1),
    tag: z.string().optional(),
    digest: z
      .string()
      .regex(/^sha256:[0-9a-f]{64}$/)
      .optional(),
  })
  .refine(({ tag, digest }) => (tag === undefined) !== (digest === undefined), 'needs a tag or a digest')
  .refine(
    ({ registry_type, registry }) => (registry_type === 'DOCR') === (registry === undefined),
    'a registry must be named unless it is DOCR',
  );

const variable = z.strictObject({
  key: z.string().regex(/^[_A-Za-z][_A-Za-z0-9]*$/),
  value: z.string().optional(),
  scope: z.enum(['RUN_TIME', 'BUILD_TIME', 'RUN_AND_BUILD_TIME']),
  type: z.enum(['GENERAL', 'SECRET']).default('GENERAL'),
});

const instanceSize = z.enum([
  'apps-s-1vcpu-0.5gb',
  'apps-s-1vcpu-1gb-fixed',
  'apps-s-1vcpu-1gb',
  'apps-s-1vcpu-2gb',
  'apps-s-2vcpu-4gb',
  'apps-d-1vcpu-0.5gb',
  'apps-d-1vcpu-1gb',
  'apps-d-1vcpu-2gb',
  'apps-d-1vcpu-4gb',
  'apps-d-2vcpu-4gb',
  'apps-d-2vcpu-8gb',
  'apps-d-4vcpu-8gb',
  'apps-d-4vcpu-16gb',
  'apps-d-8vcpu-32gb',
]);

const port = z.int().min(1).max(65_535);

const healthCheck = z.strictObject({
  http_path: z.string().startsWith('/'),
  port: port.optional(),
  initial_delay_seconds: z.int().min(0),
  period_seconds: z.int().min(1),
  timeout_seconds: z.int().min(1),
  success_threshold: z.int().min(1),
  failure_threshold: z.int().min(1),
});

const gracePeriod = z.int().min(1);

export const appSpecSchema = z.strictObject({
  name,
  region: z.enum(['ams', 'atl', 'blr', 'fra', 'lon', 'nyc', 'sfo', 'sgp', 'syd', 'tor']),
  disable_edge_cache: z.boolean().optional(),
  alerts: z.array(
    z.strictObject({ rule: z.enum(['DEPLOYMENT_FAILED', 'DEPLOYMENT_LIVE', 'DOMAIN_FAILED']) }),
  ),
  envs: z.array(variable),
  services: z.array(
    z.strictObject({
      name,
      image,
      http_port: port,
      internal_ports: z.array(port).optional(),
      instance_count: z.int().min(1),
      instance_size_slug: instanceSize,
      run_command: z.string().optional(),
      health_check: healthCheck,
      liveness_health_check: healthCheck,
      termination: z.strictObject({
        drain_seconds: z.int().min(1).max(110),
        grace_period_seconds: gracePeriod,
      }),
      envs: z.array(variable),
    }),
  ),
  jobs: z.array(
    z.strictObject({
      name,
      kind: z.enum(['PRE_DEPLOY', 'POST_DEPLOY', 'FAILED_DEPLOY']),
      image,
      instance_size_slug: instanceSize,
      run_command: z.string(),
      termination: z.strictObject({ grace_period_seconds: gracePeriod }).optional(),
      envs: z.array(variable),
    }),
  ),
  ingress: z.strictObject({
    rules: z.array(
      z.strictObject({
        component: z.strictObject({ name, preserve_path_prefix: z.boolean().optional() }),
        match: z.strictObject({ path: z.strictObject({ prefix: z.string().startsWith('/') }) }),
      }),
    ),
  }),
});

export type AppSpec = z.output<typeof appSpecSchema>;
