import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import type { AuthenticatedUser } from '../auth/token-verifier.js';
import { SETTINGS, type Settings } from '../config/settings.js';
import {
  concernsEveryStatement,
  DatabaseUnavailableError,
  isLockFailure,
  lockedTable,
  sqlState,
} from '../database/database-failure.js';
import type { RowName } from '../database/held-rows.js';
import {
  preparedStatement,
  type PreparedStatement,
  RequestDatabase,
  type RunStatement,
} from '../database/request-database.js';
import { StatementBatcher } from '../database/statement-batcher.js';
import type { ErrorCode } from '../errors/app-error.js';
import {
  activeColumnMistake,
  deletedAtMistake,
  EVERY_USER,
  FIND_USER_COLUMNS,
  UnusableUsersError,
  type UserColumn,
  type UserRule,
  userRule,
} from '../conversations/user-columns.js';

/** An image at a stable address. */
export type NamedByPath = { readonly filename: string; readonly filePath: string };

/** How a client names an image. */
export type ImageReference =
  { readonly id: number } | { readonly filename: string; readonly filePath?: undefined } | NamedByPath;

/** Asks whether a user may see an image. */
export type ImageAccessRequest = {
  readonly user: AuthenticatedUser;
  readonly image: ImageReference | undefined;
  /** Whether the image's URL is handed out when the answer is yes, which leaves a row in the audit trail. */
  readonly recorded: boolean;
};

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

/** An image that a user may see. */
export type GrantedImage = { readonly id: number; readonly filePath: string };

export type ImageDecision =
  | {
      readonly refusal: Refusal;
      /** The image that it was refused for, where there is one; for the log, never for the client. */
      readonly imageId?: number;
    }
  | { readonly granted: GrantedImage };

/**
 * THE permission rule, in the one form in which it is applied: an image may be seen, and sent, by the appointment's patient
 * and doctor. No role and no flag opens it to anybody else.
 *
 * @param user an SQL expression: the id of the user who asks
 */
const isParticipant = (user: string): string =>
  `(appointments.patient_id = ${user} OR appointments.doctor_id = ${user})`;

/**
 * Whether a row names an object that can be one: the object that this service has written, or a path that `isStorageKey` lets
 * through. The main application may write any text, and a row that names no object is no image: nobody is handed its URL,
 * and no audit row says so.
 */
export const namesAnObject = String.raw`(sha256_stored IS NOT NULL
  OR octet_length(file_path) <= 240 AND file_path !~ '(^|/)[.]{0,2}(/|$)|[\\\u0001-\u001f\u007f-\u009f]')`;

/**
 * Decides on any number of requests and writes the audit rows of those that it grants. One row an item, in their order.
 * An image exists when it is stored; whoever is no user any more is told nothing of images.
 */
export const decideImages = ({ condition, suffix }: UserRule): PreparedStatement =>
  preparedStatement(
    `decide-images${suffix}`,
    `
    WITH asked AS (
      SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::boolean[])
        WITH ORDINALITY AS asked (user_id, image_id, filename, file_path, recorded, position)
    ), decided AS (
      SELECT position, user_id, recorded, image.id, image.file_path,
        CASE
          WHEN users.id IS NULL THEN 'UNAUTHENTICATED'
          WHEN image.id IS NULL THEN 'IMAGE_NOT_FOUND'
          WHEN appointments.id IS NULL THEN 'APPOINTMENT_NOT_FOUND'
          WHEN ${isParticipant('user_id')} THEN NULL
          ELSE 'FORBIDDEN'
        END AS refusal
      FROM asked
      LEFT JOIN users ON users.id = user_id${condition}
      LEFT JOIN LATERAL (
        SELECT id, file_path, appointment_id FROM chat_images
        WHERE id = asked.image_id AND state = 'stored' AND ${namesAnObject}
        UNION ALL
        SELECT id, file_path, appointment_id FROM chat_images
        WHERE filename = asked.filename AND state = 'stored' AND file_path = coalesce(asked.file_path, file_path)
          AND ${namesAnObject}
      ) image ON true
      LEFT JOIN appointments ON appointments.id = image.appointment_id
    ), trail AS (
      INSERT INTO chat_image_access (chat_image_id, accessed_by)
      SELECT id, user_id FROM decided WHERE refusal IS NULL AND recorded
    )
    SELECT id, file_path AS "filePath", refusal FROM decided ORDER BY position`,
  );

/** Decides on an upload to an appointment, or a look at its list. */
const decideAppointment = ({ condition, suffix }: UserRule): PreparedStatement =>
  preparedStatement(
    `decide-appointment${suffix}`,
    `
    SELECT CASE
        WHEN users.id IS NULL THEN 'UNAUTHENTICATED'
        WHEN appointments.id IS NULL THEN 'APPOINTMENT_NOT_FOUND'
        WHEN ${isParticipant('asked.user_id')} THEN NULL
        ELSE 'FORBIDDEN'
      END AS refusal
    FROM (SELECT $1::bigint AS user_id, $2::bigint AS appointment_id) asked
    LEFT JOIN users ON users.id = asked.user_id${condition}
    LEFT JOIN appointments ON appointments.id = asked.appointment_id`,
  );

/** Opens an image to whoever has its address, in the phases that allow it: recorded, as there is no user to decide on. */
export const OPEN_BY_LINK = preparedStatement(
  'open-by-link',
  `
    WITH image AS (
      SELECT chat_images.id, file_path FROM chat_images JOIN appointments ON appointments.id = appointment_id
      WHERE filename = $1 AND file_path = $2 AND state = 'stored'
    ), trail AS (
      INSERT INTO chat_image_link_opens (chat_image_id, app_version, client_network)
      SELECT id, $3, $4 FROM image WHERE $5::boolean
    )
    SELECT id, file_path AS "filePath" FROM image`,
);

/** Counts a request for a picture that is not here yet. */
const COUNT_SENT_ON = preparedStatement(
  'count-sent-on',
  'INSERT INTO chat_image_link_opens (app_version, client_network) VALUES ($1, $2)',
);

const findUser = ({ condition, suffix }: UserRule): PreparedStatement =>
  preparedStatement(`find-user${suffix}`, `SELECT id FROM users WHERE users.id = $1::bigint${condition}`);

/** The statements that look at users. */
type UserStatements = Record<'decideImages' | 'decideAppointment' | 'findUser', PreparedStatement>;

const userStatements = (rule: UserRule): UserStatements => ({
  decideImages: decideImages(rule),
  decideAppointment: decideAppointment(rule),
  findUser: findUser(rule),
});

/** A column is not there any more, or of another type than it was. */
const COLUMN_CHANGED = /^(42703|42804|42883)$/;

const FOREIGN_KEY_VIOLATION = '23503';

/**
 * Room for the hundred that one client may ask for and for others beside them; two at a time, as one waits for its commit
 * while the other is worked at. A batch lasts some milliseconds: who has waited for a second waits for a database that hangs.
 */
const BATCH_LIMITS = { maxItems: 200, maxInFlight: 2, maxWaitMs: 1000 };

type DecidedRow =
  (GrantedImage & { readonly refusal: null }) | { readonly refusal: Refusal; readonly id: number | null };

function decisionOf(row: DecidedRow): ImageDecision {
  if (row.refusal === null) return { granted: { id: row.id, filePath: row.filePath } };
  return row.id === null ? { refusal: row.refusal } : { refusal: row.refusal, imageId: row.id };
}

/** What the database knows of who may see which image. The AppointmentParticipantGuard asks, and enforces the answer. */
@Injectable()
export class ImageAccess implements OnModuleInit {
  private readonly logger = new Logger(ImageAccess.name);
  private readonly activeColumn: string | undefined;
  private statements = userStatements(EVERY_USER);
  private readonly batcher = new StatementBatcher(
    (requests: readonly ImageAccessRequest[]) =>
      this.decideWith((statement, values) => this.database.runShared(statement, values), requests),
    // A lock of a whole table is everybody's, a lock of a row is that of whoever asks for it.
    (error) => concernsEveryStatement(error) || (isLockFailure(error) && lockedTable(error) === undefined),
    BATCH_LIMITS,
    (request) => this.database.isHeld(rowsOfTrail(request)),
  );

  constructor(
    private readonly database: RequestDatabase,
    @Inject(SETTINGS) { usersActiveColumn }: Settings,
  ) {
    this.activeColumn = usersActiveColumn;
  }

  /** @throws UnusableUsersError where the column that the settings name can't be used */
  async onModuleInit(): Promise<void> {
    await this.findUserColumns();
  }

  /**
   * Decides on one image, in a statement that it may share with others that wait at the same moment. When this
   * resolves, the audit row of what was granted is committed. Who asks for a row that another transaction holds waits
   * apart from the others.
   */
  decide(request: ImageAccessRequest): Promise<ImageDecision> {
    return this.database.runAround(
      rowsOfTrail(request),
      () => onceMoreWhenRowsWent(() => this.batcher.submit(request)),
      (run) => this.decideAlone(run, request),
      (decision) => 'granted' in decision,
    );
  }

  /**
   * Decides on several images, together: as {@link decide}, for each in its order. One whose row the database can not get
   * at now is refused with DATABASE_UNAVAILABLE, and does not keep the others from their answers.
   */
  async decideEach(requests: readonly ImageAccessRequest[]): Promise<readonly ImageDecision[]> {
    const decisions = await Promise.allSettled(requests.map((request) => this.decide(request)));
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
   * Opens an image by its address alone. Whether the phase allows that is the guard's to know. When this resolves, the row
   * that records it is committed.
   *
   * @param recorded whether the image's URL is handed out
   * @returns nothing where there is no such image
   */
  async openByLink(
    { filename, filePath }: NamedByPath,
    { appVersion, network }: LinkOpener,
    recorded: boolean,
  ): Promise<GrantedImage | undefined> {
    const values = [filename, filePath, appVersion, network, recorded];
    const rows: readonly RowName[] = recorded ? [`chat_images ${filename}`] : [];
    const [image] = await this.database.run<GrantedImage>(OPEN_BY_LINK, values, rows);
    return image;
  }

  /** Counts a request that is sent on to the public place of the old pictures, so that their readers are known of. */
  async countSentOn({ appVersion, network }: LinkOpener): Promise<void> {
    await this.database.run(COUNT_SENT_ON, [appVersion, network]);
  }

  /** @returns why the user may neither send to the appointment nor list its images; `undefined` when both are allowed */
  async refusalForAppointment(user: AuthenticatedUser, appointmentId: number): Promise<Refusal | undefined> {
    const [row] = await this.run<{ refusal: Refusal | null }>('decideAppointment', [user.id, appointmentId]);
    return row ? (row.refusal ?? undefined) : 'FORBIDDEN';
  }

  /** Whether the user still exists, and is not switched off, before anything that it sends is read. */
  async userExists(user: AuthenticatedUser): Promise<boolean> {
    return (await this.run('findUser', [user.id])).length > 0;
  }

  /** Runs the one statement for all. */
  private async decideWith(
    run: RunStatement,
    requests: readonly ImageAccessRequest[],
  ): Promise<readonly ImageDecision[]> {
    const rows = await this.run<DecidedRow>(
      'decideImages',
      [
        requests.map(({ user }) => user.id),
        requests.map(({ image }) => (image && 'id' in image ? image.id : null)),
        requests.map(({ image }) => (image && 'filename' in image ? image.filename : null)),
        requests.map(({ image }) => (image && 'filename' in image ? (image.filePath ?? null) : null)),
        requests.map(({ recorded }) => recorded),
      ],
      run,
    );
    return rows.map(decisionOf);
  }

  private decideAlone(run: RunStatement, request: ImageAccessRequest): Promise<ImageDecision> {
    return onceMoreWhenRowsWent(async () => {
      const [decision] = await this.decideWith(run, [request]);
      return decision ?? { refusal: 'IMAGE_NOT_FOUND' };
    });
  }

  /** Once more where the main application has changed its table in the meantime. */
  private async run<Row extends object>(
    name: keyof UserStatements,
    values: readonly unknown[],
    run: RunStatement = (statement, all) => this.database.run(statement, all),
  ): Promise<readonly Row[]> {
    try {
      return await run<Row>(this.statements[name], values);
    } catch (error) {
      if (!COLUMN_CHANGED.test(sqlState(error) ?? '')) throw error;
      this.logger.warn('the table users has changed: its columns are looked for anew');
      await this.findUserColumns();
      return run<Row>(this.statements[name], values);
    }
  }

  private async findUserColumns(): Promise<void> {
    const columns = await this.database.run<UserColumn>(FIND_USER_COLUMNS, [this.activeColumn ?? null]);
    const mistake = activeColumnMistake(columns, this.activeColumn);
    if (mistake !== undefined) throw new UnusableUsersError(`${mistake}.`);
    const unreadable = deletedAtMistake(columns);
    if (unreadable !== undefined) this.logger.warn(unreadable);
    this.statements = userStatements(userRule(columns, this.activeColumn));
  }
}

/** Decides anew when the row or the user that the audit row refers to was removed while the statement waited for its lock. */
function onceMoreWhenRowsWent(decide: () => Promise<ImageDecision>): Promise<ImageDecision> {
  return decide().catch((error: unknown) => {
    if (sqlState(error) !== FOREIGN_KEY_VIOLATION) throw error;
    return decide();
  });
}

/** The rows that the audit row of a request refers to. */
function rowsOfTrail({ user, image, recorded }: ImageAccessRequest): readonly RowName[] {
  if (!image || !recorded) return [];
  return [`users ${user.id}`, `chat_images ${'id' in image ? image.id : image.filename}`];
}
