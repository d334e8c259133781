import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout } from 'node:timers/promises';

/** A fault that a {@link CuttingProxy} makes on its connections. */
export type Fault = {
  readonly how:
    /** Cuts open connections, and each new connection at once. */
    | 'refuse'
    /** Cuts before a byte of the request is forwarded. */
    | 'cut before'
    /** Cuts when `bytes` of the request have been forwarded. */
    | 'cut within'
    /** Forwards the request, and cuts before a byte of the response is forwarded. */
    | 'cut after'
    /** Forwards the request, and its response after `ms`. */
    | 'delay answers'
    /** Forwards nothing, and answers like a broken HTTP server. */
    | 'answer 500'
    /** Forwards nothing until the fault ends. */
    | 'hold'
    /** Forwards the request, but no response until the fault ends. */
    | 'hold answers';
  /** The text that starts the fault when a client sends it. Without it, the next byte does. */
  readonly at?: string;
  readonly bytes?: number;
  readonly ms?: number;
};

const HOST = '127.0.0.1';

const ANSWER_500 = 'HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n';

/** An interim response, which says only that the client may send its body. */
const INTERIM_ANSWER = 'HTTP/1.1 100';

/** A fault and its end. */
type Phase = { readonly fault: Fault | undefined; readonly over: Promise<void>; readonly end: () => void };

/**
 * A TCP proxy in front of a backend, with network faults on demand. It changes no byte, so that signatures
 * stay valid.
 */
export class CuttingProxy {
  /** The number of connections that the current fault has hit. */
  hits = 0;
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  private readonly connections = new Set<Connection>();
  private phase: Phase = newPhase();

  private constructor(private readonly backend: { host: string; port: number }) {
    this.server = createServer({ allowHalfOpen: true }, (client) => this.accept(client));
  }

  static async start(backend: { host: string; port: number }): Promise<CuttingProxy> {
    const proxy = new CuttingProxy(backend);
    proxy.server.listen(0, HOST);
    await once(proxy.server, 'listening');
    return proxy;
  }

  /** The address of the proxy: `host:port`. */
  get address(): string {
    return `${HOST}:${(this.server.address() as AddressInfo).port}`;
  }

  /** The number of connections that only their clients have closed. */
  get givenUp(): number {
    return [...this.connections].filter(({ isGivenUp }) => isGivenUp).length;
  }

  /** The number of connections with a request that may still take effect: it is held, or its client has left. */
  get underWay(): number {
    return [...this.connections].filter(({ isGivenUp, isHeld }) => isGivenUp || isHeld).length;
  }

  /** Begins a fault, which lasts until {@link pass} or another fault. */
  fail(fault: Fault): void {
    this.switchTo(newPhase(fault));
    if (fault.how !== 'refuse') return;
    for (const socket of this.sockets) socket.destroy();
  }

  /** Ends the fault, and forwards what was held. */
  pass(): void {
    this.switchTo(newPhase());
  }

  async stop(): Promise<void> {
    this.pass();
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
    await once(this.server, 'close');
  }

  private switchTo(phase: Phase): void {
    const before = this.phase;
    this.phase = phase;
    this.hits = 0;
    before.end();
  }

  private accept(client: Socket): void {
    if (this.phase.fault?.how === 'refuse') {
      this.hits += 1;
      client.destroy();
      return;
    }
    const backend = connect({ ...this.backend, allowHalfOpen: true });
    const connection = new Connection(client, backend, () => this.phase, this.hit);
    this.connections.add(connection);
    backend.on('close', () => this.connections.delete(connection));
    for (const socket of [client, backend]) {
      socket.setNoDelay(true);
      this.sockets.add(socket);
      // A failure on one side cuts the other side, as without a proxy.
      socket.on('error', () => undefined);
      socket.on('close', (failed) => {
        this.sockets.delete(socket);
        if (failed) connection.cut();
      });
    }
    connection.run();
  }

  private readonly hit = (): void => void (this.hits += 1);
}

/** The connection of a client, and its connection to the backend. */
class Connection {
  /** Whether a request was held and is not answered. That its client has left shows only after the held bytes. */
  isHeld = false;
  /** The fault that has hit this connection. Another fault must hit it again. */
  private hitBy: Phase | undefined;
  private forwarded = 0;
  /** The last bytes from the client, for a text that comes in two parts. */
  private tail = '';

  constructor(
    private readonly client: Socket,
    private readonly backend: Socket,
    private readonly phase: () => Phase,
    private readonly onHit: () => void,
  ) {}

  get isGivenUp(): boolean {
    return this.client.readableEnded || this.client.destroyed;
  }

  run(): void {
    const cut = (): void => this.cut();
    this.fromClient().catch(cut);
    this.fromBackend().catch(cut);
  }

  cut(): void {
    this.client.destroy();
    this.backend.destroy();
  }

  private async fromClient(): Promise<void> {
    for await (const chunk of chunksOf(this.client)) {
      const phase = this.phase();
      const { fault } = phase;
      if (!this.isHit(phase, chunk) || !fault) {
        await write(this.backend, chunk);
        continue;
      }
      switch (fault.how) {
        case 'refuse':
        case 'cut before':
          this.cut();
          return;
        case 'cut within': {
          const rest = Math.max(0, (fault.bytes ?? 0) - this.forwarded);
          this.forwarded += chunk.length;
          await write(this.backend, chunk.subarray(0, rest));
          if (this.forwarded < (fault.bytes ?? 0)) break;
          // Closed in order, so that the backend gets the forwarded bytes.
          this.backend.end();
          this.client.destroy();
          return;
        }
        case 'answer 500':
          if (this.client.writable) this.client.end(ANSWER_500);
          this.backend.destroy();
          break;
        case 'hold':
          this.isHeld = true;
          await phase.over;
          await write(this.backend, chunk);
          break;
        case 'cut after':
        case 'delay answers':
        case 'hold answers':
          await write(this.backend, chunk);
      }
    }
    // A backend that sees the end before it has answered may close the connection first, and do the request afterwards.
    if (!this.isHeld) this.backend.end();
  }

  private async fromBackend(): Promise<void> {
    for await (const chunk of chunksOf(this.backend)) {
      const phase = this.phase();
      const fault = this.hitBy === phase ? phase.fault : undefined;
      const isInterim = chunk.toString('latin1', 0, INTERIM_ANSWER.length) === INTERIM_ANSWER;
      if (!isInterim && this.isHeld) {
        this.isHeld = false;
        if (this.client.readableEnded) this.backend.end();
      }
      if (fault && !isInterim) {
        if (fault.how === 'cut after') {
          this.cut();
          return;
        }
        if (fault.how === 'delay answers') await setTimeout(fault.ms);
        if (fault.how === 'hold answers') await phase.over;
      }
      await write(this.client, chunk);
    }
    this.client.end();
  }

  private isHit(phase: Phase, chunk: Buffer): boolean {
    const { fault } = phase;
    const text = `${this.tail}${chunk.toString('latin1')}`;
    this.tail = text.slice(-100);
    if (this.hitBy === phase) return true;
    if (!fault || (fault.at !== undefined && !text.includes(fault.at))) return false;
    this.hitBy = phase;
    this.forwarded = 0;
    this.onHit();
    return true;
  }
}

/** The other direction stays open after the last chunk. */
function chunksOf(socket: Socket): AsyncIterable<Buffer> {
  return socket.iterator({ destroyOnReturn: false });
}

function newPhase(fault?: Fault): Phase {
  let end = (): void => undefined;
  const over = new Promise<void>((resolve) => (end = resolve));
  return { fault, over, end };
}

/** Writes bytes, and does not wait for a closed side. */
async function write(socket: Socket, bytes: Buffer): Promise<void> {
  if (!socket.writable) return;
  await new Promise<void>((resolve) => {
    socket.once('close', resolve);
    socket.write(bytes, () => {
      socket.off('close', resolve);
      resolve();
    });
  });
}
