/** A picture without its metadata. */
export type CleanedImage = {
  readonly bytes: Buffer;
  /** Three numbers per copied range: target offset, source offset, length. In order. */
  readonly copies: readonly number[];
};

/**
 * Maximum number of bytes by which a cleaned picture is longer than the sent one. Only a PNG whose colour profile is
 * compressed anew, and a GIF of many frames without an end code, may grow by more than 64 bytes.
 */
export const MAX_ADDED_BYTES = 64 + 64 * 1024;

/** More bytes than any format adds to the copied bytes, before unused ones are cut. */
const ROOM_FOR_ADDITIONS = MAX_ADDED_BYTES + 64;

/**
 * Builds the copy of a picture. Adjacent ranges are merged before copying: a file of a million tiny blocks must not need
 * a million copies or objects.
 */
export class KeptBytes {
  readonly #source: Buffer;
  readonly #copy: Buffer;
  readonly #copies: number[] = [];
  #length = 0;
  #from = 0;
  #to = 0;

  constructor(source: Buffer) {
    this.#source = source;
    this.#copy = Buffer.allocUnsafe(source.length + ROOM_FOR_ADDITIONS);
  }

  /** Length of the copy so far: the offset of the next byte. */
  get length(): number {
    return this.#length + this.#to - this.#from;
  }

  /** Copies the source's bytes from `from` (inclusive) to `to` (exclusive). */
  keep(from: number, to: number): void {
    if (from !== this.#to) {
      this.#flush();
      this.#from = from;
    }
    this.#to = to;
  }

  /** Writes bytes that are not in the source. */
  write(bytes: Uint8Array): void {
    this.#flush();
    this.#copy.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Reserves bytes whose content is known only later. The caller fills all of them. */
  reserve(length: number): Buffer {
    this.#flush();
    this.#length += length;
    return this.#copy.subarray(this.#length - length, this.#length);
  }

  /**
   * @param skipped how many bytes to cut from the start; none of them may be copied from the source
   */
  finish(skipped = 0): CleanedImage {
    this.#flush();
    return {
      bytes: this.#copy.subarray(skipped, this.#length),
      copies: this.#copies.map((number, index) => (index % 3 === 0 ? number - skipped : number)),
    };
  }

  #flush(): void {
    const length = this.#source.copy(this.#copy, this.#length, this.#from, this.#to);
    if (length > 0) this.#copies.push(this.#length, this.#from, length);
    this.#length += length;
    this.#from = this.#to;
  }
}
