/** A picture without its metadata. */
export type CleanedImage = {
  readonly bytes: Buffer;
  /** Three numbers for each range that was copied: to where, from where, how many bytes. In their order. */
  readonly copies: readonly number[];
};

/** More than any format adds to what it copies. */
const ROOM_FOR_ADDITIONS = 128;

/**
 * The copy of a picture while it is being made. Neighbouring ranges are joined before they are copied, so that a file
 * of a million tiny blocks costs neither a million copies nor a million objects.
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

  /** Where the next byte goes. */
  get length(): number {
    return this.#length + this.#to - this.#from;
  }

  /** Copies the source's bytes of `from` up to, not including, `to`. */
  keep(from: number, to: number): void {
    if (from !== this.#to) {
      this.#flush();
      this.#from = from;
    }
    this.#to = to;
  }

  /** Writes bytes that are not the source's. */
  write(bytes: Uint8Array): void {
    this.#flush();
    this.#copy.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Leaves room for what is known only later; the caller fills all of it. */
  reserve(length: number): Buffer {
    this.#flush();
    this.#length += length;
    return this.#copy.subarray(this.#length - length, this.#length);
  }

  /**
   * @param skipped how many of the first bytes, none of them copied, are left out
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
