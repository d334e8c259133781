const MAX_LENGTH = 255;

/** Control characters, and those that turn the direction of a text. */
const NOT_CLEAN = /[\p{Cc}\p{Bidi_Control}]/u;

/**
 * The file name of an upload, as people see it: without what could harm a log, a header, the column or the direction of
 * a text. React Native percent-encodes names with spaces or umlauts; such a name is decoded, once.
 *
 * @param name as the client sent it, without folders
 */
export function tidyName(name = ''): string {
  const tidy = (decoded(name) ?? name).replaceAll(/\p{C}/gu, '').trim();
  return tidy.slice(0, MAX_LENGTH).toWellFormed() || 'image';
}

/** The last segment of a percent-encoded name; nothing when the name does not decode to clean text. */
function decoded(name: string): string | undefined {
  try {
    const text = decodeURIComponent(name);
    const [segment = ''] = text.split(/[/\\]/).slice(-1);
    const isName = !NOT_CLEAN.test(text) && !['', '.', '..'].includes(segment.trim());
    return isName ? segment : undefined;
  } catch {
    // A lone `%`, or bytes that are no UTF-8.
    return undefined;
  }
}
