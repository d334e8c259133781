import exifr from 'exifr';

type Exif = {
  readonly Make?: string;
  readonly Model?: string;
  readonly DateTimeOriginal?: Date;
  readonly CreateDate?: Date;
  readonly latitude?: number;
  readonly longitude?: number;
};

/** What a picture's file tells beside the picture, in words. The service takes all of it out. */
export async function fileDetails(file: Blob): Promise<readonly string[]> {
  const exif = await readExif(file);
  if (!exif) return [];
  const { Make: make = '', Model: model = '', latitude, longitude } = exif;
  const date = exif.DateTimeOriginal ?? exif.CreateDate;
  const camera = model.startsWith(make) ? model : `${make} ${model}`;
  return [
    ...(latitude !== undefined && longitude !== undefined
      ? [`the place (${degrees(latitude, 'N', 'S')}, ${degrees(longitude, 'E', 'W')})`]
      : []),
    ...(camera.trim() ? [`the camera (${camera.trim()})`] : []),
    ...(date instanceof Date ? [`the date (${date.toLocaleString('en-GB')})`] : []),
  ];
}

async function readExif(file: Blob): Promise<Exif | undefined> {
  try {
    return (await exifr.parse(file, { gps: true })) as Exif | undefined;
  } catch {
    return undefined;
  }
}

function degrees(value: number, positive: string, negative: string): string {
  return `${Math.abs(value).toFixed(3)}° ${value < 0 ? negative : positive}`;
}
