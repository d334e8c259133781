import { parseArgs } from 'node:util';
import { parseId } from '../database/parse-id.js';
import {
  type ComparedObject,
  type ExplainedImage,
  type Explanation,
  ImageExplainer,
} from '../upkeep/image-explainer.js';
import { withUpkeep } from '../upkeep/with-upkeep.js';
import { IncompleteError, runCommand, UsageError } from './run-command.js';

const USAGE = `Usage: npm run explain -- --image <number> --user <number> [--last 20]

Tells whether the service shows the picture to the user, and why, what the storage has, and the last entries of the trail.
Changes nothing, and writes no entry. The user's token and rate limits are not looked at.
Exit code: 0 the user sees the picture; 2 the user does not, or its thumbnail is damaged; 1 the command has stopped.`;

const LABEL_WIDTH = 14;

await runCommand(async () => {
  const { image, user, last } = readArguments();
  await withUpkeep(async (app, settings) => {
    const explanation = await app.get(ImageExplainer).explain(user, image, last);
    const { refusal, why, opensWithoutToken } = explanation;
    say('decision', refusal === undefined ? `ALLOWED. ${why}` : `REFUSED with ${refusal}. ${why}`);
    say(
      'without token',
      `${opensWithoutToken ? 'opens' : 'refused'} at its stable address (MIGRATION_PHASE=${settings.migration.phase})`,
    );
    if (explanation.image) show(explanation.image, last);
    const problem = problemOf(explanation);
    if (problem !== undefined) throw new IncompleteError(problem);
  });
});

function show(image: ExplainedImage, last: number): void {
  const { row, conversation, participants, imported, tombstones, opensWithoutToken, trail } = image;
  say('conversation', `${conversation.kind} ${conversation.id}: ${nameBoth(participants)}`);
  say(
    'row',
    `${row.state}, sent by user ${row.uploadedBy} at ${row.createdAt.toISOString()}, ${row.mimeType}`,
  );
  say('imported', importOf(image));
  if (typeof imported?.reason === 'string') say('', printable(imported.reason));
  sayObject('object', image.object);
  if (image.thumbnail) sayObject('thumbnail', image.thumbnail);
  else say('thumbnail', 'none');
  for (const { objectKey, attempts, createdAt } of tombstones)
    say(
      'tombstone',
      `${printable(objectKey)} since ${createdAt.toISOString()}, tried ${attempts} times: kept while a row names it`,
    );
  say('opens', opensWithoutToken.length === 0 ? 'none without a token' : 'without a token, by app version:');
  if (opensWithoutToken.length > 0)
    console.table(opensWithoutToken.map((opens) => ({ ...opens, last: opens.last.toISOString() })));
  if (!trail) {
    say(
      'trail',
      'can not be read by the role of DATABASE_URL: set DATABASE_DIRECT_URL to the address of the role that migrates',
    );
    return;
  }
  say('trail', trail.length === 0 ? 'nobody has had its URL' : `the last ${trail.length}, at most ${last}:`);
  if (trail.length > 0)
    console.table(
      trail.map(({ accessedAt, accessedBy, variant }) => ({
        when: accessedAt.toISOString(),
        user: accessedBy,
        variant,
      })),
    );
}

function nameBoth(participants: ExplainedImage['participants']): string {
  return participants
    ? `patient is user ${participants.patientId}, doctor is user ${participants.doctorId}`
    : 'is gone, or not served here';
}

function importOf({ row, imported }: ExplainedImage): string {
  if (row.importedAs === null)
    return row.sha256Stored === null ? 'no, a row of the main application' : 'no, an upload';
  return imported
    ? `${row.importedAs}, from ${printable(imported.source)}: ${imported.state}`
    : row.importedAs;
}

function sayObject(label: string, { key, size, found, verdict, advice }: ComparedObject): void {
  const sizes =
    found === undefined || found === size ? `${size} bytes` : `${found} bytes, by its row ${size}`;
  say(label, `${verdict}, ${sizes}: ${printable(key)}`);
  if (advice !== undefined) say('', `${advice}.`);
}

/** Why the user does not see the picture. */
function problemOf({ refusal, image }: Explanation): string | undefined {
  if (refusal !== undefined) return 'The user does not see the picture.';
  if (image && isDamaged(image.object))
    return `The user may see the picture, but its object is ${image.object.verdict}.`;
  return image?.thumbnail && isDamaged(image.thumbnail)
    ? `The user sees the picture, but its thumbnail is ${image.thumbnail.verdict}.`
    : undefined;
}

function isDamaged({ verdict }: ComparedObject): boolean {
  return verdict !== 'intact' && verdict !== 'right size';
}

/** Without control characters: anyone who writes to the table could send terminal commands in a path. */
function printable(text: string): string {
  return text.replaceAll(/\p{C}/gu, '?');
}

function say(label: string, text: string): void {
  process.stdout.write(`${label.padEnd(LABEL_WIDTH)} ${text}\n`);
}

function readArguments(): { readonly image: number; readonly user: number; readonly last: number } {
  try {
    const { values } = parseArgs({
      options: {
        image: { type: 'string' },
        user: { type: 'string' },
        last: { type: 'string', default: '20' },
      },
    });
    const image = parseId(values.image ?? '');
    const user = parseId(values.user ?? '');
    if (image === undefined || user === undefined || !/^[1-9]\d{0,3}$/.test(values.last))
      throw new UsageError(USAGE);
    return { image, user, last: Number(values.last) };
  } catch {
    throw new UsageError(USAGE);
  }
}
