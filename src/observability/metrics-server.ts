import {
  Inject,
  Injectable,
  Module,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Logger } from 'pino';
import { SETTINGS, type Settings, SettingsError } from '../config/settings.js';
import { systemCode } from '../errors/system-code.js';
import { LOGGER } from './logger.js';
import { METRICS, type Metrics } from './metrics.js';

/** Errors of an address that this machine does not have, or may not use. */
const UNUSABLE_ADDRESS = /^(EADDRNOTAVAIL|EACCES|EAFNOSUPPORT|EINVAL)$/;

/** Serves `GET /metrics`, and nothing else, on METRICS_PORT: apart from the port of the service, which may be public. */
@Injectable()
class MetricsServer implements OnApplicationBootstrap, OnApplicationShutdown {
  private server: Server | undefined;

  constructor(
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(METRICS) private readonly metrics: Metrics,
    @Inject(LOGGER) private readonly logger: Logger,
  ) {}

  /** @throws SettingsError when METRICS_PORT is in use, or METRICS_HOST is no address of this machine */
  async onApplicationBootstrap(): Promise<void> {
    if (!this.settings.metrics) return;
    const { host, port } = this.settings.metrics;
    this.server = createServer((request, response) => void this.answer(request, response));
    // Without a listener, a connection that can't be accepted would end the process.
    this.server.on('error', ({ name }) => this.logger.warn(`the port of the metrics: ${name}`));
    this.server.listen(port, host);
    try {
      await once(this.server, 'listening');
    } catch (error) {
      throw toSettingsError(error);
    }
    this.logger.info({ host, port }, 'metrics are served');
  }

  async onApplicationShutdown(): Promise<void> {
    const { server } = this;
    if (!server?.listening) return;
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  }

  private async answer({ method, url = '' }: IncomingMessage, response: ServerResponse): Promise<void> {
    if (!this.metrics || method !== 'GET' || url.split('?')[0] !== '/metrics') {
      response.writeHead(404).end();
      return;
    }
    try {
      const text = await this.metrics.text();
      response.writeHead(200, { 'Content-Type': this.metrics.contentType }).end(text);
    } catch (error) {
      this.logger.error({ err: error }, 'the metrics can not be read');
      response.writeHead(500).end();
    }
  }
}

function toSettingsError(error: unknown): unknown {
  const code = systemCode(error) ?? '';
  if (code === 'EADDRINUSE')
    return new SettingsError(['METRICS_PORT is in use: stop what listens there, or set another']);
  if (UNUSABLE_ADDRESS.test(code))
    return new SettingsError(['METRICS_HOST must be an address of this machine, e.g. 127.0.0.1']);
  return error;
}

@Module({ providers: [MetricsServer] })
export class MetricsServerModule {}
