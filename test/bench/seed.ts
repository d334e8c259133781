/*
 * npm run bench:seed -- --images 1e6 --appointments 1e5 --accesses 1e7: migrates and fills the database of DATABASE_URL.
 * Its user must be a superuser, as the foreign keys are not checked row by row.
 */
import { parseArgs } from 'node:util';
import { DataSource, type QueryRunner } from 'typeorm';
import { runCommand, UsageError } from '../../src/commands/run-command.js';
import { loadDatabaseSettings, readEnvironment } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { migrationDataSourceOptions } from '../../src/database/data-source-options.js';
import { migrateUp } from '../../src/database/migrate.js';

/** The number of rows of each kind. */
export type Sizes = { readonly images: number; readonly appointments: number; readonly accesses: number };

/** The number of appointments per doctor and per patient. */
const APPOINTMENTS_OF_A_DOCTOR = 100;
const APPOINTMENTS_OF_A_PATIENT = 2;

/** The time of the first picture. A picture follows every second. */
const FIRST_IMAGE_AT = 1_762_379_401;

/**
 * Fills a migrated database without images. The same sizes give the same rows. Pictures of an appointment lie apart, as
 * in real chats, where other users send pictures in between. So do the audit rows of a picture.
 *
 * @throws UsageError when there are images already
 */
export async function seed(database: DataSource, sizes: Sizes): Promise<void> {
  const runner = database.createQueryRunner();
  try {
    await runner.startTransaction();
    try {
      await fill(runner, sizes);
      await runner.commitTransaction();
    } catch (error) {
      await runner.rollbackTransaction();
      throw error;
    }
    // Without this, the first readers would set hint bits, and autovacuum would run during the measurement.
    await runner.query('VACUUM (FREEZE, ANALYZE) users, appointments, chat_images, chat_image_access');
    await runner.query('CHECKPOINT');
  } finally {
    await runner.release();
  }
}

async function fill(runner: QueryRunner, { images, appointments, accesses }: Sizes): Promise<void> {
  const [{ exists, user, appointment }] = (await runner.query(`
    SELECT EXISTS (SELECT FROM chat_images) AS exists,
      (SELECT coalesce(max(id), 0) FROM users) AS user,
      (SELECT coalesce(max(id), 0) FROM appointments) AS appointment
  `)) as [{ exists: boolean; user: number; appointment: number }];
  if (exists) throw new UsageError('There are chat images in this database already: seed an empty one.');
  const doctors = Math.ceil(appointments / APPOINTMENTS_OF_A_DOCTOR);
  const patients = Math.ceil(appointments / APPOINTMENTS_OF_A_PATIENT);
  /** SQL for the doctor and the patient of the nth appointment, counted from 0. */
  const doctorOf = (n: string): string => `${user} + 1 + (${n}) % ${doctors}`;
  const patientOf = (n: string): string => `${user + doctors} + 1 + (${n}) % ${patients}`;
  const eitherOf = (n: string, row: string): string =>
    `CASE WHEN (${row}) % 2 = 0 THEN ${doctorOf(n)} ELSE ${patientOf(n)} END`;

  await runner.query('SET LOCAL session_replication_role = replica');
  await runner.query(`SET LOCAL maintenance_work_mem = '512MB'`);
  const createIndexes = await dropIndexes(runner, ['chat_images', 'chat_image_access']);
  await runner.query(
    `INSERT INTO users (id) SELECT ${user} + n FROM generate_series(1, ${doctors + patients}) n`,
  );
  await runner.query(`
    INSERT INTO appointments (id, patient_id, doctor_id)
    SELECT ${appointment} + 1 + n, ${patientOf('n')}, ${doctorOf('n')} FROM generate_series(0, ${appointments - 1}) n
  `);
  await runner.query(`
    INSERT INTO chat_images (id, appointment_id, file_path, filename, uploaded_by, size, mime_type, original_name,
      width, height, sha256_sent, sha256_stored, created_at, updated_at)
    SELECT 1 + n, ${appointment} + 1 + n % ${appointments},
      file_path, filename,
      ${eitherOf(`n % ${appointments}`, 'n')}, 100000 + n % 900000, 'image/jpeg', 'photo.jpg', 1278, 720,
      digest, digest, sent_at, sent_at
    FROM generate_series(0, ${images - 1}) n,
      LATERAL (SELECT encode(sha256(n::text::bytea), 'hex') AS digest, to_timestamp(${FIRST_IMAGE_AT} + n) AS sent_at) image,
      LATERAL (SELECT format('%s_%s.jpg', ${FIRST_IMAGE_AT} + n, left(digest, 10)) AS filename) named,
      LATERAL (SELECT format('chat_images/appointment_%s/%s', ${appointment} + 1 + n % ${appointments}, filename) AS file_path) placed
  `);
  await runner.query(`
    INSERT INTO chat_image_access (id, chat_image_id, accessed_by, accessed_at)
    SELECT 1 + n, 1 + n % ${images}, ${eitherOf(`n % ${images} % ${appointments}`, `n / ${images}`)},
      to_timestamp(${FIRST_IMAGE_AT + images} + n / 10)
    FROM generate_series(0::bigint, ${accesses - 1}) n
  `);
  for (const table of ['users', 'appointments', 'chat_images', 'chat_image_access']) {
    await runner.query(`SELECT setval(pg_get_serial_sequence($1, 'id'), max(id)) FROM ${table}`, [table]);
  }
  for (const createIndex of createIndexes) await runner.query(createIndex);
}

/**
 * Drops all indexes and keys that no foreign key needs, so that rows are inserted fast.
 *
 * @returns the statements that create them again
 */
async function dropIndexes(runner: QueryRunner, tables: readonly string[]): Promise<readonly string[]> {
  const indexes = (await runner.query(
    `SELECT indexrelid::regclass AS index, pg_get_indexdef(indexrelid) AS definition, indrelid::regclass AS table,
       quote_ident(conname) AS key, pg_get_constraintdef(own.oid) AS key_definition
     FROM pg_index LEFT JOIN pg_constraint own ON conindid = indexrelid AND contype IN ('p', 'u')
     WHERE indrelid = ANY($1::regclass[])
       AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype = 'f')`,
    [tables],
  )) as { index: string; definition: string; table: string; key: string | null; key_definition: string }[];
  for (const { index, table, key } of indexes) {
    await runner.query(key === null ? `DROP INDEX ${index}` : `ALTER TABLE ${table} DROP CONSTRAINT ${key}`);
  }
  return indexes.map(({ definition, table, key, key_definition }) =>
    key === null ? definition : `ALTER TABLE ${table} ADD CONSTRAINT ${key} ${key_definition}`,
  );
}

function sizesOf(args: readonly string[]): Sizes {
  const { values } = parseArgs({
    args: [...args],
    options: { images: { type: 'string' }, appointments: { type: 'string' }, accesses: { type: 'string' } },
  });
  const count = (name: keyof Sizes): number => {
    const value = Number(values[name]);
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new UsageError(`How many ${name}? For example: --images 1e6 --appointments 1e5 --accesses 1e7`);
    }
    return value;
  };
  return { images: count('images'), appointments: count('appointments'), accesses: count('accesses') };
}

if (process.argv[1] === import.meta.filename) {
  await runCommand(async () => {
    const sizes = sizesOf(process.argv.slice(2));
    const options = migrationDataSourceOptions(loadDatabaseSettings(readEnvironment()), ENTITIES);
    const database = await new DataSource(options).initialize();
    await migrateUp(database);
    const started = performance.now();
    await seed(database, sizes);
    console.log(`${JSON.stringify(sizes)} in ${((performance.now() - started) / 1000).toFixed(1)} s`);
    await database.destroy();
  });
}
