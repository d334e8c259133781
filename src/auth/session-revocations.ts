import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { SETTINGS, type Settings } from '../config/settings.js';
import { concernsEveryStatement, sqlState } from '../database/database-failure.js';
import { preparedStatement, type PreparedStatement, RequestDatabase } from '../database/request-database.js';
import { StatementBatcher } from '../database/statement-batcher.js';

/** The main application's table has no such column, or this service's role may not read it. */
export class UnreadableSessionsError extends Error {
  override readonly name = 'UnreadableSessionsError';
}

/** How many tokens are remembered as looked up. */
const REMEMBERED_TOKENS = 50_000;

const BATCH_LIMITS = { maxItems: 500, maxInFlight: 2, maxWaitMs: 1000 };

/** The table, or one of its columns, is not there any more. */
const UNDEFINED = /^(42P01|42703)$/;

const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;

const FIND_TABLE = preparedStatement(
  'find-user-sessions',
  `SELECT format_type(atttypid, NULL) AS type,
          has_column_privilege(attrelid, 'jti', 'SELECT') AND has_column_privilege(attrelid, 'revoked_at', 'SELECT') AS readable
   FROM pg_attribute
   WHERE attrelid = to_regclass('user_sessions') AND attname = 'jti' AND NOT attisdropped
     AND EXISTS (SELECT FROM pg_attribute other WHERE other.attrelid = pg_attribute.attrelid AND other.attname = 'revoked_at')`,
);

/** How revoked tokens are found, once the table is known. */
type LookUp = { readonly statement: PreparedStatement; readonly uuids: boolean };

/**
 * Tells whether the main application has revoked a token: its table `user_sessions` has a row with the token's `jti` and
 * a `revoked_at`. A token without a row is valid, and so is every token where there is no such table.
 *
 * A look-up is good for REVOCATION_CACHE_SECONDS, counted from its start. Look-ups that wait at the same moment share one
 * statement.
 */
@Injectable()
export class SessionRevocations implements OnModuleInit {
  private readonly logger = new Logger(SessionRevocations.name);
  private readonly cacheMs: number;
  /** Whether a token is revoked, by its `jti`. */
  private readonly known: LRUCache<string, boolean>;
  private readonly batcher = new StatementBatcher(
    (tokenIds: readonly string[]) => this.find(tokenIds),
    concernsEveryStatement,
    BATCH_LIMITS,
  );
  private lookUp: LookUp | undefined;
  /** Until when, by the clock of `performance.now()`, the table need not be looked for. */
  private absentUntil = 0;

  constructor(
    private readonly database: RequestDatabase,
    @Inject(SETTINGS) { revocationCacheSeconds }: Settings,
  ) {
    this.cacheMs = revocationCacheSeconds * 1000;
    this.known = new LRUCache({ max: REMEMBERED_TOKENS, ttl: Math.max(1, this.cacheMs) });
  }

  /** @throws UnreadableSessionsError where the table is there, but this service may not read it */
  async onModuleInit(): Promise<void> {
    await this.findTable();
  }

  /**
   * @param tokenId the token's `jti`; a token without one can't be revoked
   * @returns at once when it is known
   */
  isRevoked(tokenId: string | undefined): boolean | Promise<boolean> {
    if (tokenId === undefined) return false;
    if (!this.lookUp && performance.now() < this.absentUntil) return false;
    return this.known.get(tokenId) ?? this.batcher.submit(tokenId);
  }

  private async find(tokenIds: readonly string[]): Promise<readonly boolean[]> {
    const start = performance.now();
    const lookUp = this.lookUp ?? (await this.findTable());
    if (!lookUp) return tokenIds.map(() => false);
    // No column of text holds a NUL.
    const possible = tokenIds.filter((tokenId) =>
      lookUp.uuids ? UUID.test(tokenId) : !tokenId.includes('\0'),
    );
    try {
      const rows = await this.database.run<{ jti: string }>(lookUp.statement, [possible]);
      const revoked = new Set(rows.map(({ jti }) => jti));
      return tokenIds.map((tokenId) => {
        const isRevoked = revoked.has(lookUp.uuids ? tokenId.toLowerCase() : tokenId);
        if (this.cacheMs > 0) this.known.set(tokenId, isRevoked, { start });
        return isRevoked;
      });
    } catch (error) {
      if (!UNDEFINED.test(sqlState(error) ?? '')) throw error;
      this.lookUp = undefined;
      this.logger.warn('the table user_sessions has changed: it is looked for anew');
      return this.find(tokenIds);
    }
  }

  private async findTable(): Promise<LookUp | undefined> {
    const [column] = await this.database.run<{ type: string; readable: boolean }>(FIND_TABLE, []);
    if (!column) {
      this.absentUntil = performance.now() + Math.max(1000, this.cacheMs);
      return undefined;
    }
    if (!column.readable)
      throw new UnreadableSessionsError(
        'Revoked tokens can not be looked up: GRANT SELECT (jti, revoked_at) ON user_sessions to the role of DATABASE_URL.',
      );
    const { type } = column;
    this.lookUp = {
      statement: preparedStatement(
        `find-revoked-by-${type.replaceAll(/\W+/g, '-')}`,
        `SELECT jti::text AS jti FROM user_sessions WHERE jti = ANY($1::${type}[]) AND revoked_at IS NOT NULL`,
      ),
      uuids: type === 'uuid',
    };
    return this.lookUp;
  }
}
