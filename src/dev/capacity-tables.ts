import {
  ASSUMPTIONS,
  type Assumptions,
  type Capacity,
  capacityOf,
  type Measured,
  optionOf,
  type PerUrl,
} from './capacity-model.js';

type Assumed = Omit<Assumptions, 'imagesPerMonth'>;

/** The sizes in docs/capacity.md. */
const DOCUMENTED_SIZES = [1e4, 1e6, 1e8];

/** The needs of installations, a column for each size. */
export function capacityTable(sizes: readonly number[], assumed: Assumed, measured: Measured): string {
  const columns = sizes.map((imagesPerMonth) => capacityOf({ ...assumed, imagesPerMonth }, measured));
  const rows: readonly (readonly [label: string, of: (capacity: Capacity) => string])[] = [
    ['uploads/s, average and peak', (c) => `${short(c.uploads)}, ${short(c.uploadsAtPeak)}`],
    ['signed URLs/s, average and peak', (c) => `${short(c.urls)}, ${short(c.urlsAtPeak)}`],
    ['processors busy in the service at the peak', (c) => short(c.serviceCores)],
    ['instances of one processor', (c) => short(c.instances)],
    ['processors busy in PostgreSQL at the peak', (c) => short(c.postgresCores)],
    ['connections to the database', (c) => short(c.connections)],
    ['rows of `chat_images` a month', (c) => short(c.imageRows)],
    ['rows of `chat_image_access` a month', (c) => short(c.accessRows)],
    ['growth of the database, GB a month', (c) => short(c.databaseGbPerMonth)],
    [`database after ${assumed.months} months, GB`, (c) => short(c.databaseGb)],
    ['of it `chat_image_access`, GB', (c) => short(c.accessGb)],
    ['WAL, GB a month', (c) => short(c.walGbPerMonth)],
    ['objects in the bucket a month', (c) => short(c.objectsPerMonth)],
    [`objects after ${assumed.months} months`, (c) => short(c.objects)],
    ['growth of the bucket, GB a month', (c) => short(c.bucketGbPerMonth)],
    [`bucket after ${assumed.months} months, GB`, (c) => short(c.bucketGb)],
    ['PUT/s at the peak', (c) => short(c.putsAtPeak)],
    ['GET/s by phones at the peak', (c) => short(c.getsAtPeak)],
    ['buckets for these requests', (c) => short(c.buckets)],
    ['sent by the bucket, GB a month', (c) => short(c.egressGbPerMonth)],
    ['commands/s to Redis at the peak', (c) => short(c.redisCommandsAtPeak)],
    [`DigitalOcean Spaces in month ${assumed.months}, $`, (c) => short(c.spacesDollars)],
    [`AWS S3 in month ${assumed.months}, $`, (c) => short(c.awsDollars)],
  ];
  return table(
    ['pictures a month', ...sizes.map(short)],
    rows.map(([label, of]) => [label, ...columns.map(of)]),
  );
}

/** The assumptions, with their options. */
export function assumptionsTable(assumed: Assumed): string {
  return table(
    ['option', 'value', 'is'],
    Object.entries(ASSUMPTIONS).map(([name, { meaning }]) => [
      `\`--${optionOf(name)}\``,
      short(assumed[name as keyof Assumed]),
      meaning,
    ]),
  );
}

/** The measured costs. */
export function measuredTable({ upload, signedUrl, signedUrlInBatch, ...other }: Measured): string {
  const [small, large] = upload.timed.map(
    ({ bytes, serviceCpuMs, postgresCpuMs }) =>
      [`${short(bytes / 1000)} kB`, short(serviceCpuMs), short(postgresCpuMs)] as const,
  );
  if (!small || !large) throw new Error('Two sizes of pictures must be measured.');
  const urls: readonly PerUrl[] = [signedUrl, signedUrlInBatch];
  const row = (label: string, ofUpload: string, of: (cost: PerUrl) => string): string[] => [
    label,
    ofUpload,
    ...urls.map(of),
  ];
  const rowsOf = (rows: Readonly<Record<string, number>>): string =>
    Object.entries(rows)
      .map(([name, count]) => `${short(count)} \`${name}\``)
      .join(', ');
  return table(
    ['of one', 'upload', 'signed URL', `signed URL in a batch of ${signedUrlInBatch.urlsInBatch}`],
    [
      row(`processor of the service, ms (${small[0]}, ${large[0]})`, `${small[1]}, ${large[1]}`, (cost) =>
        short(cost.serviceCpuMs),
      ),
      row(`processor of PostgreSQL, ms (${small[0]}, ${large[0]})`, `${small[2]}, ${large[2]}`, (cost) =>
        short(cost.postgresCpuMs),
      ),
      row('rows', rowsOf(upload.rows), ({ rows }) => rowsOf(rows)),
      row('WAL without full pages, bytes', short(upload.walBytes), (cost) => short(cost.walBytes)),
      row('growth of tables and indexes, bytes', short(upload.tableBytes), (cost) => short(cost.tableBytes)),
      row('PUT to the storage', short(upload.puts), () => '0'),
      row('other requests to the storage', short(upload.otherRequests), () => '0'),
      row('commands to Redis', short(upload.redisCommands), (cost) => short(cost.redisCommands)),
      row('connections of an instance under load', '', () => short(other.connectionsOfInstance)),
    ],
  );
}

/** docs/capacity.md with each table anew, between its two marks. */
export function withTables(document: string, measured: Measured): string {
  const assumed = Object.fromEntries(
    Object.entries(ASSUMPTIONS).map(([name, { value }]) => [name, value]),
  ) as Assumed;
  const tables = {
    capacity: capacityTable(DOCUMENTED_SIZES, assumed, measured),
    assumptions: assumptionsTable(assumed),
    measured: measuredTable(measured),
  };
  return Object.entries(tables).reduce((text, [name, content]) => {
    const parts = text.split(`<!-- ${name} -->`);
    if (parts.length !== 3) throw new Error(`docs/capacity.md has not two marks <!-- ${name} -->.`);
    return [parts[0], `\n\n${content}\n\n`, parts[2]].join(`<!-- ${name} -->`);
  }, document);
}

/** Three digits that count, with commas between thousands. */
function short(value: number): string {
  const rounded = value === 0 ? 0 : Number(value.toPrecision(3));
  return rounded.toLocaleString('en-US', { maximumFractionDigits: 5 });
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
