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
  const connections = new WeakMap<Socket, Connection>();
  return (request, response) => {
    const { socket } = request;
    let connection = connections.get(socket);
    if (!connection) {
      connection = new Connection(socket, listener);
      connections.set(socket, connection);
    }
    connection.take(request, response);
  };
}

type Exchange = readonly [request: IncomingMessage, response: ServerResponse];

class Connection {
  private readonly unanswered = new Set<ServerResponse>();
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

  take(request: IncomingMessage, response: ServerResponse): void {
    if (this.unanswered.size < MAX_UNANSWERED) {
      this.begin(request, response);
      return;
    }
    this.waiting.push([request, response]);
    this.socket.pause();
  }

  private begin(request: IncomingMessage, response: ServerResponse): void {
    this.unanswered.add(response);
    response.once('close', () => {
      this.unanswered.delete(response);
      this.goOn();
    });
    this.listener(request, response);
  }

  private goOn(): void {
    const next = this.waiting.shift();
    if (!next || this.socket.destroyed) return;
    this.begin(...next);
    if (this.waiting.length === 0) this.socket.resume();
  }

  /** Node tells only the first of several unanswered requests that the client has gone: its response alone has the socket. */
  private end(): void {
    this.waiting.length = 0;
    for (const response of this.unanswered)
      if (!response.socket && !response.writableFinished) response.emit('close');
  }
}
