import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

/**
 * A scripted S3 server, for cases that no real server offers: buckets that refuse ACLs, another region, or
 * a wrong clock. It stores nothing.
 */
export class S3Answers {
  /** The requests, oldest first. */
  readonly requests: IncomingMessage[] = [];
  private answer: Answer = takesEverything;
  private readonly server: Server;

  private constructor() {
    this.server = createServer((request, response) => {
      this.requests.push(request);
      request.resume().on('end', () => this.answer(request, response));
    });
  }

  static async start(): Promise<S3Answers> {
    const answers = new S3Answers();
    answers.server.listen(0, '127.0.0.1');
    await once(answers.server, 'listening');
    return answers;
  }

  /** Sets the response to later requests. By default every request succeeds. */
  answerWith(answer: Answer = takesEverything): void {
    this.answer = answer;
    this.requests.length = 0;
  }

  /** The settings of a service that uses this server. */
  get environment(): NodeJS.ProcessEnv {
    const url = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
    return {
      STORAGE_DRIVER: 's3',
      DO_SPACES_KEY: 'the-access-key',
      DO_SPACES_SECRET: 'the-secret-of-the-key',
      DO_SPACES_ENDPOINT: url,
      DO_SPACES_REGION: 'fra1',
      DO_SPACES_BUCKET: 'pictures',
      DO_SPACES_URL: `${url}/pictures`,
      STORAGE_MAX_ATTEMPTS: '2',
      STORAGE_REQUEST_TIMEOUT_MS: '500',
      STORAGE_CONNECT_TIMEOUT_MS: '1000',
    };
  }

  stop(): void {
    this.server.closeAllConnections();
    this.server.close();
  }
}

/** Refuses every request, or those that `applies` selects, with an error in the form of S3. */
export function refusal(
  status: number,
  code: string,
  applies: (request: IncomingMessage) => boolean = () => true,
): Answer {
  return (request, response) => {
    if (!applies(request)) {
      takesEverything(request, response);
      return;
    }
    response.writeHead(status, { 'content-type': 'application/xml' });
    response.end(
      `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code><Message>For the-access-key.</Message><RequestId>1</RequestId></Error>`,
    );
  };
}

function takesEverything(request: IncomingMessage, response: ServerResponse): void {
  response.writeHead(request.method === 'DELETE' ? 204 : 200, { 'content-type': 'application/xml' });
  response.end(
    request.method === 'GET'
      ? '<ListBucketResult><Name>pictures</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>'
      : undefined,
  );
}
