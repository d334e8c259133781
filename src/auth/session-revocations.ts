import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { SETTINGS, type Settings } from '../config/settings.js';
import { concernsEveryStatement, sqlState } from '../database/database-failure.js';
import { preparedStatement, type PreparedStatement } from '../database/prepared-statement.js';
import { RequestDatabase } from '../database/request-database.js';
import { StatementBatcher } from '../database/statement-batcher.js';
import { UnreadableSessionsError } from './unreadable-sessions-error.js';

/** Size of the cache of looked-up tokens. */
const REMEMBERED_TOKENS = 50_000;

const BATCH_LIMITS = { maxItems: 500, maxInFlight: 2, maxWaitMs: 1000 };

/** SQLSTATE: the table or one of its columns no longer exists. */
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

/** The statement that finds revoked tokens, and whether the column `jti` is of type uuid. */
type LookUp = { readonly statement: PreparedStatement; readonly uuids: boolean };

/**
 * Checks whether the main application has revoked a token. A revoked token has a row in its table `user_sessions` with the
 * token's `jti` and a `revoked_at`. A token without such a row is valid. Without the table, every token is valid.
 *
 * A look-up is cached for REVOCATION_CACHE_SECONDS, counted from its start. Simultaneous look-ups share one statement.
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
  /** Until when, from `performance.now()`, the table counts as missing. */
  private absentUntil = 0;

  constructor(
    private readonly database: RequestDatabase,
    @Inject(SETTINGS) { revocationCacheSeconds }: Settings,
  ) {
    this.cacheMs = revocationCacheSeconds * 1000;
    this.known = new LRUCache({ max: REMEMBERED_TOKENS, ttl: Math.max(1, this.cacheMs) });
  }

  /** @throws UnreadableSessionsError when the table exists, but this service has no right to read it */
  async onModuleInit(): Promise<void> {
    await this.findTable();
  }

  /**
   * @param tokenId the token's `jti`. A token without `jti` can't be revoked.
   * @returns a boolean when cached, else a promise
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
    // PostgreSQL text can't contain NUL. A uuid column accepts only UUIDs.
    const validTokenIds = tokenIds.filter((tokenId) =>
      lookUp.uuids ? UUID.test(tokenId) : !tokenId.includes('\0'),
    );
    try {
      const rows = await this.database.run<{ jti: string }>(lookUp.statement, [validTokenIds]);
      const revoked = new Set(rows.map(({ jti }) => jti));
      return tokenIds.map((tokenId) => {
        const isRevoked = revoked.has(lookUp.uuids ? tokenId.toLowerCase() : tokenId);
        if (this.cacheMs > 0) this.known.set(tokenId, isRevoked, { start });
        return isRevoked;
      });
    } catch (error) {
      if (!UNDEFINED.test(sqlState(error) ?? '')) throw error;
      this.lookUp = undefined;
      this.logger.warn('the table user_sessions has changed: its columns are looked up again');
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
