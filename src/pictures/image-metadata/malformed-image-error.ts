/** The structure of a picture's file is broken, so what is in it can't be told apart. The message names the reason. */
export class MalformedImageError extends Error {
  override readonly name = 'MalformedImageError';
}
