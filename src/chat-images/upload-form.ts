import { Busboy, type BusboyFileStream, type BusboyHeaders, type BusboyInstance } from '@fastify/busboy';
import type { IncomingMessage } from 'node:http';
import { parseId } from '../database/parse-id.js';
import { AppError, type FieldErrors, validationFailed } from '../errors/app-error.js';

/** The seed's `max:10240`. */
export const MAX_FILE_BYTES = 10 * 1024 * 1024;

/** What boundaries, part headers and fields may add to the file in a request's `Content-Length`. */
const MAX_FORM_OVERHEAD_BYTES = 64 * 1024;

const MAX_NAME_LENGTH = 255;

const LIMITS = {
  files: 1,
  fileSize: MAX_FILE_BYTES,
  fields: 8,
  fieldSize: 1024,
  fieldNameSize: 100,
  headerPairs: 20,
  headerSize: 8 * 1024,
};

/** A whole upload, in memory, from somebody who may send it. */
export type UploadForm = {
  readonly appointmentId: number;
  readonly bytes: Buffer;
  /** The name that the client gave the file. */
  readonly name: string;
};

/**
 * Reads an upload's form: `file` and `appointment_id`, in either order. The bytes are held in memory and never go to
 * the disk.
 *
 * @param authorize decides, by rejecting, who may upload to an appointment; called as soon as the appointment is
 *   known. A file that comes after `appointment_id` is not read before it has resolved.
 * @throws AppError of `authorize`; UNSUPPORTED_MEDIA_TYPE, FILE_TOO_LARGE or VALIDATION_FAILED for a form that is none
 */
export async function readUploadForm(
  request: IncomingMessage,
  authorize: (appointmentId: number) => Promise<void>,
): Promise<UploadForm> {
  if (!/^multipart\/form-data(;|\s|$)/i.test(request.headers['content-type'] ?? '')) {
    throw new AppError('UNSUPPORTED_MEDIA_TYPE');
  }
  if (Number(request.headers['content-length'] ?? 0) > MAX_FILE_BYTES + MAX_FORM_OVERHEAD_BYTES) {
    throw new AppError('FILE_TOO_LARGE');
  }

  let appointmentId: number | undefined;
  let authorization: Promise<void> | undefined;
  let file: Promise<{ bytes: Buffer; name: string }> | undefined;
  const problems: Record<string, string[]> = {};

  const parser = createParser(request);
  try {
    await new Promise<void>((resolve, reject) => {
      parser.on('field', (name: string, value: string, _nameTruncated: boolean, valueTruncated: boolean) => {
        if (name !== 'appointment_id') return;
        const id = valueTruncated ? undefined : parseId(value.trim());
        if (authorization !== undefined || problems[name]) {
          reject(validationFailed({ [name]: ['The appointment_id may be sent only once.'] }));
        } else if (id === undefined) {
          reject(validationFailed({ [name]: ['The appointment_id must be the number of an appointment.'] }));
        } else {
          appointmentId = id;
          authorization = authorize(id);
          authorization.catch(reject);
        }
      });
      parser.on('file', (name: string, stream: BusboyFileStream, filename: string | undefined) => {
        // A part that ends too early is an error of its stream as well, thrown where nobody listens.
        stream.on('error', (error: unknown) => reject(malformed(error)));
        if (name !== 'file' || file !== undefined) {
          reject(validationFailed({ file: ['Send one picture, in the field named file.'] }));
          stream.resume();
          return;
        }
        file = (authorization ?? Promise.resolve())
          .then(() => collect(stream))
          .then((bytes) => ({ bytes, name: tidyName(filename) }));
        file.catch(reject);
      });
      parser.on('filesLimit', () => reject(validationFailed({ file: ['Send one picture at a time.'] })));
      parser.on('fieldsLimit', () => reject(validationFailed({ form: ['The form has too many fields.'] })));
      parser.on('error', (error: unknown) => reject(malformed(error)));
      parser.on('finish', resolve);
      request.on('aborted', () => reject(malformed(new Error('The client closed the connection.'))));
      request.pipe(parser);
    });
    await authorization;
    const picture = await file;
    if (appointmentId === undefined) problems.appointment_id = ['The appointment_id is required.'];
    if (picture === undefined) problems.file = ['A picture is required, in the field named file.'];
    if (appointmentId === undefined || picture === undefined)
      throw validationFailed(problems satisfies FieldErrors);
    return { appointmentId, ...picture };
  } finally {
    // What is left of a refused upload is read away: the client sees the answer only after it has sent its body.
    request.unpipe(parser);
    request.resume();
  }
}

function createParser(request: IncomingMessage): BusboyInstance {
  try {
    return new Busboy({ headers: request.headers as BusboyHeaders, limits: LIMITS, isPartAFile });
  } catch (error) {
    throw malformed(error);
  }
}

/** `file` is one even from a client that leaves its file name out. */
function isPartAFile(
  name: string | undefined,
  _type: string | undefined,
  filename: string | undefined,
): boolean {
  return name === 'file' || filename !== undefined;
}

function collect(stream: BusboyFileStream): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('limit', () => reject(new AppError('FILE_TOO_LARGE')));
    stream.on('end', () => resolve(Buffer.concat(chunks)));
  });
}

/** The client's file name without what could harm a log, a header or the column. */
function tidyName(name: string | undefined): string {
  return (
    (name ?? '')
      .replaceAll(/\p{Cc}/gu, '')
      .slice(0, MAX_NAME_LENGTH)
      .toWellFormed() || 'image'
  );
}

function malformed(cause: unknown): AppError {
  return new AppError('VALIDATION_FAILED', {
    message: 'The form could not be read. Please send it again.',
    cause,
  });
}
