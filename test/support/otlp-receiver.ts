import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { eventually } from './eventually.js';

type Values = Readonly<Record<string, string | number>>;

/** A span as a collector gets it. */
export type ReceivedSpan = {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string | undefined;
  /** 1 is internal, 2 is a server's. */
  readonly kind: number;
  /** 2 is an error. */
  readonly status: number;
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Values;
  readonly resource: Values;
};

type Attributes = readonly {
  readonly key: string;
  readonly value: { readonly stringValue?: string; readonly intValue?: number };
}[];

/** The body of an export: ExportTraceServiceRequest of OTLP 1 as JSON. */
type Export = {
  readonly resourceSpans: readonly {
    readonly resource: { readonly attributes: Attributes };
    readonly scopeSpans: readonly {
      readonly spans: readonly {
        readonly name: string;
        readonly traceId: string;
        readonly spanId: string;
        readonly parentSpanId?: string;
        readonly kind: number;
        readonly status: { readonly code: number };
        readonly startTimeUnixNano: string;
        readonly endTimeUnixNano: string;
        readonly attributes: Attributes;
      }[];
    }[];
  }[];
};

/** An OpenTelemetry collector, as far as spans need one: OTLP, as JSON over HTTP. */
export class OtlpReceiver {
  readonly spans: ReceivedSpan[] = [];
  /** The bodies of all requests. */
  readonly bodies: string[] = [];
  /** Answers instead of the receiver, which then takes nothing. */
  refuse: ((response: ServerResponse) => void) | undefined;
  private readonly server: Server;

  private constructor() {
    this.server = createServer((request, response) => {
      void text(request).then((body) => {
        this.bodies.push(body);
        if (this.refuse) {
          this.refuse(response);
          return;
        }
        const isExport = request.method === 'POST' && request.url === '/v1/traces';
        if (isExport) this.spans.push(...spansOf(JSON.parse(body) as Export));
        response.writeHead(isExport ? 200 : 404, { 'content-type': 'application/json' }).end('{}');
      });
    });
  }

  static async start(): Promise<OtlpReceiver> {
    const receiver = new OtlpReceiver();
    receiver.server.listen(0, '127.0.0.1');
    await once(receiver.server, 'listening');
    return receiver;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** The spans of a trace. Waits for the span of the request, which ends last. */
  async trace(traceId: string): Promise<readonly ReceivedSpan[]> {
    return eventually(() => {
      const spans = this.spans.filter((span) => span.traceId === traceId);
      return spans.some(({ kind }) => kind === 2) && spans;
    }, `the trace ${traceId}`);
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }
}

function spansOf({ resourceSpans }: Export): ReceivedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap(({ spans }) =>
      spans.map((span) => ({
        name: span.name,
        traceId: span.traceId,
        spanId: span.spanId,
        parentSpanId: span.parentSpanId,
        kind: span.kind,
        status: span.status.code,
        startMs: Number(span.startTimeUnixNano) / 1e6,
        endMs: Number(span.endTimeUnixNano) / 1e6,
        attributes: valuesOf(span.attributes),
        resource: valuesOf(resource.attributes),
      })),
    ),
  );
}

const valuesOf = (attributes: Attributes): Values =>
  Object.fromEntries(
    attributes.map(({ key, value }) => [key, value.stringValue ?? Number(value.intValue)] as const),
  );
