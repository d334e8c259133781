import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** The most requests of one connection at work at the same time (HTTP pipelining). Browsers and proxies send one. */
export const MAX_UNANSWERED = 16;

/**
 * Limits pipelining to {@link MAX_UNANSWERED} requests of one connection. The socket of a client that sends more is not read
 * until responses have left. Requests that Node has read by then, 64 KiB at most, wait. No request is lost, and the responses
 * keep their order.
 */
export function boundUnanswered(listener: RequestListener): RequestListener {
  const pipelines = new WeakMap<Socket, Pipeline>();
  return (request, response) => {
    // Node gives the socket to the response of the first open request. Nearly all connections have only that one.
    if (response.socket) {
      listener(request, response);
      return;
    }
    const { socket } = request;
    let pipeline = pipelines.get(socket);
    if (!pipeline) {
      pipeline = new Pipeline(socket, listener);
      pipelines.set(socket, pipeline);
    }
    pipeline.take(request, response);
  };
}

type Exchange = readonly [request: IncomingMessage, response: ServerResponse & { req: IncomingMessage }];

/** The pipelined requests of a connection: each came before the response to an earlier request. */
class Pipeline {
  private readonly begun = new Set<ServerResponse>();
  private readonly waiting: Exchange[] = [];

  constructor(
    private readonly socket: Socket,
    private readonly listener: RequestListener,
  ) {
    // Node resumes the socket when a request is complete, and when a body is read.
    socket.on('resume', () => {
      if (this.waiting.length > 0) socket.pause();
    });
    socket.once('close', () => this.end());
  }

  take(...exchange: Exchange): void {
    // The request that has the socket counts too.
    if (this.begun.size < MAX_UNANSWERED - 1) {
      this.begin(exchange);
      return;
    }
    this.waiting.push(exchange);
    this.socket.pause();
  }

  private begin([request, response]: Exchange): void {
    this.begun.add(response);
    response.once('close', () => {
      this.begun.delete(response);
      this.goOn();
    });
    this.listener(request, response);
  }

  private goOn(): void {
    const next = this.waiting.shift();
    if (!next || this.socket.destroyed) return;
    this.begin(next);
    if (this.waiting.length === 0) this.socket.resume();
  }

  /** When the client goes, Node emits `close` on the response that has the socket only. The others get it here. */
  private end(): void {
    this.waiting.length = 0;
    for (const response of this.begun)
      if (!response.socket && !response.writableFinished) response.emit('close');
  }
}
