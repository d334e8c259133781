type SwaggerRequest = { readonly headers: Record<string, string | undefined> };

/**
 * A request interceptor of Swagger UI: a token that was pasted into _Authorize_ with `Bearer ` in front works too. The
 * page puts its own in front of it; the server takes one only.
 *
 * The page gets the text of this function, so it uses nothing of this file but types.
 */
export function bearerOnce(request: SwaggerRequest): SwaggerRequest {
  const { Authorization: given } = request.headers;
  if (given !== undefined) request.headers.Authorization = given.replace(/^(Bearer\s+)+/i, 'Bearer ').trim();
  return request;
}
