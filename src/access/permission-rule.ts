import type { UserRule } from '../conversations/user-columns.js';
import { preparedStatement, type PreparedStatement } from '../database/request-database.js';

/**
 * THE permission rule: an image may be seen, and sent, by the appointment's patient and doctor. No role and no flag opens
 * an image to anybody else. This is its only copy.
 *
 * @param user an SQL expression: the id of the user who asks
 */
const isParticipant = (user: string): string =>
  `(appointments.patient_id = ${user} OR appointments.doctor_id = ${user})`;

/**
 * Whether a row names a possible object: an object that this service has written, or a path that `isStorageKey` accepts.
 * The main application may write any text. A row that names no object counts as no image: nobody gets its URL, and no
 * audit row is written for it.
 */
export const namesAnObject = String.raw`(sha256_stored IS NOT NULL
  OR octet_length(file_path) <= 240 AND file_path !~ '(^|/)[.]{0,2}(/|$)|[\\\u0001-\u001f\u007f-\u009f]')`;

/**
 * Decides on any number of requests, and writes the audit row of each request that is granted and asks for a URL. This is
 * the one place where audit rows are written. The result has one row for each request, in their order.
 *
 * An image exists when it is stored. A person who is no user any more is told nothing about images.
 */
const decideImages = ({ condition, suffix }: UserRule): PreparedStatement =>
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
    ), audit AS (
      INSERT INTO chat_image_access (chat_image_id, accessed_by)
      SELECT id, user_id FROM decided WHERE refusal IS NULL AND recorded
    )
    SELECT id, file_path AS "filePath", refusal FROM decided ORDER BY position`,
  );

/** Decides on an upload to an appointment, or on a look at its list. */
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

const findUser = ({ condition, suffix }: UserRule): PreparedStatement =>
  preparedStatement(`find-user${suffix}`, `SELECT id FROM users WHERE users.id = $1::bigint${condition}`);

/** The statements that look at users. */
export type AccessStatements = Record<'decideImages' | 'decideAppointment' | 'findUser', PreparedStatement>;

export const accessStatements = (rule: UserRule): AccessStatements => ({
  decideImages: decideImages(rule),
  decideAppointment: decideAppointment(rule),
  findUser: findUser(rule),
});

/**
 * Opens an image to whoever has its address, in the phases of the migration that allow it. There is no user to decide on,
 * so the row says which app and which network opened the image.
 */
export const OPEN_BY_LINK = preparedStatement(
  'open-by-link',
  `
    WITH image AS (
      SELECT chat_images.id, file_path FROM chat_images JOIN appointments ON appointments.id = appointment_id
      WHERE filename = $1 AND file_path = $2 AND state = 'stored'
    ), opened AS (
      INSERT INTO chat_image_link_opens (chat_image_id, app_version, client_network)
      SELECT id, $3, $4 FROM image WHERE $5::boolean
    )
    SELECT id, file_path AS "filePath" FROM image`,
);

/** Counts a request for a picture that has not been imported yet. */
export const COUNT_REDIRECT = preparedStatement(
  'count-redirect',
  'INSERT INTO chat_image_link_opens (app_version, client_network) VALUES ($1, $2)',
);
