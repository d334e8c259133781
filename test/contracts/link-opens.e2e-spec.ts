import { describe, expect, it } from '@jest/globals';
import { tmpdir } from 'node:os';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { UploadSweeper } from '../../src/upkeep/upload-sweeper.service.js';
import { picture } from '../support/pictures.js';
import { RunningProcess } from '../support/run-process.js';
import { TestApp } from '../support/test-app.js';

const LEGACY = 'https://old-bucket.fra1.example.com/public';
const OLD_NAME = '1700000000_OldPicture.JPG';

describe('stable addresses opened without a token', () => {
  it('are limited per client network, apart from the limit of refused tokens', async () => {
    const test = await TestApp.start({
      MIGRATION_PHASE: '1',
      TRUST_PROXY: '1',
      RATE_LIMIT_LINK_OPENS_PER_MINUTE: '3',
      RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '1',
    });
    try {
      const { data } = (await (
        await test.upload(await picture('png'))
      ).json()) as UploadedChatImageResponseDto;
      const open = async (from: string): Promise<number> =>
        (await test.fetch(new URL(data.media_url).pathname, { headers: { 'x-forwarded-for': from } })).status;
      const statuses: number[] = [];
      for (const host of ['1', '2', '3', '4']) statuses.push(await open(`2001:db8::${host}`));
      expect(statuses).toEqual([302, 302, 302, 429]);
      expect(await open('2001:db8:0:1::1')).toBe(302);
      expect(await open('203.0.113.7')).toBe(302);
    } finally {
      await test.stop();
    }
  });

  it('are answered 503 while their log row can not be written', async () => {
    const test = await TestApp.start({ MIGRATION_PHASE: '1', LEGACY_MEDIA_URL: LEGACY });
    try {
      const { data } = (await (
        await test.upload(await picture('png'))
      ).json()) as UploadedChatImageResponseDto;
      const holder = test.database.createQueryRunner();
      await holder.startTransaction();
      await holder.query('LOCK TABLE chat_image_link_opens');
      for (const path of [
        new URL(data.media_url).pathname,
        `/storage/chat_images/appointment_1/${OLD_NAME}`,
      ]) {
        const response = await test.fetch(path);
        expect([
          response.status,
          response.headers.get('location'),
          response.headers.get('retry-after'),
        ]).toEqual([503, null, '5']);
      }
      await holder.rollbackTransaction();
      await holder.release();
    } finally {
      await test.stop();
    }
  });

  it('are counted by npm run migrate:status, which says whether phase 4 is safe', async () => {
    const test = await TestApp.start({ MIGRATION_PHASE: '2', LEGACY_MEDIA_URL: LEGACY });
    const status = async (phase = '2'): Promise<string> => {
      const child = new RunningProcess(['commands/migrate-status.js'], {
        env: { DATABASE_URL: test.settings.database.url, MIGRATION_PHASE: phase },
        cwd: tmpdir(),
      });
      expect(await child.exit).toBe(0);
      return child.output;
    };
    try {
      expect(await status()).toContain('Phase 4 would hurt nobody');
      expect(await status()).toContain('Not ready for phase 3: no old pictures were imported');
      const { data } = (await (
        await test.upload(await picture('png'))
      ).json()) as UploadedChatImageResponseDto;
      const open = (path: string): Promise<Response> =>
        test.fetch(path, { headers: { 'x-app-version': '1.4.0' } });
      for (let count = 0; count < 3; count += 1) await open(new URL(data.media_url).pathname);
      await open(`/storage/chat_images/appointment_1/${OLD_NAME}`);
      const now = await status();
      expect(now).toMatch(/1\.4\.0'\s+│\s+'here'\s+│\s+3\s+│\s+3\s+│\s+3\s/);
      expect(now).toMatch(/1\.4\.0'\s+│\s+'not here yet'\s+│\s+1\s+│\s+1\s+│\s+1\s/);
      expect(now).toContain('Phase 4 would hurt people: in the last 7 days pictures were opened 4 times');
      expect(await status('3')).toContain('Not ready for phase 4');
      await test.database.query(`UPDATE chat_image_link_opens SET opened_at = now() - interval '8 days'`);
      expect(await status()).toContain('Phase 4 may hurt a few');
      expect(await status('3')).toContain('Ready for phase 4.');
      expect(await status('4')).toContain('Phase 4 is on');
      await test.database.query(`UPDATE chat_image_link_opens SET opened_at = now() - interval '40 days'`);
      expect(await status()).toContain('Phase 4 would hurt nobody');
      // The sweeper keeps the rows of opened pictures, and deletes those of mere redirects.
      await test.app.get(UploadSweeper).sweep();
      expect(
        await test.database.query<unknown>('SELECT count(*) AS rows FROM chat_image_link_opens'),
      ).toEqual([{ rows: 3 }]);
    } finally {
      await test.stop();
    }
  });
});
