import { Injectable } from '@nestjs/common';
import { type GrantedConversation, grantedOf, type RecordedAccess } from '../access/image-access.js';
import { namesAnObject } from '../access/permission-rule.js';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import type { Conversation } from '../conversations/conversation.js';
import { type PreparedStatement, preparedStatement } from '../database/prepared-statement.js';
import { RequestDatabase } from '../database/request-database.js';
import { RateLimits } from '../rate-limits/rate-limits.js';
import { CHAT_IMAGE_COLUMNS, type ChatImage } from './entities/chat-image.entity.js';
import type { ListQueryDto } from './dto/list-query.dto.js';
import { ImageUrls } from './image-urls.js';
import { ListPosition } from './list-position.js';

/** An image of a list, and the leave to hand out its URL where the list was asked for with URLs. */
type ListedImage = { readonly image: ChatImage; readonly access?: RecordedAccess };

export type ChatImagePage = { readonly images: readonly ListedImage[]; readonly nextCursor: string | null };

/** The page and one more row, which tells whether another page follows. */
const listImages = (column: 'appointment_id' | 'text_session_id'): PreparedStatement =>
  preparedStatement(
    `list-images-by-${column}`,
    `SELECT ${CHAT_IMAGE_COLUMNS} FROM chat_images
   WHERE ${column} = $1 AND state = 'stored' AND ${namesAnObject} AND (created_at, id) < ($2::timestamptz, $3::bigint)
   ORDER BY created_at DESC, id DESC LIMIT $4::int + 1`,
  );

export const LIST_IMAGES: Readonly<Record<Conversation['kind'], PreparedStatement>> = {
  appointment: listImages('appointment_id'),
  'text session': listImages('text_session_id'),
};

/** The images of a conversation. The guard has decided before who may list them. */
@Injectable()
export class ChatImageList {
  constructor(
    private readonly database: RequestDatabase,
    private readonly urls: ImageUrls,
    private readonly limits: RateLimits,
  ) {}

  /** @returns images, newest first, from the cursor on */
  async page({ kind, id }: GrantedConversation, { limit, cursor }: ListQueryDto): Promise<ChatImagePage> {
    const rows = await this.database.run<ChatImage>(LIST_IMAGES[kind], [
      id,
      cursor?.createdAt ?? 'infinity',
      cursor?.id ?? Number.MAX_SAFE_INTEGER,
      limit,
    ]);
    const images = rows.slice(0, limit);
    const last = images.at(-1);
    return {
      images: images.map((image) => ({ image })),
      nextCursor: last && rows.length > limit ? new ListPosition(last.createdAt, last.id).cursor : null,
    };
  }

  /**
   * @returns the page, with the leave to hand out a URL for each image; an image that was deleted meanwhile is left out
   * @throws AppError TOO_MANY_REQUESTS: the page counts as `limit` requests for a URL; UNAUTHENTICATED when the user was just
   *   deleted; DATABASE_UNAVAILABLE when an audit row can't be written
   */
  async pageWithUrls(
    user: AuthenticatedUser,
    conversation: GrantedConversation,
    query: ListQueryDto,
  ): Promise<ChatImagePage> {
    // The request itself has been counted.
    await this.limits.consume('signed-urls', user.id, query.limit - 1);
    const { images, nextCursor } = await this.page(conversation, query);
    const decisions = await this.urls.recordEach(
      user,
      images.map(({ image: { id } }) => ({ image: { id }, variant: query.variant })),
    );
    return {
      images: images.flatMap(({ image }, index) => {
        const decision = decisions[index];
        if (!decision || ('refusal' in decision && decision.refusal === 'IMAGE_NOT_FOUND')) return [];
        return [{ image, access: grantedOf(decision) }];
      }),
      nextCursor,
    };
  }
}
