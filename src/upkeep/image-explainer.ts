import { Inject, Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { type Decision, type GrantedImage, ImageAccess, type Refusal } from '../access/image-access.js';
import { namesAnObject } from '../access/permission-rule.js';
import { thumbnailKey } from '../chat-images/entities/chat-image-path.js';
import { ChatImage, conversationOf, type Variant } from '../chat-images/entities/chat-image.entity.js';
import { ENTITIES } from '../chat-images/entities/entities.js';
import { PHASE_RULES } from '../config/migration-phase.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import type { Conversation } from '../conversations/conversation.js';
import { migrationDataSourceOptions } from '../database/data-source-options.js';
import { sqlState } from '../database/database-failure.js';
import { StorageUnavailableError } from '../storage/storage-errors.js';
import { storageAdvice } from '../storage/storage-failure.js';
import { isStorageKey } from '../storage/storage-key.js';
import { StorageProvider } from '../storage/storage-provider.js';

const TOO_FEW_RIGHTS = '42501';

/** Maximum number of listed app versions that have opened a picture without a token. */
const MAX_APP_VERSIONS = 20;

/**
 * An object beside its row. `right size` where there is no digest to compare. `unknown` when the storage does not tell: then
 * `advice` says what to do.
 */
export type ComparedObject = {
  readonly key: string;
  /** Bytes, by the row. */
  readonly size: number;
  /** Bytes, by the storage. */
  readonly found?: number;
  readonly verdict: 'intact' | 'right size' | 'of another size' | 'of other bytes' | 'missing' | 'unknown';
  readonly advice?: string;
};

/** The key waits for its deletion. While a row names the object, both stay. */
export type WaitingTombstone = {
  readonly objectKey: string;
  readonly attempts: number;
  readonly createdAt: Date;
};

/** An audit row: a user got a URL of the picture. */
export type TrailEntry = {
  readonly accessedAt: Date;
  readonly accessedBy: number;
  readonly variant: Variant;
};

/** Openings of a picture without a token, by one version of the app. */
export type OpensOfApp = {
  readonly appVersion: string;
  readonly variant: Variant;
  readonly opens: number;
  readonly last: Date;
};

/** The facts of a picture that has a row. */
export type ExplainedImage = {
  readonly row: ChatImage;
  readonly conversation: Conversation;
  /** Patient and doctor; `undefined` where the conversation is gone, or is a text session without TEXT_SESSIONS. */
  readonly participants: { readonly patientId: number; readonly doctorId: number } | undefined;
  readonly object: ComparedObject;
  /** `undefined` for a picture without a thumbnail. */
  readonly thumbnail: ComparedObject | undefined;
  readonly tombstones: readonly WaitingTombstone[];
  /** The state of the import; `undefined` for an upload. */
  readonly imported:
    { readonly source: string; readonly state: string; readonly reason: string | null } | undefined;
  readonly opensWithoutToken: readonly OpensOfApp[];
  /** Audit rows, newest first; `undefined` where the role may not read them. */
  readonly trail: readonly TrailEntry[] | undefined;
};

export type Explanation = {
  readonly refusal: Refusal | undefined;
  /** Why, in one sentence. */
  readonly why: string;
  /** Whether the stable address opens the picture without a token. */
  readonly opensWithoutToken: boolean;
  /** `undefined` where there is no row. */
  readonly image: ExplainedImage | undefined;
};

/** Tells an operator what the service decides for a user and a picture, and why. Writes nothing, and signs no URL. */
@Injectable()
export class ImageExplainer {
  constructor(
    private readonly dataSource: DataSource,
    private readonly storage: StorageProvider,
    private readonly access: ImageAccess,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  /**
   * @param last maximum number of audit rows
   * @throws DatabaseUnavailableError
   */
  async explain(userId: number, imageId: number, last: number): Promise<Explanation> {
    const decision = await this.access.decide({ id: userId }, { id: imageId });
    const row = await this.dataSource.manager.findOneBy(ChatImage, { id: imageId });
    const image = row ? await this.imageOf(row, last) : undefined;
    return {
      refusal: 'refusal' in decision ? decision.refusal : undefined,
      why: await this.reasonOf(decision, userId, imageId, image),
      opensWithoutToken: row !== null && (await this.opensByLink(row)),
      image,
    };
  }

  /** The facts behind a decision of {@link ImageAccess}, which alone decides. */
  private async reasonOf(
    decision: Decision<GrantedImage>,
    userId: number,
    imageId: number,
    image: ExplainedImage | undefined,
  ): Promise<string> {
    if ('granted' in decision) return `User ${userId} takes part in ${nameOf(image)}.`;
    switch (decision.refusal) {
      case 'UNAUTHENTICATED':
        return (await this.hasRow('SELECT FROM users WHERE id = $1', userId))
          ? `User ${userId} is deleted or switched off in the table users: see deleted_at, and the column of USERS_ACTIVE_COLUMN.`
          : `There is no user ${userId}.`;
      case 'IMAGE_NOT_FOUND':
        return image ? this.whyHidden(image.row) : this.whyGone(imageId);
      case 'APPOINTMENT_NOT_FOUND':
        return image?.conversation.kind === 'text session' && !this.settings.textSessions
          ? `The picture belongs to ${nameOf(image)}, and TEXT_SESSIONS is false.`
          : `The picture's ${nameOf(image)} is gone.`;
      case 'FORBIDDEN':
        return `User ${userId} is neither the patient nor the doctor of ${nameOf(image)}.`;
      case 'DATABASE_UNAVAILABLE':
        return 'The database can not decide now.';
    }
  }

  /** Why a picture with a row does not exist for readers. */
  private async whyHidden({ id, state, leaseUntil }: ChatImage): Promise<string> {
    if (state === 'abandoned') return 'Its upload broke off, and the sweeper removes it.';
    if (state === 'pending') {
      const [row] = await this.dataSource.query<{ now: Date }[]>('SELECT now() AS now');
      return row && leaseUntil !== null && leaseUntil > row.now
        ? 'Its upload is under way.'
        : 'Its upload has not ended, and no process works on it any more: the sweeper removes it.';
    }
    return (await this.hasRow(`SELECT FROM chat_images WHERE id = $1 AND ${namesAnObject}`, id))
      ? 'It has changed at this moment. Ask again.'
      : 'The file_path of its row names no object.';
  }

  private async whyGone(imageId: number): Promise<string> {
    const [row] = await this.dataSource.query<{ newest: number | null }[]>(
      `SELECT pg_sequence_last_value(pg_get_serial_sequence('chat_images', 'id')::regclass) AS newest`,
    );
    if (row && row.newest !== null && imageId > row.newest)
      return `No picture has had the number ${imageId} yet: the newest is ${row.newest}.`;
    return 'There is no row: the picture was deleted (with its appointment, text session or user), or its upload never ended.';
  }

  private async imageOf(row: ChatImage, last: number): Promise<ExplainedImage> {
    const { id, filePath, mimeType, size, sha256Stored, thumbnailSize } = row;
    const conversation = conversationOf(row);
    const keyOfThumbnail = thumbnailKey(filePath, mimeType);
    const [object, thumbnail, participants, tombstones, [imported], opensWithoutToken, trail] =
      await Promise.all([
        this.compare(filePath, size, sha256Stored),
        thumbnailSize === null ? undefined : this.compare(keyOfThumbnail, thumbnailSize, null),
        this.participantsOf(conversation),
        this.dataSource.query<WaitingTombstone[]>(
          `SELECT object_key AS "objectKey", attempts, created_at AS "createdAt" FROM chat_image_tombstones
         WHERE object_key IN ($1, $2) ORDER BY object_key`,
          [filePath, keyOfThumbnail],
        ),
        this.dataSource.query<NonNullable<ExplainedImage['imported']>[]>(
          'SELECT source, state, reason FROM chat_image_imports WHERE chat_image_id = $1 ORDER BY updated_at DESC LIMIT 1',
          [id],
        ),
        this.dataSource.query<OpensOfApp[]>(
          `SELECT app_version AS "appVersion", variant, count(*) AS opens, max(opened_at) AS last
         FROM chat_image_link_opens WHERE chat_image_id = $1
         GROUP BY app_version, variant ORDER BY max(opened_at) DESC LIMIT $2`,
          [id, MAX_APP_VERSIONS],
        ),
        this.trailOf(id, last),
      ]);
    return {
      row,
      conversation,
      participants,
      object,
      thumbnail,
      tombstones,
      imported,
      opensWithoutToken,
      trail,
    };
  }

  private async compare(key: string, size: number, sha256: string | null): Promise<ComparedObject> {
    if (!isStorageKey(key)) return { key, size, verdict: 'missing' };
    try {
      const object = await this.storage.head(key);
      if (!object) return { key, size, verdict: 'missing' };
      const found = object.size;
      if (found !== size) return { key, size, found, verdict: 'of another size' };
      if (sha256 === null) return { key, size, found, verdict: 'right size' };
      const isIntact = (await this.storage.digest(key)) === sha256;
      return { key, size, found, verdict: isIntact ? 'intact' : 'of other bytes' };
    } catch (error) {
      if (!(error instanceof StorageUnavailableError)) throw error;
      return { key, size, verdict: 'unknown', advice: storageAdvice(error.failure) };
    }
  }

  private async participantsOf({ kind, id }: Conversation): Promise<ExplainedImage['participants']> {
    if (kind === 'text session' && !this.settings.textSessions) return undefined;
    const table = kind === 'appointment' ? 'appointments' : 'text_sessions';
    const [row] = await this.dataSource.query<{ patientId: number; doctorId: number }[]>(
      `SELECT patient_id AS "patientId", doctor_id AS "doctorId" FROM ${table} WHERE id = $1`,
      [id],
    );
    return row;
  }

  /** The role of DATABASE_URL may only insert audit rows. The role of DATABASE_DIRECT_URL owns their table. */
  private async trailOf(imageId: number, last: number): Promise<readonly TrailEntry[] | undefined> {
    const read = (dataSource: DataSource): Promise<TrailEntry[]> =>
      dataSource.query<TrailEntry[]>(
        `SELECT accessed_at AS "accessedAt", accessed_by AS "accessedBy", variant FROM chat_image_access
         WHERE chat_image_id = $1 ORDER BY accessed_at DESC, id DESC LIMIT $2`,
        [imageId, last],
      );
    try {
      return await read(this.dataSource);
    } catch (error) {
      if (sqlState(error) !== TOO_FEW_RIGHTS) throw error;
      const { database } = this.settings;
      if (database.directUrl === undefined) return undefined;
      const owner = await new DataSource(migrationDataSourceOptions(database, ENTITIES)).initialize();
      return read(owner).finally(() => owner.destroy());
    }
  }

  private async opensByLink({ filename, filePath }: ChatImage): Promise<boolean> {
    if (PHASE_RULES[this.settings.migration.phase].withoutToken !== 'opened by link') return false;
    const opener = { appVersion: 'npm run explain', network: '' };
    return (await this.access.decideByLink({ filename, filePath }, opener)) !== undefined;
  }

  private async hasRow(sql: string, id: number): Promise<boolean> {
    return (await this.dataSource.query<unknown[]>(sql, [id])).length > 0;
  }
}

function nameOf(image: ExplainedImage | undefined): string {
  return image ? `${image.conversation.kind} ${image.conversation.id}` : 'the conversation';
}
