import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { thumbnailKey } from '../chat-images/entities/chat-image-path.js';
import type { ChatImage, ThumbnailColumns, Variant } from '../chat-images/entities/chat-image.entity.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import {
  type Conversation,
  conversationNotFound,
  type NamedConversation,
} from '../conversations/conversation.js';
import {
  activeColumnMistake,
  deletedAtMistake,
  EVERY_USER,
  FIND_USER_COLUMNS,
  UnusableTableError,
  type UserColumn,
  userRule,
} from '../conversations/user-columns.js';
import {
  concernsEveryStatement,
  DatabaseUnavailableError,
  isLockFailure,
  lockedTable,
  sqlState,
} from '../database/database-failure.js';
import type { RowName } from '../database/held-rows.js';
import { preparedStatement } from '../database/prepared-statement.js';
import { RequestDatabase, type RunStatement } from '../database/request-database.js';
import { StatementBatcher } from '../database/statement-batcher.js';
import { AppError, type ErrorCode } from '../errors/app-error.js';
import { METRICS, type Metrics } from '../observability/metrics.js';
import { type AccessStatements, accessStatements, COUNT_REDIRECT } from './permission-rule.js';

/** An image at a stable address. */
export type ImageAddress = { readonly filename: string; readonly filePath: string };

/** How a client names an image. */
export type ImageReference =
  { readonly id: number } | { readonly filename: string; readonly filePath?: undefined } | ImageAddress;

/** The client that opens a stable address without a token. */
export type LinkOpener = {
  /** `X-App-Version`, else the user agent, shortened. */
  readonly appVersion: string;
  readonly network: string;
};

/** Why a user may not. */
export type Refusal = Extract<
  ErrorCode,
  'UNAUTHENTICATED' | 'IMAGE_NOT_FOUND' | 'APPOINTMENT_NOT_FOUND' | 'FORBIDDEN' | 'DATABASE_UNAVAILABLE'
>;

/** Something that a user may use, or why not. */
export type Decision<Granted> =
  | {
      readonly refusal: Refusal;
      /** The image that was refused, where there is one: for the log, never for the client. */
      readonly imageId?: number;
    }
  | { readonly granted: Granted };

/** The thumbnail of an image, as its row describes it. */
export type StoredThumbnail = {
  /** In pixels. */
  readonly width: number;
  readonly height: number;
  /** Bytes. */
  readonly size: number;
  /** ThumbHash in base64. */
  readonly hash: string;
};

class ImageGrant {
  /** Never set: no other class or literal has this type. */
  declare protected readonly madeByImageAccess: true;

  constructor(
    readonly id: number,
    readonly filePath: string,
  ) {}
}

class UrlGrant extends ImageGrant {
  constructor(
    id: number,
    filePath: string,
    /** What the URL reads. The audit row says the same. */
    readonly variant: Variant,
    /** The key of the object that the URL reads. */
    readonly objectKey: string,
    readonly thumbnail: StoredThumbnail | null,
    /** Whether the image was opened by its address alone, without a token. */
    readonly byLink: boolean,
  ) {
    super(id, filePath);
  }
}

class ConversationGrant implements Conversation {
  /** Never set: no other class or literal has this type. */
  declare protected readonly madeByImageAccess: true;

  constructor(
    readonly kind: Conversation['kind'],
    readonly id: number,
  ) {}
}

/** An image that a user may see. Only {@link ImageAccess} makes one. */
export type GrantedImage = ImageGrant;

/**
 * An image whose URL a user may have: the audit row is committed. Only {@link ImageAccess} makes one, and the signing path
 * takes nothing else, so the compiler refuses a URL without an audit row.
 */
export type RecordedAccess = UrlGrant;

/** A conversation to which a user may send images, and whose images the user may list. Only {@link ImageAccess} makes one. */
export type GrantedConversation = ConversationGrant;

/** One item of the statement that decides. */
type AccessRequest = {
  readonly user: AuthenticatedUser;
  readonly image: ImageReference | undefined;
  /** Of what the user gets the URL when the answer is yes: that writes an audit row. `null` for no URL. */
  readonly wanted: Wanted | null;
};

/** A `new thumbnail` is waited for where it is missing and may be made. */
type Wanted = Variant | 'new thumbnail';

/** What a statement tells of an image. */
type ImageRow = Pick<
  ChatImage,
  'id' | 'filePath' | 'mimeType' | 'thumbnailWidth' | 'thumbnailHeight' | 'thumbnailSize' | 'thumbHash'
> & {
  /** What the URL reads, where one is handed out. */
  readonly variant: Variant | null;
};

type DecidedRow =
  ({ readonly refusal: null } & ImageRow) | { readonly refusal: Refusal; readonly id: number | null };

type DecidedConversation =
  { readonly refusal: null; readonly kind: Conversation['kind'] } | { readonly refusal: Refusal };

/** A column is not there any more, or has another type than before. */
const COLUMN_CHANGED = /^(42703|42804|42883)$/;

/** A table or column is missing, or the role may not read it. */
const TABLE_UNUSABLE = /^(42501|42P01|42703)$/;

/** Fails where the table can't be read. */
const READ_TEXT_SESSIONS = preparedStatement(
  'read-text-sessions',
  'SELECT id, patient_id, doctor_id FROM text_sessions LIMIT 0',
);

const FOREIGN_KEY_VIOLATION = '23503';

/**
 * A batch has room for the hundred images of one client and for other requests. Two batches at the same time: one that waits
 * for a lock does not keep the next. A batch takes milliseconds, so a request that has waited for a second waits for a database
 * that hangs.
 */
const BATCH_LIMITS = { maxItems: 200, maxInFlight: 2, maxWaitMs: 1000 };

/** Decides who may see which image, and records it. The routes of `@Access` ask; the AccessGuard enforces the decision. */
@Injectable()
export class ImageAccess implements OnModuleInit {
  private readonly logger = new Logger(ImageAccess.name);
  private readonly activeColumn: string | undefined;
  private readonly textSessions: boolean;
  private statements: AccessStatements;
  private readonly batcher: StatementBatcher<AccessRequest, DecidedRow>;

  constructor(
    private readonly database: RequestDatabase,
    @Inject(SETTINGS) { usersActiveColumn, textSessions }: Settings,
    @Inject(METRICS) metrics?: Metrics,
  ) {
    this.batcher = new StatementBatcher(
      (requests) =>
        this.decideWith((statement, values) => this.database.runShared(statement, values), requests),
      // The lock of a whole table concerns every request, the lock of a row only the requests for that row.
      (error) => concernsEveryStatement(error) || (isLockFailure(error) && lockedTable(error) === undefined),
      BATCH_LIMITS,
      (request) => this.database.isHeld(auditedRows(request)),
      metrics && ((items, waitedMs) => metrics.statementShared(items, waitedMs)),
    );
    this.activeColumn = usersActiveColumn;
    this.textSessions = textSessions;
    this.statements = accessStatements(EVERY_USER, textSessions);
  }

  /** @throws UnusableTableError where a table or column that the settings name can't be used */
  async onModuleInit(): Promise<void> {
    await this.findUserColumns();
    if (!this.textSessions) return;
    await this.database.run(READ_TEXT_SESSIONS, []).catch((error: unknown) => {
      if (!TABLE_UNUSABLE.test(sqlState(error) ?? '')) throw error;
      throw new UnusableTableError(
        'TEXT_SESSIONS is true, but the table can not be read: GRANT SELECT (id, patient_id, doctor_id) ON text_sessions to the role of DATABASE_URL.',
        { cause: error },
      );
    });
  }

  /** Decides whether a user may see an image. No audit row is written, so there is no URL. */
  async decide(user: AuthenticatedUser, image: ImageReference | undefined): Promise<Decision<GrantedImage>> {
    return decisionOf(await this.decideOne({ user, image, wanted: null }), imageGrant);
  }

  /**
   * Decides whether a user may have the URL of an image. When this resolves, the audit row of a grant is committed.
   *
   * @param variant what the user wants; what is granted is the whole picture where there is no thumbnail
   */
  async record(
    user: AuthenticatedUser,
    image: ImageReference | undefined,
    variant: Variant = 'original',
  ): Promise<Decision<RecordedAccess>> {
    return decisionOf(await this.decideOne({ user, image, wanted: variant }), (row) => urlGrant(row, false));
  }

  /**
   * Decides as {@link record} on a thumbnail.
   *
   * @returns `waitsFor`, and no audit row, when the user may see the image and its missing thumbnail may be made
   */
  async recordThumbnail(
    user: AuthenticatedUser,
    image: ImageReference | undefined,
  ): Promise<Decision<RecordedAccess> | { readonly waitsFor: GrantedImage }> {
    const row = await this.decideOne({ user, image, wanted: 'new thumbnail' });
    if (row.refusal === null && row.variant === null) return { waitsFor: imageGrant(row) };
    return decisionOf(row, (granted) => urlGrant(granted, false));
  }

  /**
   * Opens an image by its address alone. The caller knows that the phase of the migration allows it. When this resolves, the
   * row that records the opening is committed.
   *
   * @param variant as for {@link record}
   * @returns nothing where there is no such image
   */
  async openByLink(
    address: ImageAddress,
    opener: LinkOpener,
    variant: Variant = 'original',
  ): Promise<RecordedAccess | undefined> {
    const image = await this.findByLink(address, opener, variant);
    return image && urlGrant(image, true);
  }

  /** Looks for an image as {@link openByLink}, and records nothing, so there is no URL. */
  async decideByLink(address: ImageAddress, opener: LinkOpener): Promise<GrantedImage | undefined> {
    const image = await this.findByLink(address, opener, null);
    return image && imageGrant(image);
  }

  /** Counts a request that is redirected to the public place of the old pictures, so that operators see who still reads there. */
  async countRedirect({ appVersion, network }: LinkOpener): Promise<void> {
    await this.database.run(COUNT_REDIRECT, [appVersion, network]);
  }

  /**
   * Decides whether a user may send images to a conversation and list its images: the rule is the same. What is granted is
   * the conversation that a bare number stands for.
   */
  async decideConversation(
    user: AuthenticatedUser,
    { kind, id }: NamedConversation,
  ): Promise<Decision<GrantedConversation>> {
    const [row] = await this.run<DecidedConversation>('decideConversation', [user.id, kind, id]);
    if (row?.refusal === null) return { granted: new ConversationGrant(row.kind, id) };
    return { refusal: row?.refusal ?? 'FORBIDDEN' };
  }

  /** Whether the user still exists and is not switched off. An upload asks this before it reads a byte. */
  async userExists(user: AuthenticatedUser): Promise<boolean> {
    return (await this.run('findUser', [user.id])).length > 0;
  }

  /**
   * Decides on one image, in a statement that it may share with requests that wait at the same moment. A request for a row
   * that another transaction holds waits apart from the others.
   */
  private decideOne(request: AccessRequest): Promise<DecidedRow> {
    return this.database.runAround(
      auditedRows(request),
      () => onceMoreWhenRowsWent(() => this.batcher.submit(request)),
      (run) => onceMoreWhenRowsWent(() => this.decideAlone(run, request)),
      (row) => row.refusal === null && row.variant !== null,
    );
  }

  private async decideAlone(run: RunStatement, request: AccessRequest): Promise<DecidedRow> {
    const [row] = await this.decideWith(run, [request]);
    return row ?? { refusal: 'IMAGE_NOT_FOUND', id: null };
  }

  private decideWith(run: RunStatement, requests: readonly AccessRequest[]): Promise<readonly DecidedRow[]> {
    return this.run<DecidedRow>(
      'decideImages',
      [
        requests.map(({ user }) => user.id),
        requests.map(({ image }) => (image && 'id' in image ? image.id : null)),
        requests.map(({ image }) => (image && 'filename' in image ? image.filename : null)),
        requests.map(({ image }) => (image && 'filename' in image ? (image.filePath ?? null) : null)),
        requests.map(({ wanted }) => wanted),
      ],
      run,
    );
  }

  private async findByLink(
    { filename, filePath }: ImageAddress,
    { appVersion, network }: LinkOpener,
    variant: Variant | null,
  ): Promise<ImageRow | undefined> {
    const values = [filename, filePath, appVersion, network, variant];
    const rows: readonly RowName[] = variant === null ? [] : [`chat_images ${filename}`];
    const [image] = await this.database.run<ImageRow>(this.statements.openByLink, values, rows);
    return image;
  }

  /** Runs a statement that looks at users, and once more where the main application has changed its table meanwhile. */
  private async run<Row extends object>(
    name: keyof AccessStatements,
    values: readonly unknown[],
    run: RunStatement = (statement, all) => this.database.run(statement, all),
  ): Promise<readonly Row[]> {
    try {
      return await run<Row>(this.statements[name], values);
    } catch (error) {
      if (!COLUMN_CHANGED.test(sqlState(error) ?? '')) throw error;
      this.logger.warn('the table users has changed: its columns are looked up again');
      await this.findUserColumns();
      return run<Row>(this.statements[name], values);
    }
  }

  private async findUserColumns(): Promise<void> {
    const columns = await this.database.run<UserColumn>(FIND_USER_COLUMNS, [this.activeColumn ?? null]);
    const mistake = activeColumnMistake(columns, this.activeColumn);
    if (mistake !== undefined) throw new UnusableTableError(`${mistake}.`);
    const unreadable = deletedAtMistake(columns);
    if (unreadable !== undefined) this.logger.warn(unreadable);
    this.statements = accessStatements(userRule(columns, this.activeColumn), this.textSessions);
  }
}

function decisionOf<Granted>(row: DecidedRow, grant: (image: ImageRow) => Granted): Decision<Granted> {
  if (row.refusal === null) return { granted: grant(row) };
  return row.id === null ? { refusal: row.refusal } : { refusal: row.refusal, imageId: row.id };
}

const imageGrant = ({ id, filePath }: ImageRow): ImageGrant => new ImageGrant(id, filePath);

function urlGrant(row: ImageRow, byLink: boolean): UrlGrant {
  const { id, filePath, mimeType, variant } = row;
  if (variant === null) throw new Error('An image without an audit row has no URL.');
  const objectKey = variant === 'thumbnail' ? thumbnailKey(filePath, mimeType) : filePath;
  return new UrlGrant(id, filePath, variant, objectKey, thumbnailOf(row), byLink);
}

/** The thumbnail of a row. A check constraint of the table holds that it has all the columns or none. */
export function thumbnailOf({
  thumbnailWidth: width,
  thumbnailHeight: height,
  thumbnailSize: size,
  thumbHash: hash,
}: ThumbnailColumns): StoredThumbnail | null {
  return width === null || height === null || size === null || hash === null
    ? null
    : { width, height, size, hash };
}

/**
 * Waits for the decisions on several images. An image whose row the database can't read or lock now is refused with
 * DATABASE_UNAVAILABLE, and the other images still get their decisions.
 */
export async function eachDecision<Granted>(
  pending: readonly Promise<Decision<Granted>>[],
): Promise<readonly Decision<Granted>[]> {
  const decisions = await Promise.allSettled(pending);
  const failures = decisions.filter((decision) => decision.status === 'rejected');
  const ofTheService = failures.find(({ reason }) => !(reason instanceof DatabaseUnavailableError));
  const ofAll = failures.length === decisions.length ? failures[0] : undefined;
  const failure = ofTheService ?? ofAll;
  if (failure) throw failure.reason;
  return decisions.map((decision) =>
    decision.status === 'fulfilled' ? decision.value : { refusal: 'DATABASE_UNAVAILABLE' },
  );
}

/**
 * @returns what was granted
 * @throws AppError with the refusal
 */
export function grantedOf<Granted>(decision: Decision<Granted>): Granted {
  if ('granted' in decision) return decision.granted;
  throw new AppError(decision.refusal);
}

/**
 * As {@link grantedOf}, with sentences that name the kind of conversation.
 *
 * @param act what the user may not do, such as `send images to`
 */
export function grantedConversation(
  decision: Decision<GrantedConversation>,
  { kind }: NamedConversation,
  act: string,
): GrantedConversation {
  if ('granted' in decision) return decision.granted;
  switch (decision.refusal) {
    case 'APPOINTMENT_NOT_FOUND':
      throw conversationNotFound({ kind });
    case 'FORBIDDEN':
      throw new AppError('FORBIDDEN', {
        message: `You do not have permission to ${act} this ${kind === 'bare' ? 'appointment' : kind}.`,
      });
    default:
      return grantedOf(decision);
  }
}

/** The image of a decision, for the log. */
export function imageIdOf(decision: Decision<GrantedImage>): number | undefined {
  return 'granted' in decision ? decision.granted.id : decision.imageId;
}

/** Decides once more when the row or the user of the audit row was deleted while the statement waited for its lock. */
function onceMoreWhenRowsWent(decide: () => Promise<DecidedRow>): Promise<DecidedRow> {
  return decide().catch((error: unknown) => {
    if (sqlState(error) !== FOREIGN_KEY_VIOLATION) throw error;
    return decide();
  });
}

/** The rows that the audit row of a request refers to. */
function auditedRows({ user, image, wanted }: AccessRequest): readonly RowName[] {
  if (!image || wanted === null) return [];
  return [`users ${user.id}`, `chat_images ${'id' in image ? image.id : image.filename}`];
}
