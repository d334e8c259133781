import {
  type Attributes,
  context,
  type Context,
  createTraceState,
  isSpanContextValid,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
  TraceFlags,
} from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import type { IncomingHttpHeaders } from 'node:http';
import { AppError } from '../errors/app-error.js';

/*
 * The traces of requests. A request has a trace where its `traceparent` names one, and where the SDK of OpenTelemetry is on
 * (src/tracing.ts). Without the SDK a span is not recorded: it only carries the ids that came in. A request without a trace
 * costs nothing more than one look: no context is kept for it.
 */

/** The trace of a request, and the span in it. */
export type RequestTrace = Context;

/** The stages of a request that have a span of their own. `decide` is the guard's decision. */
type Stage = 'decide' | 'receive' | 'claim' | 'decode' | 'clean' | 'put' | 'commit';

/** Attributes of this service. None holds an id, a name, an address or a token. */
export const BYTES = 'chat_images.bytes';
export const FORMAT = 'chat_images.format';
const ERROR_CODE = 'chat_images.error_code';

/** `traceparent`, in lower case. A version after 00 may have more parts; the version ff is forbidden. */
const TRACEPARENT = /^(?:00(?=.{53}$)|(?!00|ff)[\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(?:-.*)?$/;

/** The methods that OpenTelemetry names. Clients can send many more. */
const METHOD = /^(CONNECT|DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT|TRACE)$/;

// An SDK that was loaded before has set its own. The second is refused then.
context.setGlobalContextManager(new AsyncLocalStorageContextManager());
const tracer = trace.getTracer('chat-image-store');

let sendSpans = (): Promise<void> => Promise.resolve();

/** Says how the spans that wait are sent, before the process ends. */
export function sendSpansBy(send: () => Promise<void>): void {
  sendSpans = send;
}

/** Sends the spans that wait. Never rejects: nobody waits for spans that can't be sent. */
export function flushSpans(): Promise<void> {
  return sendSpans().catch(() => undefined);
}

/**
 * Begins the span of a request.
 *
 * @returns `undefined` where the request has no trace
 * @see https://www.w3.org/TR/trace-context/
 */
export function beginRequest(method: string, headers: IncomingHttpHeaders): RequestTrace | undefined {
  const parent = traceOf(headers);
  const known = METHOD.test(method);
  const attributes = { 'http.request.method': known ? method : '_OTHER' };
  const span = tracer.startSpan(known ? method : 'HTTP', { kind: SpanKind.SERVER, attributes }, parent);
  return isSpanContextValid(span.spanContext()) ? trace.setSpan(parent, span) : undefined;
}

/** Goes on with a request within its trace, or without one: the caller may be within the trace of another request. */
export function goOn(
  requestTrace: RequestTrace | undefined,
  next: (error?: unknown) => void,
  error: unknown,
): void {
  if (requestTrace || isTraced()) context.with(requestTrace ?? ROOT_CONTEXT, next, undefined, error);
  else next(error);
}

/**
 * Ends the span of a request, with the name and the attributes of OpenTelemetry's conventions for servers. The path is left
 * out: it names images.
 *
 * @param route the pattern of the path, where there is one
 */
export function endRequest(
  requestTrace: RequestTrace,
  {
    method,
    route,
    status,
    errorCode,
  }: {
    readonly method: string;
    readonly route: string | undefined;
    readonly status: number;
    readonly errorCode: string | undefined;
  },
): void {
  const span = trace.getSpan(requestTrace);
  if (!span?.isRecording()) return;
  if (route !== undefined) {
    span.updateName(`${METHOD.test(method) ? method : 'HTTP'} ${route}`);
    span.setAttribute('http.route', route);
  }
  span.setAttribute('http.response.status_code', status);
  if (errorCode !== undefined) span.setAttribute(ERROR_CODE, errorCode);
  if (status >= 500) failSpan(span, errorCode ?? String(status));
  span.end();
}

/** Whether the caller works for a request that has a trace. */
export function isTraced(): boolean {
  return context.active() !== ROOT_CONTEXT;
}

/** Runs work in a span of the request's trace; where there is no trace, just runs it. */
export function inSpan<T>(
  stage: Stage,
  work: (span?: Span) => Promise<T>,
  attributes?: Attributes,
): Promise<T> {
  return isTraced() ? runInSpan(stage, work, attributes) : work();
}

async function runInSpan<T>(
  stage: Stage,
  work: (span: Span) => Promise<T>,
  attributes: Attributes = {},
): Promise<T> {
  const span = tracer.startSpan(stage, { attributes });
  try {
    return await context.with(trace.setSpan(context.active(), span), work, undefined, span);
  } catch (error) {
    // A refusal is no failure.
    if (error instanceof AppError) span.setAttribute(ERROR_CODE, error.code);
    if (!(error instanceof AppError)) failSpan(span, error instanceof Error ? error.name : 'unknown');
    else if (error.status >= 500) failSpan(span, error.code);
    throw error;
  } finally {
    span.end();
  }
}

/** Adds the span of work that has been done elsewhere. @param startedAt by `Date.now()` */
export function addSpan(stage: Stage, startedAt: number, ms: number): void {
  if (isTraced()) tracer.startSpan(stage, { startTime: startedAt }).end(startedAt + ms);
}

/** Keeps the trace of the caller for a callback that is called from elsewhere, such as by an event of a socket. */
export function keepTrace<T extends (...given: never[]) => unknown>(callback: T): T {
  return isTraced() ? context.bind(context.active(), callback) : callback;
}

/** Runs work that is of no single request, where the caller may be within the trace of one. */
export function outsideTraces(work: () => void): void {
  if (isTraced()) context.with(ROOT_CONTEXT, work);
  else work();
}

/** The trace's id, for log lines. @param of by default, the trace of the caller */
export function traceIdOf(of: RequestTrace | undefined = context.active()): string | undefined {
  return trace.getSpanContext(of)?.traceId;
}

/** The headers that pass the trace on to another service; none where there is no trace. */
export function traceHeaders(): Readonly<Record<string, string>> {
  const span = trace.getSpanContext(context.active());
  if (!span) return {};
  const { traceId, spanId, traceFlags, traceState } = span;
  const tracestate = traceState?.serialize() ?? '';
  const traceparent = `00-${traceId}-${spanId}-${traceFlags & TraceFlags.SAMPLED ? '01' : '00'}`;
  return tracestate === '' ? { traceparent } : { traceparent, tracestate };
}

/** The trace that a request's headers name. A `traceparent` that is malformed, or sent twice, is ignored. */
function traceOf({ traceparent, tracestate }: IncomingHttpHeaders): Context {
  if (typeof traceparent !== 'string') return ROOT_CONTEXT;
  const [, traceId = '', spanId = '', flags = ''] = TRACEPARENT.exec(traceparent) ?? [];
  const parent = {
    traceId,
    spanId,
    traceFlags: parseInt(flags, 16) & TraceFlags.SAMPLED,
    isRemote: true,
    ...(typeof tracestate === 'string' ? { traceState: createTraceState(tracestate) } : {}),
  };
  return isSpanContextValid(parent) ? trace.setSpanContext(ROOT_CONTEXT, parent) : ROOT_CONTEXT;
}

/** @param type the error's code or name: messages may hold values */
function failSpan(span: Span, type: string): void {
  span.setStatus({ code: SpanStatusCode.ERROR }).setAttribute('error.type', type);
}
