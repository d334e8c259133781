import { Injectable } from '@nestjs/common';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { sqlState, violatedConstraint } from '../database/database-failure.js';
import { preparedStatement, RequestDatabase } from '../database/request-database.js';
import { AppError } from '../errors/app-error.js';
import { CHAT_IMAGE_COLUMNS, type ChatImage } from './entities/chat-image.entity.js';
import type { ListQueryDto } from './dto/list-query.dto.js';
import { namesAnObject } from '../access/image-access.js';
import { ListPosition } from './list-position.js';

const FOREIGN_KEY_VIOLATION = '23503';
const ACCESSED_BY = 'chat_image_access_accessed_by_foreign';

export type ChatImagePage = { readonly images: readonly ChatImage[]; readonly nextCursor: string | null };

/**
 * One more row than the page holds, which tells whether another page follows. Audit rows only for the page, in the same
 * transaction.
 */
export const LIST_IMAGES = preparedStatement(
  'list-images',
  `WITH page AS (
     SELECT * FROM chat_images
     WHERE appointment_id = $1 AND state = 'stored' AND ${namesAnObject} AND (created_at, id) < ($2::timestamptz, $3::bigint)
     ORDER BY created_at DESC, id DESC LIMIT $4::int + 1
   ), trail AS (
     INSERT INTO chat_image_access (chat_image_id, accessed_by)
     SELECT id, $6::bigint FROM (SELECT * FROM page ORDER BY created_at DESC, id DESC LIMIT $4) shown WHERE $5::boolean
   )
   SELECT ${CHAT_IMAGE_COLUMNS} FROM page ORDER BY created_at DESC, id DESC`,
);

/** An appointment's pictures. Who may list them has been decided by the guard before. */
@Injectable()
export class ChatImageList {
  constructor(private readonly database: RequestDatabase) {}

  /**
   * @param recorded whether the user is handed their URLs: an audit row for each is committed then
   * @returns pictures, newest first, from behind the cursor on
   * @throws AppError UNAUTHENTICATED when the user has just been removed
   */
  async page(
    user: AuthenticatedUser,
    appointmentId: number,
    { limit, cursor }: Pick<ListQueryDto, 'limit' | 'cursor'>,
    recorded: boolean,
  ): Promise<ChatImagePage> {
    const select = (): Promise<ChatImage[]> =>
      this.database.run<ChatImage>(
        LIST_IMAGES,
        [
          appointmentId,
          cursor?.createdAt ?? 'infinity',
          cursor?.id ?? Number.MAX_SAFE_INTEGER,
          limit,
          recorded,
          user.id,
        ],
        recorded ? [`users ${user.id}`] : [],
      );
    const rows = await select().catch((error: unknown) => {
      // What the audit row names was removed while its statement ran.
      if (sqlState(error) !== FOREIGN_KEY_VIOLATION) throw error;
      if (violatedConstraint(error) === ACCESSED_BY) throw new AppError('UNAUTHENTICATED', { cause: error });
      return select();
    });
    const images = rows.slice(0, limit);
    const last = images.at(-1);
    return {
      images,
      nextCursor: last && rows.length > limit ? new ListPosition(last.createdAt, last.id).cursor : null,
    };
  }
}
