import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { TestApp } from '../support/test-app.js';

const FOLDER = 'docs/runbooks';
const PAGES = readdirSync(FOLDER).map((name) => [name, readFileSync(join(FOLDER, name), 'utf8')] as const);

/** All that a pattern's first group finds in the pages. */
const found = (pattern: RegExp): readonly string[] =>
  PAGES.flatMap(([, text]) => [...text.matchAll(pattern)].map(([, group = '']) => group));

const STATEMENTS = found(/psql "\$DATABASE_(?:DIRECT_)?URL" -A?t?c ((?:'[^']*')|(?:"[^"]*"))/g).map(
  (quoted) => quoted.slice(1, -1),
);

const COMMANDS = [...new Set(found(/npm run ([a-z:-]+)/g))];

const SOURCE = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((name) => /(?<!\.spec)\.ts$/.test(name))
  .map((name) => readFileSync(join('src', name), 'utf8'))
  .join('\n');

describe('the runbooks', () => {
  it('have an index that names each page', () => {
    const [, index = ''] = PAGES.find(([name]) => name === 'README.md') ?? [];
    for (const [name] of PAGES.filter(([page]) => page !== 'README.md'))
      expect([name, index.includes(`](${name})`)]).toEqual([name, true]);
  });

  it('have the four parts', () => {
    for (const [name, text] of PAGES.filter(([page]) => page !== 'README.md'))
      for (const part of ['What you see', 'What to do', 'How to know that it worked'])
        expect([name, part, text.includes(`## ${part}\n`)]).toEqual([name, part, true]);
  });

  it('lead to files and headings that are there', () => {
    for (const [name, text] of PAGES)
      for (const [, target = ''] of text.matchAll(/\]\(([^):]+)\)/g)) {
        const [path = '', anchor] = target.split('#');
        const file = join(FOLDER, path === '' ? name : path);
        expect([name, target, existsSync(file)]).toEqual([name, target, true]);
        if (anchor === undefined) continue;
        const anchors = [...readFileSync(file, 'utf8').matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
          heading
            .toLowerCase()
            .replaceAll(/[^\w\- ]/g, '')
            .replaceAll(' ', '-'),
        );
        expect([name, target, anchors.includes(anchor)]).toEqual([name, target, true]);
      }
  });

  it.each(COMMANDS)('name a command that is there: npm run %s', (command) => {
    const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as {
      scripts: Record<string, string>;
    };
    const [, program = ''] = /^node (dist\/\S+\.js)$/.exec(scripts[command] ?? '') ?? [];
    const source = program.replace(/^dist/, 'src').replace(/\.js$/, '.ts');
    expect([command, dirname(source)]).toEqual([command, 'src/commands']);
    expect([command, existsSync(source)]).toEqual([command, true]);
  });

  it.each(PAGES.filter(([name]) => name !== 'redis.md'))(
    'quote lines of the log that the source has: %s',
    (_, text) => expect(unknownMessages(text)).toEqual([]),
  );

  const withRedis = SOURCE.includes('REDIS_URL') ? it : it.skip;

  withRedis('quote lines of the log that the source has: redis.md', () => {
    expect(unknownMessages(readFileSync(join(FOLDER, 'redis.md'), 'utf8'))).toEqual([]);
  });

  const withMetrics = existsSync('docs/metrics.md') ? it : it.skip;

  withMetrics('name metrics that are there', () => {
    const metrics = readFileSync('docs/metrics.md', 'utf8');
    const names = found(/`(chat_images_\w+)/g);
    expect(names.length).toBeGreaterThan(10);
    expect(names.filter((name) => !metrics.includes(name))).toEqual([]);
  });
});

function unknownMessages(text: string): readonly string[] {
  const messages = [...text.matchAll(/"msg":"([^"]+)"/g)].map(([, message = '']) => message);
  return messages.filter((message) => !SOURCE.includes(message));
}

describe('the SQL of the runbooks', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await TestApp.start();
  });

  afterAll(() => test.stop());

  it.each(STATEMENTS)('runs: %s', async (sql) => {
    const session = test.database.createQueryRunner();
    await session.startTransaction();
    await expect(session.query(sql)).resolves.toBeDefined();
    await session.rollbackTransaction();
    await session.release();
  });

  it('is found', () => {
    expect(STATEMENTS.length).toBeGreaterThan(8);
  });
});
