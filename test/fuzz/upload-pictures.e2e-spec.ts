import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { createHash } from 'node:crypto';
import sharp from 'sharp';
import { PictureError } from '../../src/pictures/picture-error.js';
import { ImagePreparer } from '../../src/pictures/image-preparer.js';
import { holds, LIMIT_MS, PROPERTY_LIMIT_MS } from '../support/fuzz-property.js';
import { FuzzedService } from '../support/fuzzed-service.js';
import { cuts } from '../support/odd-framing.js';
import { phonePhoto } from '../support/pictures.js';
import { form } from '../support/raw-clients.js';
import { PATIENT } from '../support/test-app.js';
import { mutate, mutatedPicture } from './mutated-pictures.js';

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

describe('uploads of mutated pictures', () => {
  let service: FuzzedService;

  beforeAll(async () => {
    service = await FuzzedService.start();
  });

  // Jest fails the running test at an unhandled rejection.
  afterEach(() => service.expectWell());

  afterAll(() => service.stop());

  it(
    'are refused as invalid or prepared as pictures that decode and stay unchanged',
    async () => {
      const preparer = service.test.app.get(ImagePreparer);
      const sender = { userId: PATIENT, left: new AbortController().signal };
      const originals = [...service.pictures, await phonePhoto()];
      let accepted = 0;
      await holds(
        fc.asyncProperty(mutatedPicture, async ([index, mutations]) => {
          const bytes = mutate(originals[index % originals.length] ?? Buffer.alloc(0), mutations, originals);
          const started = performance.now();
          const prepared = await preparer.prepare([Buffer.from(bytes)], sender).catch((error: unknown) => {
            if (error instanceof PictureError && error.failure === 'invalid') return undefined;
            throw error;
          });
          expect(performance.now() - started).toBeLessThan(LIMIT_MS);
          if (!prepared) return;
          accepted += 1;
          const stored = Buffer.concat(prepared.pieces);
          expect(prepared).toMatchObject({
            sha256: sha256(stored),
            sha256Sent: sha256(bytes),
            size: stored.length,
          });
          expect(stored.length).toBeLessThanOrEqual(bytes.length + 64);
          expect([prepared.width, prepared.height].every((side) => side > 0)).toBe(true);
          await sharp(stored, { animated: true, failOn: 'error' }).stats();
          const again = await preparer.prepare([Buffer.from(stored)], sender);
          expect(Buffer.concat(again.pieces).equals(stored)).toBe(true);
          const same = { sha256Sent: prepared.sha256, pieces: [], times: undefined };
          expect({ ...again, ...same }).toEqual({ ...prepared, ...same });
          expect(again.sha256Sent).toBe(prepared.sha256);
        }),
        600,
      );
      expect(accepted).toBeGreaterThan(20);
    },
    PROPERTY_LIMIT_MS + 30_000,
  );

  it(
    'are answered 200 with a readable picture, or 422 INVALID_IMAGE',
    async () => {
      const { pictures } = service;
      await holds(
        fc.asyncProperty(mutatedPicture, cuts, async ([index, mutations], packets) => {
          const bytes = mutate(pictures[index % pictures.length] ?? Buffer.alloc(0), mutations, pictures);
          const body = form(bytes);
          const headers = [`Content-Length: ${body.length}`, 'Content-Type: multipart/form-data; boundary=b'];
          const { client, requestId } = await service.send(PATIENT, headers, body, packets);
          const answer = await client.answer(LIMIT_MS);
          service.expectOwnAnswer(answer, requestId);
          expect([200, 422]).toContain(answer.status);
          service.keep(client);
          if (answer.status === 200) {
            const { data } = JSON.parse(answer.body) as { data: { signed_url: string; size: number } };
            const stored = Buffer.from(await (await fetch(data.signed_url)).arrayBuffer());
            expect(stored.length).toBe(data.size);
            await sharp(stored, { animated: true, failOn: 'error' }).stats();
          } else {
            expect(JSON.parse(answer.body)).toMatchObject({ error_code: 'INVALID_IMAGE' });
          }
        }),
        40,
      );
    },
    PROPERTY_LIMIT_MS + 30_000,
  );
});
