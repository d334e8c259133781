import pg from 'pg';

/** pg's error message when `query_timeout` is over. */
const READ_TIMEOUT = 'Query read timeout';

/**
 * A connection that closes itself after a `query_timeout`. pg keeps such a connection open. Its statement is still running,
 * and later statements queue behind that statement. Statements of other requests could land in its open transaction and be
 * lost.
 */
export class ImpatientClient extends pg.Client {
  constructor(config?: string | pg.ClientConfig) {
    super(config);
    const send = this.query.bind(this) as (...args: unknown[]) => unknown;
    this.query = ((...args: unknown[]): unknown => {
      const result = send(...args);
      if (result instanceof Promise) {
        result.catch((error: unknown) => {
          if (error instanceof Error && error.message === READ_TIMEOUT) this.end().catch(() => undefined);
        });
      }
      return result;
    }) as pg.Client['query'];
  }
}
