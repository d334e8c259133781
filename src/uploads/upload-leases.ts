import { Injectable, Logger } from '@nestjs/common';
import { preparedStatement } from '../database/prepared-statement.js';
import { RequestDatabase } from '../database/request-database.js';
import { outsideTraces } from '../observability/spans.js';

/** The length of a lease, by the database's clock. A retry takes an upload over as soon as its lease has ended. */
const LEASE_SECONDS = 8;

/** The pause between two renewals. Three renewals may fail before a lease ends. */
const RENEWAL_PAUSE_MS = 2000;

/** SQL: the end of a lease that begins now. */
export const NEW_LEASE = `clock_timestamp() + interval '${LEASE_SECONDS} seconds'`;

/** Skips a row that another transaction holds: it must not delay the leases of the others. */
const RENEW_LEASES = preparedStatement(
  'renew-leases',
  `UPDATE chat_images SET lease_until = ${NEW_LEASE} WHERE id IN (
     SELECT id FROM chat_images WHERE id = ANY($1::bigint[]) AND state = 'pending' FOR NO KEY UPDATE SKIP LOCKED
   )`,
);

/**
 * The leases of this process's pending rows. A lease is renewed while its upload is under way. When the process dies, is
 * paused or loses the database, its leases end, and the next upload of the same picture takes over.
 */
@Injectable()
export class UploadLeases {
  private readonly logger = new Logger(UploadLeases.name);
  /** The uploads under way, each by the id of its image, with its end. */
  private readonly uploads = new Map<number, Promise<void>>();
  private timer: NodeJS.Timeout | undefined;
  private renewing = false;

  constructor(private readonly database: RequestDatabase) {}

  /** Does the work of an upload. The lease of its row is renewed until the work ends. */
  async renewDuring(imageId: number, work: () => Promise<void>): Promise<void> {
    const upload = work();
    this.uploads.set(
      imageId,
      upload.catch(() => undefined),
    );
    this.timer ??= setInterval(() => outsideTraces(() => void this.renew()), RENEWAL_PAUSE_MS).unref();
    try {
      await upload;
    } finally {
      this.uploads.delete(imageId);
      if (this.uploads.size === 0) {
        clearInterval(this.timer);
        this.timer = undefined;
      }
    }
  }

  /** @returns resolves when the upload of an image ends, however it ends; `undefined` where another process uploads the image */
  endOf(imageId: number): Promise<void> | undefined {
    return this.uploads.get(imageId);
  }

  /** Renews all leases with one statement. Never rejects: without a renewal the leases end, which is safe. */
  private async renew(): Promise<void> {
    if (this.renewing) return;
    this.renewing = true;
    try {
      await this.database.run(RENEW_LEASES, [[...this.uploads.keys()]]);
    } catch (error) {
      this.logger.warn(
        `the leases of ${this.uploads.size} uploads are not renewed: ${error instanceof Error ? error.name : 'unknown error'}`,
      );
    } finally {
      this.renewing = false;
    }
  }
}
