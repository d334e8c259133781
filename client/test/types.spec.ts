import { describe, expect, it } from '@jest/globals';
import {
  ChatImages,
  ChatImagesError,
  type ErrorCode,
  type Image,
  type ImagePage,
  type ServiceErrorCode,
  type TokenSource,
  type UploadOptions,
} from '../src/index.js';

type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;

// `npm run typecheck` is the test of what has no other type.
describe('the types', () => {
  it('are those of the service', () => {
    expect<Same<Image['id'], number>>(true).toBe(true);
    expect<Same<Image['media_url'], string>>(true).toBe(true);
    expect<Same<ImagePage['next_cursor'], string | null>>(true).toBe(true);
    expect<ServiceErrorCode extends ErrorCode ? true : false>(true).toBe(true);
    // @ts-expect-error: not in the service's catalogue
    const code: ErrorCode = 'NO_SUCH_CODE';
    expect(code).toBeDefined();
  });

  it('hold no signed URL of an uploaded image', () => {
    expect<Same<keyof Image & 'signed_url', never>>(true).toBe(true);
    expect<Same<Awaited<ReturnType<ChatImages['upload']>>, Image>>(true).toBe(true);
  });

  it('ask for an appointment or a text session', () => {
    const options: UploadOptions[] = [{ appointmentId: 1 }, { textSessionId: 2 }];
    // @ts-expect-error: a picture belongs to a conversation
    options.push({});
    expect(options).toHaveLength(3);
  });

  it('take a token as it is, or later', () => {
    const tokens: TokenSource[] = [() => 'a', () => Promise.resolve('b'), (refused) => refused ?? 'c'];
    for (const token of tokens) {
      expect(new ChatImages({ baseUrl: 'https://api.example.com', token })).toBeInstanceOf(ChatImages);
    }
  });

  it('make an error that can be decided by its code', () => {
    const error: unknown = new ChatImagesError({ code: 'FORBIDDEN', message: 'No.', status: 403 });
    if (!(error instanceof ChatImagesError)) throw error;
    expect<Same<typeof error.code, ErrorCode>>(true).toBe(true);
    expect(`${error.name}: ${error.message}`).toBe('ChatImagesError: No.');
  });
});
