/** One HTTP request. */
export type HttpRequest = {
  readonly method: 'GET' | 'POST';
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | FormData;
  /** Told of the bytes of the body that have left, where the platform knows. */
  readonly onProgress?: (loaded: number, total: number) => void;
  readonly signal: AbortSignal;
};

/** One HTTP response, read to its end. */
export type HttpResponse = {
  readonly status: number;
  readonly header: (name: string) => string | null;
  readonly body: string;
};

/** Sends a request. Rejects when no response arrives, or when the signal aborts. */
export type Send = (request: HttpRequest) => Promise<HttpResponse>;

/** Uses XMLHttpRequest, which alone knows the progress of an upload, where progress is wanted; else `fetch`. */
export const send: Send = (request) =>
  request.onProgress && typeof XMLHttpRequest === 'function' ? sendByXhr(request) : sendByFetch(request);

async function sendByFetch({ url, method, headers, body, signal }: HttpRequest): Promise<HttpResponse> {
  const response = await fetch(url, { method, headers, ...(body === undefined ? {} : { body }), signal });
  return {
    status: response.status,
    header: (name) => response.headers.get(name),
    body: await response.text(),
  };
}

function sendByXhr({ url, method, headers, body, onProgress, signal }: HttpRequest): Promise<HttpResponse> {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const abort = (): void => xhr.abort();
    xhr.open(method, url);
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = ({ loaded, total }) => onProgress?.(loaded, total);
    xhr.onload = () =>
      resolve({
        status: xhr.status,
        header: (name) => xhr.getResponseHeader(name),
        body: xhr.responseText,
      });
    xhr.onerror = () => reject(new TypeError('The request failed.'));
    xhr.onabort = () => reject(new TypeError('The request was aborted.'));
    xhr.onloadend = () => signal.removeEventListener('abort', abort);
    signal.addEventListener('abort', abort);
    xhr.send(body);
    if (signal.aborted) abort();
  });
}
