import pg from 'pg';

/** What pg says when a statement got no answer within `query_timeout`. */
const READ_TIMEOUT = 'Query read timeout';

/**
 * A connection that ends when a statement gets no answer in time. pg would keep it: with the statement still under way,
 * the next ones behind it, and a transaction open in which somebody else's statements would then be lost.
 */
export class ImpatientClient extends pg.Client {
  constructor(config?: string | pg.ClientConfig) {
    super(config);
    const send = this.query.bind(this) as (...args: unknown[]) => unknown;
    this.query = ((...args: unknown[]): unknown => {
      const answer = send(...args);
      if (answer instanceof Promise) {
        answer.catch((error: unknown) => {
          if (error instanceof Error && error.message === READ_TIMEOUT) this.end().catch(() => undefined);
        });
      }
      return answer;
    }) as pg.Client['query'];
  }
}
