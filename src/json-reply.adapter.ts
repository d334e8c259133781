import { StreamableFile } from '@nestjs/common';
import { ExpressAdapter } from '@nestjs/platform-express';
import type { Response } from 'express';

/**
 * Express, but for how an answer of JSON is written: at once, without looking for what none of them has (an ETag to
 * compare, a media type to complete, a length to leave out).
 */
export class JsonReplyAdapter extends ExpressAdapter {
  override reply(response: Response, body: unknown, statusCode?: number): unknown {
    if (!isJson(body)) return super.reply(response, body, statusCode);
    const text = JSON.stringify(body);
    const length = String(Buffer.byteLength(text));
    response.writeHead(statusCode ?? response.statusCode, [
      'Content-Type',
      'application/json; charset=utf-8',
      'Content-Length',
      length,
    ]);
    return response.end(text);
  }
}

function isJson(body: unknown): body is object {
  return (
    typeof body === 'object' && body !== null && !(body instanceof StreamableFile) && !(body instanceof Error)
  );
}
