import { parseId } from '../database/parse-id.js';

/** The place of an image in the list of its conversation. Clients get it as a cursor: an opaque text. */
export class ListPosition {
  constructor(
    readonly createdAt: Date,
    readonly id: number,
  ) {}

  /** @returns `undefined` for a text that is no {@link cursor} */
  static parse(cursor: string): ListPosition | undefined {
    const [time = '', idText = ''] = Buffer.from(cursor, 'base64url').toString().split('.');
    const createdAt = new Date(Number(time));
    const id = parseId(idText);
    if (id === undefined || !(createdAt.getTime() >= 0)) return undefined;
    const position = new ListPosition(createdAt, id);
    return position.cursor === cursor ? position : undefined;
  }

  get cursor(): string {
    return Buffer.from(`${this.createdAt.getTime()}.${this.id}`).toString('base64url');
  }
}
