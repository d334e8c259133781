/*
 * npm run capacity -- --images-per-month 1e6: prints what an installation of that size needs, as a table in Markdown; several
 * sizes with commas. Needs no database: what one upload and one signed URL cost is in docs/bench/capacity.json, which
 * `npm run bench:capacity -- --write` measures. `--write-docs` writes the tables into docs/capacity.md instead.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { runCommand, UsageError } from '../commands/run-command.js';
import { ASSUMPTIONS, type Assumptions, type Measured, optionOf } from './capacity-model.js';
import { assumptionsTable, capacityTable, measuredTable, withTables } from './capacity-tables.js';

const MEASURED = new URL('../../docs/bench/capacity.json', import.meta.url);
const DOCUMENT = new URL('../../docs/capacity.md', import.meta.url);

const OPTIONS = Object.fromEntries(
  Object.keys(ASSUMPTIONS).map((name) => [optionOf(name), { type: 'string' as const }]),
);

const USAGE = `Usage: npm run capacity -- --images-per-month 1e6[,1e8] [--option number]
       npm run capacity -- --write-docs

${Object.entries(ASSUMPTIONS)
  .map(([name, { value, meaning }]) => `  --${optionOf(name)} ${value}   ${meaning}`)
  .join('\n')}`;

await runCommand(async () => {
  const values = readArguments();
  const measured = JSON.parse(await readFile(MEASURED, 'utf8')) as Measured;
  if (values['write-docs'] === true) {
    await writeFile(DOCUMENT, withTables(await readFile(DOCUMENT, 'utf8'), measured));
    process.stdout.write('docs/capacity.md is written. Then: npx prettier --write docs/capacity.md\n');
    return;
  }
  const assumed = Object.fromEntries(
    Object.entries(ASSUMPTIONS).map(([name, { value }]) => {
      const given = values[optionOf(name)];
      return [name, typeof given === 'string' ? numberOf(given) : value];
    }),
  ) as Omit<Assumptions, 'imagesPerMonth'>;
  const sizes = String(values['images-per-month']).split(',').map(numberOf);
  process.stdout.write(
    `${capacityTable(sizes, assumed, measured)}\n\n${assumptionsTable(assumed)}\n\n${measuredTable(measured)}\n`,
  );
});

function numberOf(text: string): number {
  const value = Number(text);
  if (text === '' || !Number.isFinite(value) || value < 0) throw new UsageError(USAGE);
  return value;
}

function readArguments(): Readonly<Record<string, string | boolean | undefined>> {
  try {
    const { values } = parseArgs({
      options: {
        ...OPTIONS,
        'images-per-month': { type: 'string' },
        'write-docs': { type: 'boolean' },
      },
    });
    if (values['images-per-month'] === undefined && values['write-docs'] !== true)
      throw new UsageError(USAGE);
    return values;
  } catch {
    throw new UsageError(USAGE);
  }
}
