import type { QueryRunner } from 'typeorm';

/** A table from section 3 of the requirements, in the notation of PostgreSQL's catalog. */
export type ExpectedTable = {
  readonly name: string;
  /** Type and nullability by column name. */
  readonly columns: Readonly<Record<string, string>>;
  /** Definitions by Laravel's constraint names. */
  readonly constraints: Readonly<Record<string, string>>;
  /** Indexed columns by index name. */
  readonly indexes: Readonly<Record<string, string>>;
};

/** `chat_images` as created by Laravel's migration in the requirements, on PostgreSQL. */
export const CHAT_IMAGES_TABLE: ExpectedTable = {
  name: 'chat_images',
  columns: {
    id: 'bigint NOT NULL',
    appointment_id: 'bigint NOT NULL',
    file_path: 'character varying(255) NOT NULL',
    filename: 'character varying(255) NOT NULL',
    uploaded_by: 'bigint NOT NULL',
    size: 'integer NOT NULL',
    mime_type: 'character varying(255) NOT NULL',
    created_at: 'timestamp(0) without time zone NULL',
    updated_at: 'timestamp(0) without time zone NULL',
  },
  constraints: {
    chat_images_pkey: 'PRIMARY KEY (id)',
    chat_images_appointment_id_foreign:
      'FOREIGN KEY (appointment_id) REFERENCES appointments(id) ON DELETE CASCADE',
    chat_images_uploaded_by_foreign: 'FOREIGN KEY (uploaded_by) REFERENCES users(id) ON DELETE CASCADE',
  },
  indexes: { chat_images_appointment_id_created_at_index: '(appointment_id, created_at)' },
};

/** `chat_image_access` as created by the same migration. */
export const CHAT_IMAGE_ACCESS_TABLE: ExpectedTable = {
  name: 'chat_image_access',
  columns: {
    id: 'bigint NOT NULL',
    chat_image_id: 'bigint NOT NULL',
    accessed_by: 'bigint NOT NULL',
    accessed_at: 'timestamp(0) without time zone NOT NULL',
  },
  constraints: {
    chat_image_access_pkey: 'PRIMARY KEY (id)',
    chat_image_access_chat_image_id_foreign:
      'FOREIGN KEY (chat_image_id) REFERENCES chat_images(id) ON DELETE CASCADE',
    chat_image_access_accessed_by_foreign: 'FOREIGN KEY (accessed_by) REFERENCES users(id) ON DELETE CASCADE',
  },
  indexes: { chat_image_access_chat_image_id_accessed_at_index: '(chat_image_id, accessed_at)' },
};

/** A table of the main application differs from the requirements. One line per difference. Nothing was changed. */
export class TableMismatchError extends Error {
  override readonly name = 'TableMismatchError';

  constructor(readonly differences: readonly string[]) {
    super(differences.join('\n'));
  }
}

/** Columns that mark a row as deleted. This service would still show the picture of such a row. */
const SOFT_DELETE_COLUMNS = ['deleted_at'];

/** Maximum difference between `created_at` and the time in the file name. An upload takes some time. */
const MAX_SHIFT_SECONDS = 900;

/**
 * The names of the tables that already exist and match the requirements.
 *
 * @throws TableMismatchError with all differences of all tables
 */
export async function existingTables(
  queryRunner: QueryRunner,
  expected: readonly ExpectedTable[],
): Promise<ReadonlySet<string>> {
  const names: string[] = [];
  const differences: string[] = [];
  for (const table of expected) {
    if (!(await queryRunner.hasTable(table.name))) continue;
    names.push(table.name);
    differences.push(...(await differencesOf(queryRunner, table)));
  }
  if (names.length > 0 && differences.length === 0)
    differences.push(...(await differencesInRows(queryRunner, names)));
  if (differences.length > 0) throw new TableMismatchError(differences);
  return new Set(names);
}

async function differencesOf(queryRunner: QueryRunner, table: ExpectedTable): Promise<readonly string[]> {
  const rows = async <Row>(sql: string): Promise<readonly Row[]> =>
    (await queryRunner.query(sql, [table.name])) as readonly Row[];
  const [owner] = await rows<{ owner: string; ours: boolean }>(
    `SELECT relowner::regrole::text AS owner, pg_has_role(relowner, 'USAGE') AS ours FROM pg_class WHERE oid = $1::regclass`,
  );
  const columns = await rows<{ name: string; type: string; filled: boolean }>(
    `SELECT attname AS name, format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE ' NULL' END AS type,
            NOT attnotnull OR atthasdef OR attidentity <> '' AS filled
     FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`,
  );
  const constraints = await rows<{ name: string; definition: string }>(
    `SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conrelid = $1::regclass`,
  );
  const indexes = await rows<{ name: string; definition: string }>(
    `SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
     FROM pg_index WHERE indrelid = $1::regclass AND indpred IS NULL`,
  );
  const found = new Map(columns.map((column) => [column.name, column]));
  return [
    ...(owner?.ours === false
      ? [`${table.name} belongs to ${owner.owner}: migrate as that role, or as a member of it`]
      : []),
    ...Object.entries(table.columns).flatMap(([name, type]) => {
      const column = found.get(name);
      if (!column) return [`${table.name}.${name} is missing: it should be ${type}`];
      if (column.type !== type) return [`${table.name}.${name} is ${column.type}: it should be ${type}`];
      return name === 'id' && !column.filled ? [`${table.name}.id has no default: it should count up`] : [];
    }),
    ...columns
      .filter(
        ({ name, filled }) => !(name in table.columns) && (!filled || SOFT_DELETE_COLUMNS.includes(name)),
      )
      .map(({ name, filled }) =>
        filled
          ? `${table.name}.${name} marks rows as deleted: this service would show them`
          : `${table.name}.${name} is not known here and needs a value: give it a default`,
      ),
    ...Object.entries(table.constraints).flatMap(([name, definition]) => {
      const constraint = constraints.find((candidate) => candidate.name === name);
      if (!constraint) return [`${table.name} has no constraint ${name}: it should be ${definition}`];
      return constraint.definition === definition
        ? []
        : [
            `${table.name} has the constraint ${name} as ${constraint.definition}: it should be ${definition}`,
          ];
    }),
    ...Object.entries(table.indexes)
      .filter(([name, on]) => !indexes.some((index) => index.name === name && index.definition.endsWith(on)))
      .map(([name, on]) => `${table.name} has no index ${name} on ${on}`),
  ];
}

/** Differences in the rows: duplicate file names, and times that are not UTC. */
async function differencesInRows(
  queryRunner: QueryRunner,
  names: readonly string[],
): Promise<readonly string[]> {
  const differences: string[] = [];
  const [zone] = (await queryRunner.query(
    `SELECT reset_val AS name,
            timestamptz '2026-01-01Z' AT TIME ZONE reset_val = timestamp '2026-01-01'
              AND timestamptz '2026-07-01Z' AT TIME ZONE reset_val = timestamp '2026-07-01' AS utc
     FROM pg_settings WHERE name = 'TimeZone'`,
  )) as { name: string; utc: boolean }[];
  if (zone?.utc === false) {
    differences.push(
      `the time zone of the database is ${zone.name}: the times that the main application writes would be shifted; set it to UTC (ALTER DATABASE … SET timezone TO 'UTC')`,
    );
  }
  if (!names.includes('chat_images')) return differences;
  const [rows] = (await queryRunner.query(
    `SELECT count(*) - count(DISTINCT filename) AS twice,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY
              extract(epoch FROM created_at)::bigint - substring(filename from '^(\\d{10})_')::bigint) AS shift
     FROM chat_images`,
  )) as { twice: number; shift: number | null }[];
  if (rows && rows.twice > 0) {
    differences.push(
      `chat_images has ${rows.twice} rows whose filename another row has: file names must be unique`,
    );
  }
  if (rows && Math.abs(rows.shift ?? 0) > MAX_SHIFT_SECONDS) {
    differences.push(
      `chat_images.created_at is ${rows.shift} seconds off the times in the file names: it should be in UTC`,
    );
  }
  return differences;
}
