import { createReadStream } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { systemCode } from '../errors/system-code.js';
import { type Change, MessageColumnError } from './message-column.js';

const lineSchema = z.strictObject({
  table: z.string(),
  column: z.string(),
  key: z.string(),
  old: z.string(),
  new: z.string(),
});

/** A line of an undo file: a change, and where it was made. */
export type UndoLine = z.output<typeof lineSchema>;

/** Old addresses may be signed: only the operator may read them. */
const MODE = 0o600;

/** The file by which changes can be undone. It is made with its first lines. */
export class UndoFile {
  private file: FileHandle | undefined;

  constructor(
    readonly path: string,
    private readonly place: Pick<UndoLine, 'table' | 'column'>,
  ) {}

  /** Whether there are lines in it. */
  get isWritten(): boolean {
    return this.file !== undefined;
  }

  /**
   * Writes lines so that they survive a power cut.
   *
   * @throws MessageColumnError when the file is there already, or can't be written
   */
  async write(changes: readonly Change[]): Promise<void> {
    const lines = changes.map((change) => {
      const line: UndoLine = { ...this.place, key: change.key, old: change.old, new: change.new };
      return `${JSON.stringify(line)}\n`;
    });
    try {
      this.file ??= await create(this.path);
      await this.file.appendFile(lines.join(''));
      await this.file.sync();
    } catch (error) {
      const code = systemCode(error);
      throw new MessageColumnError(
        code === 'EEXIST'
          ? `${this.path} is there already: name another --undo-file.`
          : `The undo file ${this.path} can not be written (${code ?? 'unknown error'}). Its batch was not changed.`,
        { cause: error },
      );
    }
  }

  async close(): Promise<void> {
    await this.file?.close();
  }
}

/** A file without its entry in the folder would be lost in a power cut. */
async function create(path: string): Promise<FileHandle> {
  const file = await open(path, 'ax', MODE);
  // Not every system lets a folder be opened.
  const folder = await open(dirname(path)).catch(() => undefined);
  await folder?.sync().catch(() => undefined);
  await folder?.close();
  return file;
}

/**
 * Reads an undo file. A last line that was cut is left out: its change was not made.
 *
 * @throws MessageColumnError for any other line that is none, and for a file that can't be read
 */
export async function* readUndoFile(path: string): AsyncGenerator<UndoLine> {
  let number = 0;
  let cut: number | undefined;
  try {
    for await (const text of createInterface({ input: createReadStream(path), crlfDelay: Infinity })) {
      if (cut !== undefined)
        throw new MessageColumnError(`Line ${cut} of ${path} is no line of an undo file.`);
      number += 1;
      const line = parse(text);
      if (line) yield line;
      else if (text !== '') cut = number;
    }
  } catch (error) {
    if (systemCode(error) === undefined) throw error;
    throw new MessageColumnError(`${path} can not be read (${systemCode(error) ?? ''}).`, { cause: error });
  }
  if (cut === 1) throw new MessageColumnError(`${path} is no undo file.`);
}

function parse(text: string): UndoLine | undefined {
  try {
    return lineSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}
