import { Injectable } from '@nestjs/common';
import { z } from 'zod';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { sqlState, violatedConstraint } from '../database/database-failure.js';
import { parseId } from '../database/parse-id.js';
import { preparedStatement, RequestDatabase } from '../database/request-database.js';
import { AppError } from '../errors/app-error.js';
import { CHAT_IMAGE_COLUMNS, type ChatImage } from './chat-image.entity.js';
import { namesAnObject } from './image-access.js';

/** The place of an image in the list of its appointment. */
type Position = { readonly createdAt: Date; readonly id: number };

const MAX_LIMIT = 100;
const DEFAULT_LIMIT = 50;

const FOREIGN_KEY_VIOLATION = '23503';
const ACCESSED_BY = 'chat_image_access_accessed_by_foreign';

const LIMIT_EXPECTED = `The limit must be a whole number from 1 to ${MAX_LIMIT}.`;
const CURSOR_EXPECTED = 'The cursor must be a next_cursor of this list.';

/** The query of a list's request. */
export const listQuerySchema = z.object({
  limit: z
    .string(LIMIT_EXPECTED)
    .regex(/^\d{1,3}$/, LIMIT_EXPECTED)
    .transform(Number)
    .refine((limit) => limit >= 1 && limit <= MAX_LIMIT, LIMIT_EXPECTED)
    .default(DEFAULT_LIMIT),
  cursor: z
    .string(CURSOR_EXPECTED)
    .transform(parseCursor)
    .refine((position) => position !== undefined, CURSOR_EXPECTED)
    .optional(),
  signed_urls: z
    .enum(['true', 'false'], 'The signed_urls must be true or false.')
    .transform((value) => value === 'true')
    .default(false),
});

export type ListQuery = z.output<typeof listQuerySchema>;

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
    { limit, cursor }: Pick<ListQuery, 'limit' | 'cursor'>,
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
    return { images, nextCursor: last && rows.length > limit ? cursorOf(last) : null };
  }
}

function cursorOf({ createdAt, id }: Position): string {
  return Buffer.from(`${createdAt.getTime()}.${id}`).toString('base64url');
}

function parseCursor(text: string): Position | undefined {
  const [time = '', idText = ''] = Buffer.from(text, 'base64url').toString().split('.');
  const createdAt = new Date(Number(time));
  const id = parseId(idText);
  if (id === undefined || !(createdAt.getTime() >= 0)) return undefined;
  return cursorOf({ createdAt, id }) === text ? { createdAt, id } : undefined;
}
