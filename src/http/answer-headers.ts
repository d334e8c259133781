import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';

export const REQUEST_ID_HEADER = 'X-Request-Id';

/**
 * The headers of every response, where a handler sets no other. Responses are data: a browser may only read them (OWASP REST
 * Security Cheat Sheet, "Security Headers"), and no cache keeps them.
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
 * Adds the request's id and the default headers when the head of a response is written, by whichever layer. One list costs
 * less than setting each header before.
 *
 * @param given the arguments of `writeHead` behind the status
 * @returns the arguments to use instead
 */
export function completeHead(
  response: ServerResponse & { readonly requestId?: string },
  given: readonly unknown[],
): [headers?: OutgoingHttpHeaders | string[]] {
  const { requestId = '' } = response;
  const [headers = []] = given;
  // A JSON response: no header was set before, and all of them are given here.
  if (given.length <= 1 && Array.isArray(headers) && response.getHeaderNames().length === 0)
    return [[...FLAT_DEFAULT_HEADERS, REQUEST_ID_HEADER, requestId, ...(headers as string[])]];
  response.setHeader(REQUEST_ID_HEADER, requestId);
  for (const [name, value] of DEFAULT_HEADERS) if (!response.hasHeader(name)) response.setHeader(name, value);
  return [...given] as [OutgoingHttpHeaders?];
}
