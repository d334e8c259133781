import { Controller, Get, Header, Param, Query, Res, StreamableFile } from '@nestjs/common';
import { ApiExcludeController } from '@nestjs/swagger';
import type { Response } from 'express';
import { Public } from '../auth/public.decorator.js';
import { AppError } from '../errors/app-error.js';
import { LOCAL_STORAGE_PATH, LocalStorageProvider } from './local-storage.provider.js';
import { InvalidStorageKeyError, ObjectNotFoundError } from './storage-errors.js';

/** Serves the signed URLs of the local driver, as the bucket does for S3. Mounted with that driver only. */
@ApiExcludeController()
@Controller(LOCAL_STORAGE_PATH)
export class LocalStorageController {
  constructor(private readonly storage: LocalStorageProvider) {}

  @Get('*key')
  @Public('the signature in the URL is the permission, as with the bucket')
  @Header('X-Content-Type-Options', 'nosniff')
  @Header('Cross-Origin-Resource-Policy', 'cross-origin')
  @Header('Content-Disposition', 'inline')
  async read(
    @Param('key') segments: readonly string[],
    @Query('Expires') expires: unknown,
    @Query('Signature') signature: unknown,
    @Res({ passthrough: true }) response: Response,
  ): Promise<StreamableFile> {
    const key = segments.join('/');
    const valid =
      typeof expires === 'string' &&
      typeof signature === 'string' &&
      this.storage.verify(key, expires, signature, new Date());
    if (!valid) throw new AppError('FORBIDDEN', { message: 'The link is not valid or has expired.' });
    try {
      const object = await this.storage.head(key);
      if (!object) throw new ObjectNotFoundError('There is no such object.');
      const secondsLeft = Math.floor(Number(expires) - Date.now() / 1000);
      response.setHeader('Cache-Control', `private, max-age=${Math.max(0, secondsLeft)}`);
      const file = new StreamableFile(await this.storage.get(key), {
        type: object.contentType,
        length: object.size,
      });
      // A file that can't be read to its end: the response is cut off, and gives no reason.
      return file.setErrorHandler(() => response.destroy());
    } catch (error) {
      if (error instanceof ObjectNotFoundError || error instanceof InvalidStorageKeyError) {
        throw new AppError('IMAGE_NOT_FOUND', { cause: error });
      }
      throw error;
    }
  }
}
