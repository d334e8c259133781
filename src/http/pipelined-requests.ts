import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** How many requests of one connection are worked at before the first of them is answered. Browsers and proxies send one. */
export const MAX_UNANSWERED = 16;

/**
 * Works at most at {@link MAX_UNANSWERED} requests of one connection at a time. A client that sends more without waiting for
 * answers is not read until they are answered. What Node had read by then, 64 KiB at most, waits. None is lost,
 * and the answers keep their order.
 */
export function boundUnanswered(listener: RequestListener): RequestListener {
  const pipelines = new WeakMap<Socket, Pipeline>();
  return (request, response) => {
    // Node gives the socket to the first unanswered one, which is the only one of nearly all connections.
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

/** The requests of a connection that came before the answers to others. */
class Pipeline {
  private readonly begun = new Set<ServerResponse>();
  private readonly waiting: Exchange[] = [];

  constructor(
    private readonly socket: Socket,
    private readonly listener: RequestListener,
  ) {
    // Node reads on of its own accord whenever a request is complete or its body is asked for.
    socket.on('resume', () => {
      if (this.waiting.length > 0) socket.pause();
    });
    socket.once('close', () => this.end());
  }

  take(...exchange: Exchange): void {
    // The one before them all counts as well.
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

  /** Node tells only the first of several unanswered requests that the client has gone: its response alone has the socket. */
  private end(): void {
    this.waiting.length = 0;
    for (const response of this.begun)
      if (!response.socket && !response.writableFinished) response.emit('close');
  }
}
