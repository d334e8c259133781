const ID = /^[1-9]\d{0,15}$/;

/**
 * Parses an id from a client or a token: a positive integer in decimal digits, at most 2^53 - 1.
 *
 * @returns `undefined` for any other text, such as `"0"`, `"-1"`, `"2.5"`, `"1e3"` or `" 7"`
 */
export function parseId(text: string): number | undefined {
  const id = Number(text);
  return ID.test(text) && Number.isSafeInteger(id) ? id : undefined;
}
