import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DataSource } from 'typeorm';
import { signToken } from '../../src/auth/sign-token.js';
import { ENTITIES } from '../../src/chat-images/entities/entities.js';
import { loadSettings } from '../../src/config/settings.js';
import { dataSourceOptions } from '../../src/database/data-source-options.js';
import { migrateUp } from '../../src/database/migrate.js';
import { startEmbeddedPostgres } from '../../src/dev/embedded-postgres.js';
import { readiness, readMigrationStatus } from '../../src/import/migration-status.js';
import { LARAVEL_TABLES } from '../support/laravel-tables.js';
import { randomNumbers } from '../support/random-numbers.js';
import { Books } from './books.js';
import { Clients, shownOf } from './clients.js';
import { canBeUnreadable, Commands, type Ended } from './commands.js';
import { Findings, type Theme } from './findings.js';
import { ImportRuns } from './import-runs.js';
import { generateInstallation, makePicture, manifestOf, tablesOf, UPLOADER_QUERY } from './installation.js';
import { type Form, makePlace, type Place } from './places.js';
import { type Phase, Service } from './service.js';

const ENVIRONMENT = {
  NODE_ENV: 'test',
  LOG_LEVEL: 'info',
  JWT_SECRET: 'a secret that only this run knows, 0123456789',
  LOCAL_STORAGE_SECRET: 'another secret that only this run knows, 01234',
  TEXT_SESSIONS: 'true',
  // The warning would be on standard error, where no output is expected.
  AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true',
  RATE_LIMIT_SIGNED_URLS_PER_MINUTE: '1000000',
  RATE_LIMIT_UPLOADS_PER_MINUTE: '1000000',
  RATE_LIMIT_UNAUTHENTICATED_PER_MINUTE: '1000000',
  RATE_LIMIT_LINK_OPENS_PER_MINUTE: '10000000',
} satisfies NodeJS.ProcessEnv;

const TOKEN_SECONDS = 24 * 3600;

/** The shares of pictures that are stored when a run is killed. */
const FIRST_KILL = 0.1;
const THIRD_KILL = 0.5;

export type RehearsalOptions = {
  readonly form: Form;
  /** The files of the installation. */
  readonly files: number;
  /** Called with a line for each step. */
  readonly onStep?: (line: string) => void;
};

export type RehearsalReport = {
  readonly counts: Readonly<Record<string, number>>;
  findings(theme: Theme): readonly string[];
};

/**
 * Plays a whole migration on real parts: through all phases, back, and forward again, while clients read and upload. Needs a
 * build before.
 */
export async function rehearse(options: RehearsalOptions): Promise<RehearsalReport> {
  const stops: (() => Promise<unknown>)[] = [];
  try {
    const findings = new Findings();
    const folder = await mkdtemp(join(tmpdir(), 'chat-image-rehearsal-reports-'));
    stops.push(() => rm(folder, { recursive: true, force: true }));
    const place = await makePlace(options.form);
    stops.push(() => place.stop());
    const postgres = await startEmbeddedPostgres('throwaway');
    stops.push(() => postgres.stop());
    const url = await postgres.database('rehearsal');
    const environment = {
      ...ENVIRONMENT,
      DATABASE_URL: url,
      ...place.environment,
      LEGACY_MEDIA_URL: place.legacyUrl,
    };
    const settings = loadSettings({ ...environment, APP_URL: 'http://127.0.0.1' });
    const database = await new DataSource(dataSourceOptions(settings.database, ENTITIES)).initialize();
    stops.push(() => database.destroy());
    const rehearsal = new Rehearsal(options, findings, place, database, folder, (user) =>
      signToken(user, settings.jwt, TOKEN_SECONDS),
    );
    await rehearsal.play(environment, stops);
    return {
      counts: Object.fromEntries([...findings.counts].sort()),
      findings: (theme) => findings.of(theme),
    };
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

class Rehearsal {
  private phase: Phase = 1;
  private readonly began = performance.now();

  constructor(
    private readonly options: RehearsalOptions,
    private readonly findings: Findings,
    private readonly place: Place,
    private readonly database: DataSource,
    private readonly folder: string,
    private readonly tokenOf: (user: number) => string,
  ) {}

  async play(environment: NodeJS.ProcessEnv, stops: (() => Promise<unknown>)[]): Promise<void> {
    const { place, findings } = this;
    const kinds = place.kinds.filter((kind) => kind !== 'unreadable' || canBeUnreadable);
    const installation = await generateInstallation(this.options.files, kinds);
    const late = installation.files.filter(({ kind }) => kind === 'changing');
    await place.fill({ ...installation, files: installation.files.filter((file) => !late.includes(file)) });
    await this.database.query(LARAVEL_TABLES);
    for (const [sql, values] of tablesOf(installation)) await this.database.query(sql, values);
    await migrateUp(this.database);
    const manifest = join(this.folder, 'manifest.csv');
    await writeFile(manifest, manifestOf(installation));
    const books = await Books.open(place, this.database, findings, installation);

    this.step('phase 1');
    const service = await Service.start(environment, 1);
    stops.push(() => service.stop());
    const clients = new Clients(service, place, findings, this.tokenOf, installation);
    const running = clients.run();
    stops.push(async () => {
      clients.end();
      await running;
    });
    const enter = async (phase: Phase): Promise<void> => {
      this.step(`phase ${phase}`);
      await service.enter(phase, () => clients.turn());
      this.phase = phase;
      await clients.turn();
    };
    const commands = new Commands(this.folder, place.from, () => service.environmentOf(this.phase));
    // The last sentence of `migrate:status`.
    const says = async (sentence: string): Promise<void> => {
      const said = readiness(await readMigrationStatus(this.database, this.phase));
      findings.same('status', `phase ${this.phase}`, said, sentence);
    };
    await clients.turn();
    await says('Ready for phase 2: the new app version can be tested.');

    await enter(2);
    await says('Not ready for phase 3: no old pictures were imported (npm run migrate:images).');
    const importArgs = [
      ...place.importOptions,
      ...['--manifest', manifest, '--uploader-query', UPLOADER_QUERY, '--default-uploader', 'patient'],
    ];
    this.step('import: dry run');
    await books.checkDryRun(await commands.run('images', [...importArgs, '--dry-run']), clients);

    const runs = new ImportRuns(commands, this.database, place, findings, importArgs);
    const pictures = books.expectedPictures;
    this.step('import: killed');
    await runs.killAt(Math.floor(pictures * FIRST_KILL));
    this.step('import: killed half done');
    const halfDone = new Set(await runs.killHalfDone());
    for (const file of installation.files.filter(({ path }) => halfDone.has(path))) {
      if (file.kind === 'same name twice') continue;
      findings.count('pictures half done');
      const verdict = await clients.readByLink(shownOf(file));
      if (verdict !== undefined) findings.add('clients', `${file.path}, half done: ${verdict}`);
    }
    const waiting = books.importable - (await books.triedSoFar());
    await says(
      `Not ready for phase 3: ${waiting} old pictures wait for the import (npm run migrate:images).`,
    );
    this.step('import: two at once, one killed');
    await runs.runTwoAtOnce(Math.floor(pictures * THIRD_KILL));

    this.step('import: files that change');
    for (const { path, bytes } of late) await place.replace(path, bytes);
    const random = randomNumbers(29);
    const changes = new Map<string, Buffer>();
    for (const { path } of late) changes.set(path, await makePicture(random, 'png'));
    const { end, changed } = await runs.runWhileChanging(changes);
    await books.checkChanging(end, changes, changed);
    this.step('import: the last run');
    const last = await commands.run('images', importArgs);
    await books.checkReport(last);
    books.checkVerify(await commands.run('verify'), 'the same in both');
    const failed = books.failedCount;
    await says(
      `Not ready for phase 3: ${failed} old pictures could not be imported, and would be a 404. Where they may stay out, set the phase all the same.`,
    );

    await enter(3);
    await says('Not ready for phase 4: pictures are still opened without a token.');
    await enter(4);
    await says(
      `Phase 4 is the last. ${books.pictureCount} old pictures are still in their sources (npm run migrate:delete-source).`,
    );
    this.step('delete the source');
    await this.deleteSource(commands, books);
    await says('Phase 4 is the last. No imported picture is left in its source.');

    await enter(2);
    this.step('back');
    const back = await commands.run('rollback', ['--public', '--yes']);
    books.checkOutcomes(back, 0, ['put back']);
    await books.checkPublicAgain(clients);
    await says(
      `Not ready for phase 3: ${books.pictureCount} old pictures wait for the import (npm run migrate:images).`,
    );
    await clients.turn();

    this.step('forward again');
    await books.checkReport(await commands.run('images', importArgs));
    books.checkVerify(await commands.run('verify'), 'the same in both');
    await enter(3);
    await enter(4);
    await this.deleteSource(commands, books);

    this.step('the books');
    clients.end();
    await running;
    await books.balance(clients, service.url);
    for (const line of service.errors()) findings.add('clients', `the service has logged: ${line}`);
    this.step('done');
  }

  private async deleteSource(commands: Commands, books: Books): Promise<void> {
    const nothingKept = this.place.inPlace && this.place.importOptions.includes('--keep-bytes');
    const end: Ended = await commands.run('delete-source', ['--grace', '0s', '--yes']);
    books.checkOutcomes(end, 0, [nothingKept ? 'nothing was kept' : 'deleted']);
    books.checkVerify(await commands.run('verify'), 'only here: the source is deleted');
  }

  private step(what: string): void {
    const seconds = ((performance.now() - this.began) / 1000).toFixed(1).padStart(6);
    this.options.onStep?.(`${seconds} s  ${what}`);
  }
}
