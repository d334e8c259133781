import type { NestExpressApplication } from '@nestjs/platform-express';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DataSource } from 'typeorm';
import { signToken } from '../../src/auth/sign-token.js';
import { loadSettings, type Settings } from '../../src/config/settings.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { dataSourceOptions } from '../../src/database/data-source-options.js';
import { type EmbeddedDatabase, freePort, startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { migrateUp } from '../../src/database/migrate.js';
import { createLogger } from '../../src/observability/logger.js';
import { createApp } from '../../src/server.js';

import { s3Environment } from './s3-environment.js';

export const PATIENT = 1;
export const DOCTOR = 2;
export const OUTSIDER = 3;
export const APPOINTMENT = 145;

export const JWT_SECRET = 'a secret that only the tests know, 0123456789';

/** The environment of a test application: a local storage folder, and very high rate limits. */
export const TEST_ENVIRONMENT = {
  NODE_ENV: 'test',
  LOG_LEVEL: 'info',
  APP_URL: 'http://localhost:3000',
  JWT_SECRET,
  STORAGE_DRIVER: 'local',
  LOCAL_STORAGE_SECRET: 'another secret that only the tests know, 0123',
  RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '100000',
  RATE_LIMIT_UPLOADS_PER_MINUTE: '100000',
  RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '100000',
} satisfies NodeJS.ProcessEnv;

type TestStorage = { readonly name: string; readonly environment: NodeJS.ProcessEnv | undefined };

const S3: TestStorage = { name: 's3', environment: s3Environment() };

/** The storages of the suites. Without an S3 server its tests are skipped. */
export const STORAGES: readonly TestStorage[] = [{ name: 'local', environment: {} }, S3];

/** The same for the suites of `npm run test:s3`: with REQUIRE_S3, `npm test` is what tests the local storage. */
export const REQUIRED_STORAGES: readonly TestStorage[] = process.env.REQUIRE_S3 ? [S3] : STORAGES;

/** A running application with its own database and storage folder. */
export class TestApp {
  /** The log lines of the application. */
  readonly logLines: string[] = [];
  app!: NestExpressApplication;
  settings!: Settings;
  postgres!: EmbeddedDatabase;
  /** A database connection of the tests, apart from the application. */
  database!: DataSource;
  private folder!: string;
  private patients = 1000;
  private environment!: NodeJS.ProcessEnv;

  /**
   * Starts database and application, with the users and the appointment of the constants above.
   *
   * @param environment added to {@link TEST_ENVIRONMENT}
   * @param tables SQL that runs before the migrations, as of the main application
   */
  static async start(environment: NodeJS.ProcessEnv = {}, tables: readonly string[] = []): Promise<TestApp> {
    const test = new TestApp();
    test.folder = await mkdtemp(join(tmpdir(), 'chat-image-store-storage-'));
    test.postgres = await startEmbeddedPostgres('throwaway');
    try {
      const url = await test.postgres.database('test');
      // The port must be known, as signed URLs of the local storage lead to the application.
      const port = await freePort();
      test.environment = {
        ...TEST_ENVIRONMENT,
        PORT: String(port),
        APP_URL: `http://127.0.0.1:${port}`,
        DATABASE_URL: url,
        LOCAL_STORAGE_DIR: test.folder,
        ...environment,
      };
      test.settings = loadSettings(test.environment);
      test.database = await new DataSource(
        dataSourceOptions({ ...test.settings.database, url }, ENTITIES),
      ).initialize();
      for (const sql of tables) await test.database.query(sql);
      await migrateUp(test.database);
      await test.database.query('INSERT INTO users (id) VALUES ($1), ($2), ($3) ON CONFLICT DO NOTHING', [
        PATIENT,
        DOCTOR,
        OUTSIDER,
      ]);
      await test.database.query(
        'INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING',
        [APPOINTMENT, PATIENT, DOCTOR],
      );
      await test.listen();
    } catch (error) {
      // Nothing else stops the database then.
      await test.postgres.stop();
      throw error;
    }
    return test;
  }

  /** The address of the application. */
  get url(): string {
    return `http://127.0.0.1:${this.settings.port}`;
  }

  /** Restarts the application on the same database and storage, with a changed environment. */
  async restart(environment: NodeJS.ProcessEnv): Promise<void> {
    await this.close();
    this.environment = { ...this.environment, ...environment };
    this.settings = loadSettings(this.environment);
    await this.listen();
  }

  async stop(): Promise<void> {
    await this.close();
    await this.database.destroy();
    await this.postgres.stop();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** Sends a request, with a token when `as` names a user. */
  fetch(path: string, { as, headers, ...init }: RequestInit & { as?: number } = {}): Promise<Response> {
    return fetch(`${this.url}${path}`, {
      redirect: 'manual',
      ...init,
      headers: {
        ...(as === undefined ? {} : { authorization: `Bearer ${this.token(as)}` }),
        ...(headers as object),
      },
    });
  }

  token(userId: number): string {
    return signToken(userId, this.settings.jwt, 3600);
  }

  /** Adds a patient and an appointment with the doctor, both of the returned number. */
  async addPatient(): Promise<number> {
    const id = (this.patients += 1);
    await this.database.query('INSERT INTO users (id) VALUES ($1)', [id]);
    await this.database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES ($1, $1, $2)', [
      id,
      DOCTOR,
    ]);
    return id;
  }

  /** Uploads as the app does: the file first, its type always image/jpeg. */
  upload(
    bytes: Uint8Array,
    options: { as?: number; appointment?: string; name?: string } = {},
  ): Promise<Response> {
    const form = new FormData();
    form.append(
      'file',
      new Blob([new Uint8Array(bytes)], { type: 'image/jpeg' }),
      options.name ?? 'photo.jpg',
    );
    form.append('appointment_id', options.appointment ?? String(APPOINTMENT));
    return this.fetch('/api/upload/chat-image', { method: 'POST', body: form, as: options.as ?? PATIENT });
  }

  private async close(): Promise<void> {
    // The close would wait for the keep-alive connections of fetch.
    this.app.getHttpServer().closeAllConnections();
    await this.app.close();
  }

  private async listen(): Promise<void> {
    const destination = { write: (line: string): void => void this.logLines.push(line.trimEnd()) };
    this.app = await createApp(this.settings, createLogger(this.settings.logLevel, { destination }));
    await this.app.listen(this.settings.port, '127.0.0.1');
  }
}
