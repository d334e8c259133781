import { NestFactory } from '@nestjs/core';
import type { Logger } from 'pino';
import { DataSource } from 'typeorm';
import { AppModule } from '../app.module.js';
import { grantedOf, ImageAccess } from '../access/image-access.js';
import { ChatImageUploadsService } from '../uploads/chat-image-uploads.service.js';
import { ChatImage } from '../chat-images/entities/chat-image.entity.js';
import type { Settings } from '../config/settings.js';
import { NestLogger } from '../observability/logger.js';
import { UsageError } from '../commands/run-command.js';
import { samplePictures } from './sample-pictures.js';

/** Ids used in development and its documentation. */
export const PATIENT = 1;
export const DOCTOR = 2;
export const OUTSIDER = 3;
export const APPOINTMENT = 145;
const TEXT_SESSION = 147;

/**
 * Adds missing sample data: three users, their appointment, with TEXT_SESSIONS their text session, and two pictures where no picture is stored. The patient sends
 * the first picture, the doctor the second. On a new database these are the images 1 and 2 in the examples of the Swagger page. The pictures are
 * uploaded like any other picture.
 *
 * @returns the number of added pictures
 * @throws UsageError in production
 */
export async function addSampleData(settings: Settings, logger: Logger): Promise<number> {
  if (settings.environment === 'production') {
    throw new UsageError(
      'Sample data is for development and is not added with NODE_ENV=production, which also holds when NODE_ENV is not set.',
    );
  }
  const app = await NestFactory.createApplicationContext(AppModule.with(settings, logger), {
    logger: new NestLogger(logger),
    abortOnError: false,
  });
  try {
    const database = app.get(DataSource);
    await addPeople(database, settings.textSessions);
    if (await database.getRepository(ChatImage).existsBy({ state: 'stored' })) return 0;
    const access = app.get(ImageAccess);
    const uploads = app.get(ChatImageUploadsService);
    const [morning, night] = await samplePictures();
    for (const [sender, { name, bytes }] of [
      [PATIENT, morning],
      [DOCTOR, night],
    ] as const) {
      await uploads.upload(
        { id: sender },
        {
          conversation: grantedOf(
            await access.decideConversation({ id: sender }, { kind: 'appointment', id: APPOINTMENT }),
          ),
          pieces: [bytes],
          name,
          idempotencyKey: undefined,
          left: new AbortController().signal,
          waitedMs: 0,
        },
      );
    }
    return 2;
  } finally {
    await app.close();
  }
}

/** Existing rows stay unchanged. */
async function addPeople(database: DataSource, textSessions: boolean): Promise<void> {
  await database.query('INSERT INTO users (id) VALUES ($1), ($2), ($3) ON CONFLICT DO NOTHING', [
    PATIENT,
    DOCTOR,
    OUTSIDER,
  ]);
  await database.query(
    'INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING',
    [APPOINTMENT, PATIENT, DOCTOR],
  );
  if (!textSessions) return;
  await database.query(
    'INSERT INTO text_sessions (id, patient_id, doctor_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING',
    [TEXT_SESSION, PATIENT, DOCTOR],
  );
}
