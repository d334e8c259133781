import { createHash } from 'node:crypto';
import sharp from 'sharp';
import { pick, type RandomNumbers, randomNumbers } from '../support/random-numbers.js';

/** A conversation of the previous system, as its folder names it. */
export type OldConversation = {
  readonly folder: string;
  readonly isTextSession: boolean;
  readonly id: number;
  readonly patient: number;
  readonly doctor: number;
};

/** A user without conversations. */
export const STRANGER = 90;

const DOCTORS = [31, 32, 33] as const;

const APPOINTMENTS: readonly OldConversation[] = Array.from({ length: 12 }, (_, index) => ({
  folder: `appointment_${201 + index}`,
  isTextSession: false,
  id: 201 + index,
  patient: 11 + index,
  doctor: DOCTORS[index % DOCTORS.length] ?? 0,
}));

const TEXT_SESSIONS: readonly OldConversation[] = [71, 72].map((id, index) => ({
  folder: `text_session_${id}`,
  isTextSession: true,
  id,
  patient: 11 + index,
  doctor: 33,
}));

/** Conversations that new pictures are sent to. */
export const OPEN_CONVERSATIONS: readonly OldConversation[] = [...APPOINTMENTS, ...TEXT_SESSIONS];

/** One in so many pictures belongs to a text session. */
const TEXT_SESSION_SHARE = 7;

/** The share of files that are odd: one in ten. */
const ODD_SHARE = 10;

/** The ways in which a file can be odd. The first two are imported all the same. */
export const ODD_KINDS = [
  'wrong extension',
  'upper case',
  'no appointment',
  'no text session',
  'corrupt',
  'no picture',
  'zero bytes',
  'symbolic link',
  'unreadable',
  'dots in the path',
  'changing',
  'same name twice',
] as const;

export type OddKind = (typeof ODD_KINDS)[number];

/** A file of the old installation. */
export type OldFile = {
  readonly path: string;
  readonly kind: 'good' | OddKind;
  readonly bytes: Buffer;
  /** The detected type of a picture. */
  readonly mimeType: string;
  readonly conversation: OldConversation;
  /** Who has sent it, as the installation knows. */
  readonly sender: number;
  /** Where the sender is known from. */
  readonly knownFrom: 'manifest' | 'query' | 'default';
};

/** A file or folder that is no picture of a chat. */
export type UnknownThing = {
  readonly path: string;
  readonly bytes: Buffer;
  /** The path that the report names, and its reason: of a folder, and of a bucket. */
  readonly inFolder: readonly [path: string, reason: string];
  readonly inBucket: readonly [path: string, reason: string];
};

/** An old installation: pictures, odd files, and things that are nobody's business. */
export type Installation = {
  readonly files: readonly OldFile[];
  readonly unknown: readonly UnknownThing[];
  /** The conversations of pictures that have the same name twice. */
  readonly conversations: readonly OldConversation[];
};

/** Kinds that become private pictures. Of `same name twice` only one of the two does. */
export const isGood = ({ kind }: OldFile): boolean =>
  kind === 'good' || kind === 'wrong extension' || kind === 'upper case';

/** Kinds that are no pictures for the listing, so that they are reported as unknown. */
export const isUnknownKind = ({ kind }: OldFile): boolean =>
  kind === 'symbolic link' || kind === 'dots in the path';

/** Generates an installation, the same for the same number of files. */
export async function generateInstallation(count: number, kinds: readonly OddKind[]): Promise<Installation> {
  const random = randomNumbers(count, 17);
  const files: OldFile[] = [];
  const conversations = [...OPEN_CONVERSATIONS];
  for (let index = 0; files.length < count; index += 1) {
    const isOdd = index % ODD_SHARE === ODD_SHARE - 1;
    const kind = isOdd ? kinds[Math.floor(index / ODD_SHARE) % kinds.length] : 'good';
    if (kind === 'same name twice') {
      const pair = await twins(index, random);
      conversations.push(...pair.conversations);
      files.push(...pair.files);
    } else if (kind) {
      files.push(await oldFile(index, kind, random));
    }
  }
  return { files, unknown: unknownThings(), conversations };
}

/** The tables of the main application that hold the conversations and the messages. */
export function tablesOf({
  files,
  conversations,
}: Installation): readonly [sql: string, values: unknown[]][] {
  const users = [
    ...new Set([STRANGER, ...conversations.flatMap(({ patient, doctor }) => [patient, doctor])]),
  ];
  const rows = (ofTextSessions: boolean): unknown[] => [
    JSON.stringify(conversations.filter(({ isTextSession }) => isTextSession === ofTextSessions)),
  ];
  const messages = files.filter(({ knownFrom }) => knownFrom === 'query');
  const insert = (table: string): string =>
    `INSERT INTO ${table} (id, patient_id, doctor_id)
     SELECT id, patient, doctor FROM jsonb_to_recordset($1::jsonb) AS row (id bigint, patient bigint, doctor bigint)`;
  return [
    ['DELETE FROM chat_images', []],
    ['INSERT INTO users (id) SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING', [users]],
    [insert('appointments'), rows(false)],
    [
      `CREATE TABLE text_sessions (id bigserial PRIMARY KEY, patient_id bigint NOT NULL REFERENCES users (id),
         doctor_id bigint NOT NULL REFERENCES users (id), status varchar(32) NOT NULL DEFAULT 'active',
         created_at timestamp(0) without time zone)`,
      [],
    ],
    [insert('text_sessions'), rows(true)],
    ['CREATE TABLE chat_messages (id bigserial PRIMARY KEY, media_url text, sender_id bigint)', []],
    [
      `INSERT INTO chat_messages (media_url, sender_id)
       SELECT 'https://old.example.com/storage/' || path, sender
       FROM jsonb_to_recordset($1::jsonb) AS row (path text, sender bigint)`,
      [JSON.stringify(messages.map(({ path, sender }) => ({ path, sender })))],
    ],
  ];
}

/** The query on these tables that names senders. */
export const UPLOADER_QUERY = 'SELECT media_url AS file_path, sender_id AS uploaded_by FROM chat_messages';

/** The manifest, with a row that climbs out of the folder and names no file. */
export function manifestOf({ files }: Installation): string {
  const rows = files
    .filter(({ knownFrom }) => knownFrom === 'manifest')
    .map(({ path, sender }) => `${path},${sender},${createdAtOf(path)}`);
  return ['file_path,uploaded_by,created_at', '../../../etc/1700000000_aaaaaaaaaa.jpg,31,', ...rows, ''].join(
    '\n',
  );
}

/** The time in the manifest: one hour after the time in the file name. */
export function createdAtOf(path: string): string {
  return new Date((secondsOf(path) + 3600) * 1000).toISOString();
}

export function secondsOf(path: string): number {
  return Number(/\/(\d+)_[^/]*$/.exec(path)?.[1]);
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A small random picture, with a place and a comment in it where its format has room for them. */
export async function makePicture(
  random: RandomNumbers,
  format: 'jpeg' | 'png' | 'webp' | 'gif',
): Promise<Buffer> {
  const [width, height] = [24 + random(40), 24 + random(40)];
  const noise = Buffer.from(Array.from({ length: width * height * 3 }, () => random(256)));
  const image = sharp(noise, { raw: { width, height, channels: 3 } }).toFormat(format);
  return (format === 'gif' ? image : image.withExif({ IFD0: { Artist: `${random(1_000_000)}` } })).toBuffer();
}

async function oldFile(
  index: number,
  kind: Exclude<OldFile['kind'], 'same name twice'>,
  random: RandomNumbers,
): Promise<OldFile> {
  const format = pick(random, ['jpeg', 'jpeg', 'jpeg', 'png', 'webp', 'gif'] as const);
  const picture = await makePicture(random, format);
  const extension = format === 'jpeg' ? 'jpg' : format;
  const conversation = conversationOf(index, kind, random);
  const name = `${secondsAt(index)}_${lettersOf(index)}`;
  const path = `chat_images/${conversation.folder}/${name}`;
  const file = {
    kind,
    bytes: picture,
    mimeType: `image/${format}`,
    conversation,
    ...senderOf(index, conversation),
  };
  switch (kind) {
    case 'wrong extension':
      return { ...file, path: `${path}.${format === 'png' ? 'jpg' : 'png'}` };
    case 'upper case':
      return { ...file, path: `${path}.${extension.toUpperCase()}` };
    case 'corrupt': {
      const whole = await makePicture(random, 'jpeg');
      return { ...file, path: `${path}.jpg`, bytes: whole.subarray(0, Math.floor(whole.length / 2)) };
    }
    case 'no picture':
      return { ...file, path: `${path}.jpg`, bytes: Buffer.from('<html>not found</html>') };
    case 'zero bytes':
      return { ...file, path: `${path}.jpg`, bytes: Buffer.alloc(0) };
    case 'dots in the path':
      return { ...file, path: `chat_images/${conversation.folder}/..${name}.${extension}` };
    case 'changing':
      // Behind the picture is so much that reading it takes a while.
      return {
        ...file,
        path: `${path}.${extension}`,
        bytes: Buffer.concat([picture, Buffer.alloc(LONG_TAIL)]),
      };
    default:
      return { ...file, path: `${path}.${extension}` };
  }
}

/** Nearly the 10 MiB that an upload may have. */
const LONG_TAIL = 9 * 1024 * 1024;

/** Two pictures with the same name: next to each other in the order of paths, or far apart. */
async function twins(
  index: number,
  random: RandomNumbers,
): Promise<{ files: OldFile[]; conversations: OldConversation[] }> {
  const name = `${secondsAt(index)}_${lettersOf(index)}.jpg`;
  const pair = (index / ODD_SHARE) % 2 < 1 ? [0, 1] : [0, 5000];
  const conversations = pair.map((distance): OldConversation => {
    const id = 3000 + 2 * index + distance;
    return { folder: `appointment_${id}`, isTextSession: false, id, patient: 11, doctor: 31 };
  });
  const files: OldFile[] = [];
  for (const conversation of conversations)
    files.push({
      path: `chat_images/${conversation.folder}/${name}`,
      kind: 'same name twice',
      bytes: await makePicture(random, 'jpeg'),
      mimeType: 'image/jpeg',
      conversation,
      sender: conversation.patient,
      knownFrom: 'default',
    });
  return { files, conversations };
}

function conversationOf(index: number, kind: OldFile['kind'], random: RandomNumbers): OldConversation {
  if (kind === 'no appointment')
    return { folder: 'appointment_999', isTextSession: false, id: 999, patient: 11, doctor: 31 };
  if (kind === 'no text session')
    return { folder: 'text_session_999', isTextSession: true, id: 999, patient: 11, doctor: 31 };
  return pick(random, index % TEXT_SESSION_SHARE === 0 ? TEXT_SESSIONS : APPOINTMENTS);
}

/** Half of the senders are in the manifest, a few in the messages, and the rest is the patient. */
function senderOf(
  index: number,
  { patient, doctor }: OldConversation,
): Pick<OldFile, 'sender' | 'knownFrom'> {
  if (index % 2 === 0) return { sender: index % 4 === 0 ? doctor : patient, knownFrom: 'manifest' };
  if (index % 5 === 0) return { sender: doctor, knownFrom: 'query' };
  return { sender: patient, knownFrom: 'default' };
}

const secondsAt = (index: number): number => 1_700_000_000 + index * 61;

function lettersOf(index: number): string {
  return `${index.toString(36)}Zz9yXxWwVvUu`.slice(0, 10);
}

function unknownThings(): readonly UnknownThing[] {
  const thing = (
    path: string,
    inFolder: readonly [string, string],
    inBucket: readonly [string, string] = inFolder,
  ): UnknownThing => ({ path, bytes: Buffer.from(`the bytes of ${path}`), inFolder, inBucket });
  const elsewhere = 'folder of something else';
  return [
    thing('profile_pictures/doctor_31.jpg', ['profile_pictures/', elsewhere]),
    thing('id_documents/deep/below/passport.pdf', ['id_documents/', elsewhere]),
    thing('robots.txt', ['robots.txt', elsewhere]),
    thing('chat_images/readme.txt', ['chat_images/readme.txt', 'folder of no conversation']),
    thing(
      'chat_images/group_5/1700000000_abcdefghij.jpg',
      ['chat_images/group_5/', 'folder of no conversation'],
      ['chat_images/group_5/1700000000_abcdefghij.jpg', 'folder of no conversation'],
    ),
    thing('chat_images/appointment_201/voice_17.m4a', [
      'chat_images/appointment_201/voice_17.m4a',
      'other file name',
    ]),
    thing(
      'chat_images/appointment_201/nested/1700000001_abcdefghij.jpg',
      ['chat_images/appointment_201/nested/', 'no file'],
      ['chat_images/appointment_201/nested/1700000001_abcdefghij.jpg', 'folder of no conversation'],
    ),
  ];
}
