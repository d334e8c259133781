import express, { type Request, type Response } from 'express';
import { isNativeError } from 'node:util/types';
import { z } from 'zod';
import { AppError, validationFailedBy } from '../errors/app-error.js';

/** How many images a client may ask for at once. */
export const MAX_IMAGE_IDS = 100;

/** A hundred of the longest names, escaped as JSON can. */
const MAX_BODY_BYTES = 256 * 1024;

/** How a client names an image: by its number or its file name. It need not name one. */
export type ImageName = number | string;

const parseJson = express.json({ limit: MAX_BODY_BYTES });

const Body = z.object(
  {
    ids: z
      .array(
        z.union([z.number(), z.string()], 'Each of ids must be the number of an image or its file name.'),
        'The ids are required: an array of numbers and file names of images.',
      )
      .min(1, 'The ids must name at least one image.')
      .max(MAX_IMAGE_IDS, `The ids may name at most ${MAX_IMAGE_IDS} images.`),
  },
  'The body must be a JSON object with the field ids.',
);

/**
 * Reads the body of a request for many images, `{ "ids": [123, "1762379401_YoxmX4UUfE.jpg"] }`.
 *
 * @throws AppError UNSUPPORTED_MEDIA_TYPE, FILE_TOO_LARGE or VALIDATION_FAILED
 */
export async function readImageIds(request: Request): Promise<readonly ImageName[]> {
  if (request.is('application/json') === false)
    throw new AppError('UNSUPPORTED_MEDIA_TYPE', { message: 'Please send the ids as application/json.' });
  await new Promise<void>((resolve, reject) => {
    // Express has tied the two together; the parser only reads the request.
    parseJson(request, request.res as Response, (error?: unknown) => {
      if (error === undefined) resolve();
      else reject(refusal(error));
    });
  });
  const { data, error } = Body.safeParse(request.body);
  if (!data) throw validationFailedBy(error.issues);
  return data.ids;
}

/** What the parser says of a body, in the words of the catalogue. */
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
