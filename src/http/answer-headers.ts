import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';

export const REQUEST_ID_HEADER = 'X-Request-Id';

/**
 * The headers of every answer that does not say otherwise. Answers are data: a browser may do nothing with them but read
 * them (OWASP REST Security Cheat Sheet, "Security Headers"), and nobody keeps them.
 */
export const DEFAULT_HEADERS = [
  ['Cache-Control', 'no-store'],
  ['Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'"],
  ['Cross-Origin-Resource-Policy', 'same-origin'],
  ['Referrer-Policy', 'no-referrer'],
  ['Strict-Transport-Security', 'max-age=31536000; includeSubDomains'],
  ['X-Content-Type-Options', 'nosniff'],
  ['X-Frame-Options', 'DENY'],
] as const;

const FLAT_DEFAULT_HEADERS = DEFAULT_HEADERS.flat();

/**
 * Gives an answer its request's id and the default headers at the moment at which its head is written, by whichever layer:
 * in one list, as setting them one by one beforehand costs each answer more.
 *
 * @param given what `writeHead` was given behind the status
 * @returns what it is to be given instead
 */
export function completeHead(
  response: ServerResponse & { readonly requestId?: string },
  given: readonly unknown[],
): [headers?: OutgoingHttpHeaders | string[]] {
  const { requestId = '' } = response;
  const [headers = []] = given;
  // An answer of JSON: nothing was set before, and all that it needs is given here.
  if (given.length <= 1 && Array.isArray(headers) && response.getHeaderNames().length === 0)
    return [[...FLAT_DEFAULT_HEADERS, REQUEST_ID_HEADER, requestId, ...(headers as string[])]];
  response.setHeader(REQUEST_ID_HEADER, requestId);
  for (const [name, value] of DEFAULT_HEADERS) if (!response.hasHeader(name)) response.setHeader(name, value);
  return [...given] as [OutgoingHttpHeaders?];
}
