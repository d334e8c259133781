/** The file structure of a picture is broken, so its parts can't be separated. The message names the reason. */
export class MalformedImageError extends Error {
  override readonly name = 'MalformedImageError';
}
