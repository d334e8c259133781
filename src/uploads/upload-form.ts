import { Busboy, type BusboyFileStream, type BusboyHeaders, type BusboyInstance } from '@fastify/busboy';
import type { Request } from 'express';
import type { GrantedConversation } from '../access/image-access.js';
import type { NamedConversation } from '../conversations/conversation.js';
import { AppError, validationFailed } from '../errors/app-error.js';
import { validated } from '../errors/validation.pipe.js';
import { type BytePieces, PieceCollector } from '../storage/byte-pieces.js';
import { tidyName } from './client-file-name.js';
import { UploadFieldsDto } from './upload-chat-image.dto.js';
import type { UploadMemory } from './upload-budget.js';
import { MAX_FORM_OVERHEAD_BYTES } from './upload-limits.js';
import { watchUploadPace } from './upload-pace.js';

/** Printable ASCII. */
const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;

/**
 * The parser's buffer for a part with a slow reader: more than one read of a socket. @fastify/busboy 3.2.6 stops for ever at a
 * skipped part whose last piece fills the buffer.
 */
const PART_BUFFER_BYTES = 128 * 1024;

const LIMITS = {
  files: 1,
  fields: 8,
  fieldSize: 1024,
  fieldNameSize: 100,
  // Skipped parts, which are neither a file nor a field, count too: each costs as much as a field.
  parts: 16,
  headerPairs: 20,
  headerSize: 8 * 1024,
};

/** A whole upload, in memory, to a conversation that its user may send images to. */
export type UploadForm = {
  readonly conversation: GrantedConversation;
  readonly pieces: BytePieces;
  /** The name that the client gave the file. */
  readonly name: string;
  /** The client's name for this upload and all its tries, when it gave one. */
  readonly idempotencyKey: string | undefined;
  /** Aborted when the client has gone. */
  readonly left: AbortSignal;
  /** How long the upload has waited for memory, in milliseconds. */
  readonly waitedMs: number;
};

type UploadedFile = Pick<UploadForm, 'pieces' | 'name'>;

type Reading = {
  /** Counts the bytes. While there is no room, the client's socket is not read. */
  readonly memory: UploadMemory;
  /** Aborted when the client has gone. */
  readonly left: AbortSignal;
  /** The seconds for which the form may be slower than {@link watchUploadPace} allows. */
  readonly slowSeconds: number;
  /**
   * Decides who may upload to a conversation, and rejects where the user may not. Called as soon as the conversation is known.
   * A file after `appointment_id` is not read before the decision.
   */
  readonly authorize: (named: NamedConversation) => Promise<GrantedConversation>;
  /** TEXT_SESSIONS. */
  readonly textSessions: boolean;
  /** UPLOAD_MAX_FILE_MIB, in bytes. */
  readonly maxFileBytes: number;
};

/**
 * Reads an upload's form: `file` and `appointment_id`, in either order. The bytes stay in memory and never go to the disk. A
 * client that is too slow gets a response, and its connection is closed.
 *
 * @throws AppError of `authorize` and `memory`; UNSUPPORTED_MEDIA_TYPE, FILE_TOO_LARGE or VALIDATION_FAILED for a request
 *   that is no such form, or that is too slow
 */
export async function readUploadForm(
  request: Request,
  { memory, left, slowSeconds, authorize, textSessions, maxFileBytes }: Reading,
): Promise<UploadForm> {
  const { 'content-type': type = '', 'content-encoding': encoding = 'identity' } = request.headers;
  if (!/^multipart\/form-data(;|\s|$)/i.test(type) || encoding !== 'identity') {
    throw new AppError('UNSUPPORTED_MEDIA_TYPE');
  }
  const mostBytes = maxFileBytes + MAX_FORM_OVERHEAD_BYTES;
  const announced = Number(request.headers['content-length'] ?? mostBytes);
  if (announced > mostBytes) throw new AppError('FILE_TOO_LARGE');
  const idempotencyKey = idempotencyKeyOf(request);
  // The client has gone while its user was looked up: no event tells of that any more.
  if (request.destroyed) throw malformed(new Error('The client closed the connection.'));

  let authorization: Promise<GrantedConversation> | undefined;
  let file: Promise<UploadedFile> | undefined;
  let fileStream: BusboyFileStream | undefined;
  let authorizing = false;

  let endWatch: (() => void) | undefined;

  const parser = createParser(request, maxFileBytes);
  try {
    await new Promise<void>((resolve, reject) => {
      parser.on('field', (name: string, value: string, _nameTruncated: boolean, truncated: boolean) => {
        if (name !== 'appointment_id') return;
        if (authorization) {
          reject(validationFailed({ [name]: ['The appointment_id may be sent only once.'] }));
          return;
        }
        authorizing = true;
        authorization = validated(UploadFieldsDto.of(truncated ? '' : value, textSessions))
          .then((fields) => authorize(fields.appointment_id))
          .then((conversation) => {
            authorizing = false;
            memory.authorize();
            return conversation;
          });
        authorization.catch(reject);
      });
      parser.on('file', (name: string, stream: BusboyFileStream, filename: string | undefined) => {
        // A part that ends too early is an error event of its stream too, which would end the process without a listener.
        stream.on('error', (error: unknown) => reject(malformed(error)));
        stream.on('limit', () => reject(new AppError('FILE_TOO_LARGE')));
        if (name !== 'file') {
          reject(validationFailed({ file: ['Send one picture, in the field named file.'] }));
          return;
        }
        fileStream = stream;
        file = (authorization ?? Promise.resolve())
          .then(() => collect(stream, memory))
          .then((pieces) => ({ pieces, name: tidyName(filename) }));
        file.catch(reject);
      });
      parser.on('filesLimit', () => reject(validationFailed({ file: ['Send one picture at a time.'] })));
      parser.on('fieldsLimit', () => reject(validationFailed({ form: ['The form has too many fields.'] })));
      parser.on('partsLimit', () => reject(validationFailed({ form: ['The form has too many fields.'] })));
      parser.on('error', (error: unknown) => reject(malformed(error)));
      parser.on('finish', resolve);
      request.on('aborted', () => reject(malformed(new Error('The client closed the connection.'))));
      memory.enter(announced).then(() => {
        acceptBody(request);
        request.pipe(parser);
        endWatch = watchUploadPace(request, {
          slowSeconds,
          isReading: () => !request.complete && !memory.waits && !authorizing,
          tooSlow: () => {
            // The rest of the body is not worth waiting for.
            request.res?.setHeader('Connection', 'close');
            reject(tooSlow());
          },
        });
      }, reject);
    });
    const conversation = await authorization;
    const picture = await file;
    if (conversation === undefined || picture === undefined) {
      throw validationFailed({
        ...(conversation === undefined ? { appointment_id: ['The appointment_id is required.'] } : {}),
        ...(picture === undefined ? { file: ['A picture is required, in the field named file.'] } : {}),
      });
    }
    return { conversation, idempotencyKey, left, waitedMs: memory.waitedMs, ...picture };
  } catch (error) {
    // The received bytes are not held while the rest of the body is read and thrown away.
    fileStream?.destroy();
    memory.release();
    throw error;
  } finally {
    endWatch?.();
    request.unpipe(parser);
  }
}

function idempotencyKeyOf(request: Request): string | undefined {
  const key = request.get('Idempotency-Key');
  if (key === undefined || IDEMPOTENCY_KEY.test(key)) return key;
  throw validationFailed({
    'Idempotency-Key': ['The Idempotency-Key must be 1 to 255 printable characters.'],
  });
}

/** Sends `100 Continue` to a client that waits for it before it sends its body. */
function acceptBody(request: Request): void {
  if (/100-continue/i.test(request.headers.expect ?? '')) request.res?.writeContinue();
}

function createParser(request: Request, maxFileBytes: number): BusboyInstance {
  try {
    return new Busboy({
      headers: request.headers as BusboyHeaders,
      limits: { ...LIMITS, fileSize: maxFileBytes },
      isPartAFile,
      fileHwm: PART_BUFFER_BYTES,
    });
  } catch (error) {
    throw malformed(error);
  }
}

/** The part `file` is a file even without a file name. */
function isPartAFile(
  name: string | undefined,
  _type: string | undefined,
  filename: string | undefined,
): boolean {
  return name === 'file' || filename !== undefined;
}

async function collect(stream: BusboyFileStream, memory: UploadMemory): Promise<BytePieces> {
  const collector = new PieceCollector();
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    await memory.receive(chunk.length);
    collector.add(chunk);
  }
  return collector.finish();
}

function tooSlow(): AppError {
  return new AppError('VALIDATION_FAILED', { message: 'The upload came too slowly. Please send it again.' });
}

function malformed(cause: unknown): AppError {
  return new AppError('VALIDATION_FAILED', {
    message: 'The form could not be read. Please send it again.',
    cause,
  });
}
