import type { PrometheusMetrics } from './prometheus-metrics.js';

/** DI token of the process's {@link Metrics}. */
export const METRICS = Symbol('Metrics');

/** The metrics of the process. `undefined` without METRICS_PORT: then nothing is counted, and the library is not loaded. */
export type Metrics = PrometheusMetrics | undefined;
