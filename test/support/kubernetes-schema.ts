import { ServiceMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor';
import { Deployment } from 'kubernetes-models/apps/v1/Deployment';
import { HorizontalPodAutoscaler } from 'kubernetes-models/autoscaling/v2/HorizontalPodAutoscaler';
import { Job } from 'kubernetes-models/batch/v1/Job';
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1/NetworkPolicy';
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1/PodDisruptionBudget';
import { ConfigMap } from 'kubernetes-models/v1/ConfigMap';
import { Namespace } from 'kubernetes-models/v1/Namespace';
import { Service } from 'kubernetes-models/v1/Service';

/** The kinds that `deploy/kubernetes` has. Each validates itself by the schema of Kubernetes, or of the operator. */
const MODELS = [
  ConfigMap,
  Deployment,
  HorizontalPodAutoscaler,
  Job,
  Namespace,
  NetworkPolicy,
  PodDisruptionBudget,
  Service,
  ServiceMonitor,
];

/** What the schema of its kind finds wrong with a manifest: values of a wrong form, missing fields, unknown fields. */
export function kubernetesProblems(manifest: {
  readonly apiVersion: string;
  readonly kind: string;
}): string[] {
  const { apiVersion, kind } = manifest;
  const model = MODELS.find((known) => known.apiVersion === apiVersion && known.kind === kind);
  if (!model) return [`${apiVersion} ${kind} has no schema here`];
  // The schemas allow every field, as Kubernetes itself only warns of unknown ones. But the validation reads each field that
  // its schema names.
  const read = new Set<string>();
  const problems: string[] = [];
  try {
    model.prototype.validate.call(followed(manifest, '', read));
  } catch (error) {
    problems.push(`${kind}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const unknown = fieldsOf(manifest).filter((field) => !read.has(field));
  return [...problems, ...unknown.map((field) => `${kind}: ${field} is unknown`)];
}

/** The same value; the path of each field that is read from it is added to `read`. */
function followed<T>(value: T, path: string, read: Set<string>): T {
  if (typeof value !== 'object' || value === null) return value;
  return new Proxy(value, {
    get(target, key, receiver): unknown {
      const field: unknown = Reflect.get(target, key, receiver);
      if (typeof key !== 'string' || !Object.hasOwn(target, key)) return field;
      read.add(`${path}/${key}`);
      return followed(field, `${path}/${key}`, read);
    },
  });
}

function fieldsOf(value: unknown, path = ''): string[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, field]) => {
    const own = `${path}/${key}`;
    return [own, ...fieldsOf(field, own)];
  });
}
