import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { holds, LIMIT_MS, mostly, PROPERTY_LIMIT_MS } from '../support/fuzz-property.js';
import { FuzzedService } from '../support/fuzzed-service.js';
import { cuts, framed, framing } from '../support/odd-framing.js';
import { DOCTOR, OUTSIDER, PATIENT } from '../support/test-app.js';
import { form, formBytes, FOUND_BEFORE } from './odd-forms.js';

describe('POST /api/upload/chat-image, with random forms', () => {
  let service: FuzzedService;

  beforeAll(async () => {
    service = await FuzzedService.start();
  });

  // Jest fails the running test at an unhandled rejection.
  afterEach(() => service.expectWell());

  afterAll(() => service.stop());

  it(
    'answers any form in any framing and packets as documented',
    async () => {
      const statuses = new Map<number, number>();
      await holds(
        fc.asyncProperty(
          form,
          framing,
          cuts,
          mostly(PATIENT, fc.constantFrom(DOCTOR, OUTSIDER, undefined)),
          async (fields, frame, packets, as) => {
            const body = formBytes(fields, service.pictures[3] ?? Buffer.alloc(0));
            const { header, sent } = framed(body, frame);
            const type = fields.contentType?.replace('{}', fields.boundary);
            const headers = [header, ...(type === undefined ? [] : [`Content-Type: ${type}`])];
            const { client, requestId } = await service.send(as, headers, sent, packets);
            let isLeftOpen = false;
            try {
              const isWhole =
                frame.by === 'length' ? frame.delta <= 0 : !['bad size', 'no end'].includes(frame.flaw);
              // The server must close the connection of an incomplete request soon after the client does.
              if (!isWhole && frame.by === 'length') client.socket.end();
              if (!isWhole && frame.by === 'chunks' && frame.flaw === 'no end') client.socket.end();
              const answers = isWhole
                ? [await client.answer(LIMIT_MS)]
                : await client.answersUntilClosed(LIMIT_MS);
              for (const answer of answers) {
                service.expectOwnAnswer(answer, requestId);
                if (as === OUTSIDER || as === undefined) expect(answer.status).not.toBe(200);
                statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
              }
              const isExact = isWhole && !(frame.by === 'length' && frame.delta < 0);
              isLeftOpen = isExact && answers[0]?.headers.get('connection') !== 'close';
            } finally {
              if (isLeftOpen) service.keep(client);
              else client.socket.destroy();
            }
          },
        ),
        250,
        FOUND_BEFORE,
      );
      // The generator must reach every kind of response.
      expect([...statuses.keys()].sort()).toEqual(expect.arrayContaining([200, 400, 401, 403, 415, 422]));
    },
    PROPERTY_LIMIT_MS + 30_000,
  );
});
