/** The measured cost of one signed URL. */
export type PerUrl = {
  /** Processor time of the service. */
  readonly serviceCpuMs: number;
  /** Processor time of PostgreSQL. */
  readonly postgresCpuMs: number;
  /** Rows that it leaves, by table. */
  readonly rows: Readonly<Record<string, number>>;
  /** WAL without full pages. */
  readonly walBytes: number;
  /** Growth of the tables with their indexes. */
  readonly tableBytes: number;
  /** Commands that Redis gets, where REDIS_URL is set. */
  readonly redisCommands: number;
};

/** The measured cost of one upload. */
export type PerUpload = Omit<PerUrl, 'serviceCpuMs' | 'postgresCpuMs'> & {
  /** With two sizes of pictures: between them and beyond, the times grow with the bytes. */
  readonly timed: readonly {
    readonly bytes: number;
    readonly serviceCpuMs: number;
    readonly postgresCpuMs: number;
    readonly thumbnailBytes: number;
  }[];
  /** Rows that are inserted, changed and deleted. */
  readonly rowChanges: number;
  /** PUT requests to the storage. */
  readonly puts: number;
  readonly otherRequests: number;
};

/** The content of docs/bench/capacity.json. */
export type Measured = {
  /** The command that measures it. */
  readonly command: string;
  readonly node: string;
  readonly postgres: string;
  readonly upload: PerUpload;
  readonly signedUrl: PerUrl;
  readonly signedUrlInBatch: PerUrl & { readonly urlsInBatch: number };
  /** Connections to the database that one instance holds under load. */
  readonly connectionsOfInstance: number;
};

/** The assumptions about an installation. Each is an option of `npm run capacity`. */
export type Assumptions = {
  readonly imagesPerMonth: number;
  readonly opensPerImage: number;
  readonly batchShare: number;
  readonly downloadsPerOpen: number;
  readonly thumbnailShare: number;
  readonly pictureBytes: number;
  readonly peakFactor: number;
  readonly busyShare: number;
  readonly walFactor: number;
  readonly months: number;
  readonly bucketWritesPerSecond: number;
  readonly bucketRequestsPerSecond: number;
};

/** The assumptions where no option says otherwise, each with what it means. */
export const ASSUMPTIONS: Readonly<
  Record<keyof Omit<Assumptions, 'imagesPerMonth'>, { readonly value: number; readonly meaning: string }>
> = {
  opensPerImage: { value: 10, meaning: 'signed URLs that are handed out for a picture, in all its life' },
  batchShare: { value: 0.5, meaning: 'of these, in requests for many at once, as when a chat is opened' },
  downloadsPerOpen: { value: 0.5, meaning: 'downloads for each signed URL; phones keep pictures' },
  thumbnailShare: { value: 0.7, meaning: 'of the downloads, those of thumbnails' },
  pictureBytes: { value: 500_000, meaning: 'bytes of a picture as it is stored' },
  peakFactor: { value: 5, meaning: 'the busiest minutes, of the average of the month' },
  busyShare: { value: 0.6, meaning: 'of a processor that may be busy at the peak' },
  walFactor: { value: 2, meaning: 'WAL with the full pages after checkpoints, of WAL without them' },
  months: { value: 12, meaning: 'months after which sizes and prices are shown; nothing is deleted' },
  bucketWritesPerSecond: { value: 150, meaning: 'PUT requests that one bucket takes a second' },
  bucketRequestsPerSecond: { value: 240, meaning: 'requests that one bucket takes a second' },
};

/** The option that sets an assumption, without its dashes, such as `peak-factor`. */
export function optionOf(assumption: string): string {
  return assumption.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

const SECONDS_OF_MONTH = (365.25 / 12) * 86_400;
const GB = 1e9;
const GIB = 1024 ** 3;

const TRAIL = 'chat_image_access';

/** The least number of instances, so that one may fail. Each has one processor for the service. */
const LEAST_INSTANCES = 3;

/** The needs of an installation. Rates are per second, `…AtPeak` in the busiest minutes; prices in US dollars a month. */
export type Capacity = {
  readonly uploads: number;
  readonly uploadsAtPeak: number;
  readonly urls: number;
  readonly urlsAtPeak: number;
  readonly serviceCores: number;
  readonly instances: number;
  readonly postgresCores: number;
  readonly connections: number;
  readonly imageRows: number;
  readonly accessRows: number;
  readonly databaseGbPerMonth: number;
  readonly databaseGb: number;
  readonly accessGb: number;
  readonly walGbPerMonth: number;
  readonly objectsPerMonth: number;
  readonly objects: number;
  readonly bucketGbPerMonth: number;
  readonly bucketGb: number;
  readonly putsAtPeak: number;
  readonly getsAtPeak: number;
  readonly buckets: number;
  readonly egressGbPerMonth: number;
  readonly redisCommandsAtPeak: number;
  readonly spacesDollars: number;
  readonly awsDollars: number;
};

/** Computes what an installation needs, from what one upload and one signed URL cost. */
export function capacityOf(given: Assumptions, measured: Measured): Capacity {
  const { upload, signedUrl, signedUrlInBatch } = measured;
  const { imagesPerMonth, peakFactor, busyShare, months } = given;
  const urlsPerMonth = imagesPerMonth * given.opensPerImage;
  const perUrl = (of: (cost: PerUrl) => number): number =>
    given.batchShare * of(signedUrlInBatch) + (1 - given.batchShare) * of(signedUrl);
  const perUpload = uploadOf(given.pictureBytes, upload);
  const uploads = imagesPerMonth / SECONDS_OF_MONTH;
  const urls = urlsPerMonth / SECONDS_OF_MONTH;
  const atPeak = (ofUpload: number, ofUrl: number): number =>
    peakFactor * (uploads * ofUpload + urls * ofUrl);

  const serviceCores =
    atPeak(
      perUpload.serviceCpuMs,
      perUrl((cost) => cost.serviceCpuMs),
    ) / 1000;
  const postgresCores =
    atPeak(
      perUpload.postgresCpuMs,
      perUrl((cost) => cost.postgresCpuMs),
    ) / 1000;
  const instances = Math.max(LEAST_INSTANCES, Math.ceil(serviceCores / busyShare));
  const urlBytes = perUrl((cost) => cost.tableBytes);
  // An upload answers with a signed URL, too.
  const accessRows =
    imagesPerMonth * (upload.rows[TRAIL] ?? 0) + urlsPerMonth * perUrl(({ rows }) => rows[TRAIL] ?? 0);
  const databasePerMonth = imagesPerMonth * upload.tableBytes + urlsPerMonth * urlBytes;
  const walPerMonth =
    given.walFactor * (imagesPerMonth * upload.walBytes + urlsPerMonth * perUrl((cost) => cost.walBytes));

  const bucketPerMonth = imagesPerMonth * (given.pictureBytes + perUpload.thumbnailBytes);
  const downloads = urlsPerMonth * given.downloadsPerOpen;
  const egress =
    downloads *
    (given.thumbnailShare * perUpload.thumbnailBytes + (1 - given.thumbnailShare) * given.pictureBytes);
  const putsAtPeak = atPeak(upload.puts + upload.otherRequests, 0);
  const getsAtPeak = (peakFactor * downloads) / SECONDS_OF_MONTH;
  const puts = imagesPerMonth * (upload.puts + upload.otherRequests);
  const bucket = { bytes: bucketPerMonth * months, puts, gets: downloads, egress };
  return {
    uploads,
    uploadsAtPeak: uploads * peakFactor,
    urls,
    urlsAtPeak: urls * peakFactor,
    serviceCores,
    instances,
    postgresCores,
    connections: instances * measured.connectionsOfInstance,
    imageRows: imagesPerMonth * (upload.rows.chat_images ?? 0),
    accessRows,
    databaseGbPerMonth: databasePerMonth / GB,
    databaseGb: (databasePerMonth * months) / GB,
    accessGb: (accessRows * urlBytes * months) / GB,
    walGbPerMonth: walPerMonth / GB,
    objectsPerMonth: imagesPerMonth * upload.puts,
    objects: imagesPerMonth * upload.puts * months,
    bucketGbPerMonth: bucketPerMonth / GB,
    bucketGb: (bucketPerMonth * months) / GB,
    putsAtPeak,
    getsAtPeak,
    buckets: Math.max(
      1,
      Math.ceil(putsAtPeak / given.bucketWritesPerSecond),
      Math.ceil((putsAtPeak + getsAtPeak) / given.bucketRequestsPerSecond),
    ),
    egressGbPerMonth: egress / GB,
    redisCommandsAtPeak: atPeak(
      upload.redisCommands,
      perUrl((cost) => cost.redisCommands),
    ),
    spacesDollars: spacesPrice(bucket),
    awsDollars: awsPrice(bucket),
  };
}

/** The measures of an upload that depend on the bytes of the picture, along the line through the two sizes measured. */
function uploadOf(
  bytes: number,
  { timed }: PerUpload,
): { readonly serviceCpuMs: number; readonly postgresCpuMs: number; readonly thumbnailBytes: number } {
  const [small, large] = timed;
  if (!small || !large) throw new Error('Two sizes of pictures must be measured.');
  const part = (bytes - small.bytes) / (large.bytes - small.bytes);
  const between = (name: 'serviceCpuMs' | 'postgresCpuMs' | 'thumbnailBytes'): number =>
    Math.max(0, small[name] + part * (large[name] - small[name]));
  return {
    serviceCpuMs: between('serviceCpuMs'),
    postgresCpuMs: between('postgresCpuMs'),
    thumbnailBytes: between('thumbnailBytes'),
  };
}

type Bucket = {
  readonly bytes: number;
  readonly puts: number;
  readonly gets: number;
  readonly egress: number;
};

/** 5 $ with 250 GiB stored and 1 TiB sent, then 0.02 $ and 0.01 $ for each GiB. Requests cost nothing. */
function spacesPrice({ bytes, egress }: Bucket): number {
  return 5 + 0.02 * Math.max(0, bytes / GIB - 250) + 0.01 * Math.max(0, egress / GIB - 1024);
}

/** S3 Standard in us-east-1. The first 100 GB sent are free. */
function awsPrice({ bytes, puts, gets, egress }: Bucket): number {
  const storage = inSteps(bytes / GB, [
    [50_000, 0.023],
    [450_000, 0.022],
    [Infinity, 0.021],
  ]);
  const sent = inSteps(egress / GB, [
    [100, 0],
    [10_140, 0.09],
    [40_000, 0.085],
    [100_000, 0.07],
    [Infinity, 0.05],
  ]);
  return storage + sent + (puts / 1000) * 0.005 + (gets / 1000) * 0.0004;
}

/** The price of an amount of which each step has its own price. */
function inSteps(amount: number, steps: readonly (readonly [size: number, price: number])[]): number {
  let left = amount;
  let sum = 0;
  for (const [size, price] of steps) {
    sum += Math.min(left, size) * price;
    left -= Math.min(left, size);
  }
  return sum;
}
