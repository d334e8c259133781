import express, { type Request, type Response } from 'express';
import { isNativeError } from 'node:util/types';
import { AppError, validationFailed } from '../errors/app-error.js';
import { validated } from '../errors/validation.pipe.js';
import { type ImageName, SignedUrlsRequestDto } from './dto/signed-urls.dto.js';
import type { Variant } from './entities/chat-image.entity.js';

/** Room for a hundred of the longest names, with every character escaped. */
const MAX_BODY_BYTES = 256 * 1024;

const parseJson = express.json({ limit: MAX_BODY_BYTES });

/** An image of which a client wants the URL. */
export type WantedImage = { readonly name: ImageName; readonly variant: Variant };

/**
 * Reads the body of a request for many images, `{ "ids": [123, "1762379401_YoxmX4UUfE.jpg"] }`. With `variant` it says what
 * all of them want. An id may be `{ "id": 123, "variant": "thumbnail" }`, to want something else.
 *
 * @throws AppError UNSUPPORTED_MEDIA_TYPE, FILE_TOO_LARGE or VALIDATION_FAILED
 */
export async function readWantedImages(request: Request): Promise<readonly WantedImage[]> {
  if (request.is('application/json') === false)
    throw new AppError('UNSUPPORTED_MEDIA_TYPE', { message: 'Please send the ids as application/json.' });
  await new Promise<void>((resolve, reject) => {
    // Express sets `res` on every request. The parser only reads the request.
    parseJson(request, request.res as Response, (error?: unknown) => {
      if (error === undefined) resolve();
      else reject(refusal(error));
    });
  });
  const body: unknown = request.body;
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw validationFailed({ body: ['The body must be a JSON object with the field ids.'] });
  const { ids, variant = 'original' } = body as Partial<SignedUrlsRequestDto>;
  const valid = await validated(Object.assign(new SignedUrlsRequestDto(), { ids, variant }));
  return valid.ids.map((named) =>
    typeof named === 'object'
      ? { name: named.id, variant: named.variant ?? valid.variant }
      : { name: named, variant: valid.variant },
  );
}

/** The parser's error as an error of the catalogue. */
function refusal(cause: unknown): AppError {
  const status = isNativeError(cause) && 'status' in cause ? cause.status : undefined;
  if (status === 413) return new AppError('FILE_TOO_LARGE', { message: 'The request is too large.', cause });
  if (status === 415)
    return new AppError('UNSUPPORTED_MEDIA_TYPE', {
      message: 'Please send the ids as JSON in UTF-8.',
      cause,
    });
  return new AppError('VALIDATION_FAILED', { message: 'The body could not be read as JSON.', cause });
}
