import { MAKEABLE_THUMBNAIL } from '../chat-images/entities/chat-image.entity.js';
import type { UserRule } from '../conversations/user-columns.js';
import { preparedStatement, type PreparedStatement } from '../database/prepared-statement.js';

/** The settings and columns from which the statements are built. */
type Rule = UserRule & {
  /** TEXT_SESSIONS. Without it no statement reads the table `text_sessions`. */
  readonly textSessions: boolean;
};

/**
 * THE permission rule: an image may be seen, and sent, by the patient and the doctor of its conversation. No role and no
 * flag opens an image to anybody else. This is its only copy. It reads the appointment or the text session under the alias
 * `conversation`.
 *
 * @param user an SQL expression: the id of the user who asks
 */
const isParticipant = (user: string): string =>
  `(conversation.patient_id = ${user} OR conversation.doctor_id = ${user})`;

/**
 * Joins the conversation of a row of `chat_images`, under the alias `conversation`.
 *
 * @param image the alias of the row
 */
const joinConversation = (image: string, { textSessions }: Rule): string =>
  textSessions
    ? `JOIN LATERAL (
        SELECT id, patient_id, doctor_id FROM appointments WHERE id = ${image}.appointment_id
        UNION ALL
        SELECT id, patient_id, doctor_id FROM text_sessions WHERE id = ${image}.text_session_id
      ) conversation ON true`
    : `JOIN appointments conversation ON conversation.id = ${image}.appointment_id`;

/**
 * Whether a row names a possible object: an object that this service has written, or a path that `isStorageKey` accepts.
 * The main application may write any text. A row that names no object counts as no image: nobody gets its URL, and no
 * audit row is written for it.
 */
export const namesAnObject = String.raw`(sha256_stored IS NOT NULL
  OR octet_length(file_path) <= 240 AND file_path !~ '(^|/)[.]{0,2}(/|$)|[\\\u0001-\u001f\u007f-\u009f]')`;

/** The columns of a decided image, and those that {@link joinConversation} needs: an unused column changes the plan. */
const imageColumns = ({ textSessions }: Rule): string =>
  `id, file_path, mime_type, ${THUMBNAIL_COLUMNS}, thumbnail_lease_until, appointment_id${textSessions ? ', text_session_id' : ''}`;

const THUMBNAIL_COLUMNS = 'thumbnail_width, thumbnail_height, thumbnail_size, thumb_hash';

/** What the result tells of an image. @param from what comes before the names of columns */
const imageResult = (from = ''): string =>
  `${from}id, ${from}file_path AS "filePath", ${from}mime_type AS "mimeType", ${from}thumbnail_width AS "thumbnailWidth",
    ${from}thumbnail_height AS "thumbnailHeight", ${from}thumbnail_size AS "thumbnailSize", ${from}thumb_hash AS "thumbHash"`;

/**
 * Decides on any number of requests, and writes the audit row of each request that is granted and asks for a URL. This is
 * the one place where audit rows are written. The result has one row for each request, in their order.
 *
 * A request for a thumbnail gets the whole picture where there is none. A request for a `new thumbnail` gets nothing, and no
 * audit row, where the thumbnail is missing and may be made: its `variant` is NULL.
 *
 * An image exists when it is stored. A person who is no user any more is told nothing about images.
 */
const decideImages = (rule: Rule): PreparedStatement =>
  preparedStatement(
    `decide-images${rule.suffix}`,
    `
    WITH asked AS (
      SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
        WITH ORDINALITY AS asked (user_id, image_id, filename, file_path, wanted, position)
    ), decided AS (
      SELECT asked.position, asked.user_id, image.id, image.file_path, image.mime_type, image.thumbnail_width,
        image.thumbnail_height, image.thumbnail_size, image.thumb_hash,
        CASE
          WHEN wanted IS NULL OR wanted = 'original' THEN wanted
          WHEN image.thumbnail_size IS NOT NULL THEN 'thumbnail'
          WHEN wanted = 'thumbnail' OR NOT ${MAKEABLE_THUMBNAIL('image')} THEN 'original'
        END AS variant,
        CASE
          WHEN users.id IS NULL THEN 'UNAUTHENTICATED'
          WHEN image.id IS NULL THEN 'IMAGE_NOT_FOUND'
          WHEN conversation.id IS NULL THEN 'APPOINTMENT_NOT_FOUND'
          WHEN ${isParticipant('asked.user_id')} THEN NULL
          ELSE 'FORBIDDEN'
        END AS refusal
      FROM asked
      LEFT JOIN users ON users.id = asked.user_id${rule.condition}
      LEFT JOIN LATERAL (
        SELECT ${imageColumns(rule)} FROM chat_images
        WHERE id = asked.image_id AND state = 'stored' AND ${namesAnObject}
        UNION ALL
        SELECT ${imageColumns(rule)} FROM chat_images
        WHERE filename = asked.filename AND state = 'stored' AND file_path = coalesce(asked.file_path, file_path)
          AND ${namesAnObject}
      ) image ON true
      LEFT ${joinConversation('image', rule)}
    ), audit AS (
      INSERT INTO chat_image_access (chat_image_id, accessed_by, variant)
      SELECT id, user_id, variant FROM decided WHERE refusal IS NULL AND variant IS NOT NULL
    )
    SELECT ${imageResult()}, variant, refusal FROM decided ORDER BY position`,
  );

/**
 * The conversation that `asked` names, under the alias `conversation`. With text sessions, a bare number is first the text
 * session of the user.
 */
const namedConversation = ({ textSessions }: Rule): string =>
  textSessions
    ? `LATERAL (
      SELECT 'text session' AS kind, id, patient_id, doctor_id FROM text_sessions conversation
      WHERE id = asked.id AND (asked.kind = 'text session' OR asked.kind = 'bare' AND ${isParticipant('asked.user_id')})
      UNION ALL
      SELECT 'appointment', id, patient_id, doctor_id FROM appointments WHERE id = asked.id AND asked.kind <> 'text session'
      ORDER BY kind DESC LIMIT 1
    ) conversation ON true`
    : `(
      SELECT 'appointment' AS kind, id, patient_id, doctor_id FROM appointments
    ) conversation ON conversation.id = asked.id AND asked.kind <> 'text session'`;

/** Decides on an upload to a conversation, or on a look at its list. */
const decideConversation = (rule: Rule): PreparedStatement =>
  preparedStatement(
    `decide-conversation${rule.suffix}`,
    `
    SELECT conversation.kind, CASE
        WHEN users.id IS NULL THEN 'UNAUTHENTICATED'
        WHEN conversation.id IS NULL THEN 'APPOINTMENT_NOT_FOUND'
        WHEN ${isParticipant('asked.user_id')} THEN NULL
        ELSE 'FORBIDDEN'
      END AS refusal
    FROM (SELECT $1::bigint AS user_id, $2::text AS kind, $3::bigint AS id) asked
    LEFT JOIN users ON users.id = asked.user_id${rule.condition}
    LEFT JOIN ${namedConversation(rule)}`,
  );

const findUser = ({ condition, suffix }: Rule): PreparedStatement =>
  preparedStatement(`find-user${suffix}`, `SELECT id FROM users WHERE users.id = $1::bigint${condition}`);

/**
 * Opens an image to whoever has its address, in the phases of the migration that allow it. There is no user to decide on,
 * so the row says which app and which network opened the image.
 */
const openByLink = (rule: Rule): PreparedStatement =>
  preparedStatement(
    `open-by-link${rule.suffix}`,
    `
    WITH opened_image AS (
      SELECT ${imageResult('image.')},
        CASE WHEN $5 = 'thumbnail' AND image.thumbnail_size IS NULL THEN 'original' ELSE $5::text END AS variant
      FROM chat_images image ${joinConversation('image', rule)}
      WHERE image.filename = $1 AND image.file_path = $2 AND image.state = 'stored'
    ), opened AS (
      INSERT INTO chat_image_link_opens (chat_image_id, app_version, client_network, variant)
      SELECT id, $3, $4, variant FROM opened_image WHERE variant IS NOT NULL
    )
    SELECT * FROM opened_image`,
  );

/** The statements that depend on the columns of users, or on TEXT_SESSIONS. */
export type AccessStatements = Record<
  'decideImages' | 'decideConversation' | 'findUser' | 'openByLink',
  PreparedStatement
>;

export function accessStatements(users: UserRule, textSessions: boolean): AccessStatements {
  const rule = { ...users, suffix: users.suffix + (textSessions ? '-text-sessions' : ''), textSessions };
  return {
    decideImages: decideImages(rule),
    decideConversation: decideConversation(rule),
    findUser: findUser(rule),
    openByLink: openByLink(rule),
  };
}

/** Counts a request for a picture that has not been imported yet. */
export const COUNT_REDIRECT = preparedStatement(
  'count-redirect',
  'INSERT INTO chat_image_link_opens (app_version, client_network) VALUES ($1, $2)',
);
