import pLimit from 'p-limit';
import type { SignedUrlResponseDto } from '../../src/chat-images/dto/signed-url.dto.js';
import { pixels } from '../support/pictures.js';
import type { Clients } from './clients.js';
import type { Fleet } from './fleet.js';
import { type Ledger, type SentPicture, sha256 } from './ledger.js';
import { INSTANCES } from './plan.js';

/** The number of pictures that are read at the same time. */
const CONCURRENCY = 4;

type Row = {
  readonly id: number;
  readonly user: number;
  readonly appointment: number;
  readonly state: string;
  readonly filePath: string;
  readonly thumbnail: string | null;
  readonly size: number;
  readonly sent: string;
  readonly stored: string;
};

/** The final counts, and the findings. */
export type Balance = {
  readonly counts: Readonly<Record<string, number>>;
  readonly findings: readonly string[];
};

/** Compares the responses of all clients with the database and the storage, after upkeep. */
export async function balanceBooks(fleet: Fleet, ledger: Ledger, clients: Clients): Promise<Balance> {
  const findings: string[] = [];
  const rows = await readRows(fleet);
  const keys = await fleet.storage.keys();
  const sent = [...ledger.pictures.values()];
  const answered = sent.filter(({ answers }) => answers.length > 0);

  for (const { id, state } of rows) if (state !== 'stored') findings.push(`image ${id} is still ${state}.`);
  const named = rows.flatMap(({ filePath, thumbnail }) => [
    filePath,
    ...(thumbnail === null ? [] : [thumbnail]),
  ]);
  findings.push(
    ...missing(keys, named).map((key) => `the object ${key} has no row.`),
    ...missing(named, keys).map((key) => `the row of ${key} has no object.`),
  );
  const times = new Map<string, number>();
  for (const row of rows) times.set(rowKey(row), (times.get(rowKey(row)) ?? 0) + 1);
  for (const [picture, count] of times) {
    if (count > 1) findings.push(`the picture ${picture} is stored ${count} times.`);
    if (!ledger.pictures.has(picture)) findings.push(`nobody has sent the picture ${picture}.`);
  }
  for (const { user, answers, sha256: digest } of answered) {
    const ids = [...new Set(answers.map(({ id }) => id))];
    if (ids.length > 1)
      findings.push(`user ${user} was told of the images ${ids.join(', ')} for one picture ${digest}.`);
  }

  const rowById = new Map(rows.map((row) => [row.id, row]));
  const limit = pLimit(CONCURRENCY);
  const read = await limit.map(answered, (picture, index) =>
    readPicture(picture, rowById, { clients, ledger, instance: index % INSTANCES }),
  );
  findings.push(...read.flat());
  findings.push(...(await auditFindings(fleet, ledger, rows)));
  findings.push(...(await keyFindings(fleet, answered)));
  return {
    counts: {
      'pictures sent': sent.length,
      'of them with a success': answered.length,
      'images stored': rows.length,
      objects: keys.length,
    },
    findings,
  };
}

/** Reads a picture by the signed URL of its upload, and by new URLs of its patient and its doctor. */
async function readPicture(
  { user, appointment, answers, picture, sha256: digest }: SentPicture,
  rows: ReadonlyMap<number, Row>,
  { clients, ledger, instance }: { clients: Clients; ledger: Ledger; instance: number },
): Promise<string[]> {
  const [image] = answers;
  if (!image) return [];
  const name = `the image ${image.id} of user ${user}`;
  const row = rows.get(image.id);
  if (!row) return [`${name} has no row, but was answered with 200.`];
  const findings: string[] = [];
  if (row.sent !== digest || row.user !== user || row.appointment !== appointment.id)
    findings.push(`${name} has the row of another picture.`);
  const urls = [image.signed_url];
  for (const as of [appointment.patient, appointment.doctor]) {
    const answer = await clients.call({ instance, as, path: `/api/chat-images/${image.id}/signed-url` });
    if (answer?.status === 200) {
      urls.push((answer.body as SignedUrlResponseDto).data.url);
      ledger.handedOut(as, image.id);
    } else {
      findings.push(`${name}: no URL for user ${as}, but ${answer?.status ?? 'no answer'}.`);
      ledger.mayBeLost(as, image.id);
    }
  }
  for (const [index, url] of urls.entries()) {
    const response = await fetch(url);
    const bytes = Buffer.from(await response.arrayBuffer());
    if (response.status !== 200) findings.push(`${name} is read with ${response.status}.`);
    else if (sha256(bytes) !== row.stored || bytes.length !== row.size)
      findings.push(`${name} has other bytes than its row says.`);
    else if (index === 0 && !(await pixels(bytes)).equals(await pixels(await picture())))
      findings.push(`${name} has other pixels than were sent.`);
  }
  return findings;
}

/** Finds URLs without an audit row, and audit rows without a URL when no response can have been lost. */
async function auditFindings(fleet: Fleet, ledger: Ledger, rows: readonly Row[]): Promise<string[]> {
  const trail = await fleet.withDatabase((database) =>
    database.query<{ image: number; user: number; count: number; outsider: boolean }[]>(
      `SELECT chat_image_id::int AS image, accessed_by::int AS user, count(*)::int AS count,
         bool_or(accessed_by NOT IN (patient_id, doctor_id)) AS outsider
       FROM chat_image_access JOIN chat_images ON chat_images.id = chat_image_id
         JOIN appointments ON appointments.id = appointment_id
       GROUP BY chat_image_id, accessed_by`,
    ),
  );
  const counts = new Map(trail.map(({ image, user, count }) => [`${user} ${image}`, count]));
  const findings = trail
    .filter(({ outsider }) => outsider)
    .map(({ image, user }) => `the outsider ${user} has an audit row of the image ${image}.`);
  for (const row of rows) {
    const sent = ledger.pictures.get(rowKey(row));
    for (const user of sent ? [sent.appointment.patient, sent.appointment.doctor] : []) {
      const audited = counts.get(`${user} ${row.id}`) ?? 0;
      const received = ledger.urlCount(user, row.id);
      const isCertain = ledger.isCertain(user, row.id) && (user !== row.user || sent?.isCertain === true);
      ledger.count(isCertain ? 'audit trails held against every URL' : 'audit trails with a lost answer');
      if (audited < received || (isCertain && audited > received))
        findings.push(
          `user ${user} has had ${received} URLs of the image ${row.id}, with ${audited} audit rows.`,
        );
    }
  }
  return findings;
}

/** Finds idempotency keys that name another image than their response. */
async function keyFindings(fleet: Fleet, answered: readonly SentPicture[]): Promise<string[]> {
  const rows = await fleet.withDatabase((database) =>
    database.query<{ user: number; key: string; image: number }[]>(
      `SELECT uploaded_by::int AS user, idempotency_key AS key, chat_image_id::int AS image FROM chat_image_upload_keys`,
    ),
  );
  const named = new Map(rows.map(({ user, key, image }) => [`${user} ${key}`, image]));
  return answered.flatMap(({ user, answers: [image], keys }) =>
    [...keys]
      .filter((key) => named.get(`${user} ${key}`) !== image?.id)
      .map(
        (key) =>
          `the key ${key} names the image ${named.get(`${user} ${key}`)}, but was answered with ${image?.id}.`,
      ),
  );
}

function readRows(fleet: Fleet): Promise<Row[]> {
  return fleet.withDatabase((database) =>
    database.query<Row[]>(
      `SELECT id::int, uploaded_by::int AS user, appointment_id::int AS appointment, state, file_path AS "filePath", size,
         CASE WHEN thumbnail_size IS NOT NULL THEN chat_image_thumbnail_key(file_path, mime_type) END AS thumbnail,
         sha256_sent AS sent, sha256_stored AS stored
       FROM chat_images ORDER BY id`,
    ),
  );
}

function missing(from: readonly string[], of: readonly string[]): readonly string[] {
  const all = new Set(of);
  return from.filter((key) => !all.has(key));
}

/** The ledger's key of a picture. */
const rowKey = ({ user, appointment, sent }: Row): string => `${user} ${appointment} ${sent}`;
