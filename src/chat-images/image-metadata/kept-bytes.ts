/** More than any format adds to what it copies. */
const ROOM_FOR_ADDITIONS = 128;

/**
 * The copy of a picture while it is being made. Neighbouring ranges are joined before they are copied, so that a file
 * of a million tiny blocks costs neither a million copies nor a million objects.
 */
export class KeptBytes {
  readonly #source: Buffer;
  readonly #copy: Buffer;
  #length = 0;
  #from = 0;
  #to = 0;

  constructor(source: Buffer) {
    this.#source = source;
    // Not of the memory that small buffers share, so that it can be handed to another thread.
    this.#copy = Buffer.allocUnsafeSlow(source.length + ROOM_FOR_ADDITIONS);
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

  toBuffer(): Buffer {
    this.#flush();
    return this.#copy.subarray(0, this.#length);
  }

  #flush(): void {
    this.#length += this.#source.copy(this.#copy, this.#length, this.#from, this.#to);
    this.#from = this.#to;
  }
}
