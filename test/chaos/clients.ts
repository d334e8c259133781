import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import type { ChatImageListResponseDto } from '../../src/chat-images/dto/chat-image-list.dto.js';
import type { SignedUrlsResponseDto } from '../../src/chat-images/dto/signed-urls.dto.js';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { ErrorBodyDto } from '../../src/errors/error-body.dto.js';
import { pick, type RandomNumbers, randomNumbers } from '../support/random-numbers.js';
import type { Fleet } from './fleet.js';
import type { Ledger, SentPicture } from './ledger.js';
import {
  type Appointment,
  APPOINTMENTS,
  INSTANCES,
  OUTSIDER,
  planSending,
  SENDERS,
  type Tap,
} from './plan.js';

/** The request timeout and the retry pauses of the app. */
const TIMEOUT_MS = 30_000;
const RETRY_PAUSES_MS = [2000, 4000];

/** The number of clients that ask for URLs, and their longest pause. */
const READERS = 3;
const READER_PAUSE_MS = 800;

/** The number of pictures in a batch request. */
const BATCH_SIZE = 5;

const BOUNDARY = 'chaos';

/** A whole response; undefined when it was lost or late, or the client has disconnected. */
export type Answer = { readonly status: number; readonly body: unknown } | undefined;

type Call = {
  readonly instance: number;
  readonly as: number;
  readonly path: string;
  readonly method?: 'GET' | 'POST';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
  readonly leaves?: Tap['leaves'];
};

/** The clients, which behave as the app does. */
export class Clients {
  private readonly agent = new Agent({ keepAlive: true });
  private readonly tokens = new Map<number, string>();

  constructor(
    private readonly fleet: Fleet,
    private readonly ledger: Ledger,
    private readonly seed: number,
  ) {
    for (const user of [...SENDERS, OUTSIDER]) this.tokens.set(user, fleet.tokenOf(user));
  }

  /** Sends pictures and asks for URLs until the run is over. Resolves when all clients have ended. */
  async run(over: AbortSignal): Promise<void> {
    await Promise.all([
      ...SENDERS.map((user) => this.sendPictures(user, over)),
      ...Array.from({ length: READERS }, (_, reader) => this.askForUrls(reader, over)),
      this.pryIntoPictures(over),
    ]);
  }

  /** Sends a picture to an instance. Resolves to whether it was stored. */
  async probe(instance: number): Promise<boolean> {
    const [user = 0] = SENDERS;
    const { appointment, picture } = planSending(this.seed, user, -1 - instance);
    const bytes = await picture();
    const sent = this.ledger.picture(user, appointment, bytes, picture);
    const instances: Tap['instances'] = [instance, instance, instance];
    await this.sendAsTheApp(sent, bytes, { instances, key: undefined, leaves: 'never' });
    return sent.answers.length > 0;
  }

  close(): void {
    this.agent.destroy();
  }

  private async sendPictures(user: number, over: AbortSignal): Promise<void> {
    for (let index = 0; !over.aborted; index += 1) {
      const { appointment, picture, taps, again, pauseMs } = planSending(this.seed, user, index);
      const bytes = await picture();
      const sent = this.ledger.picture(user, appointment, bytes, picture);
      await Promise.all(taps.map((tap) => this.sendAsTheApp(sent, bytes, tap)));
      if (again && (await waited(again.afterMs, over))) await this.sendAsTheApp(sent, bytes, again.tap);
      await waited(pauseMs, over);
    }
  }

  /** Sends up to three times, each with a new file name and the same bytes. */
  private async sendAsTheApp(sent: SentPicture, bytes: Buffer, tap: Tap): Promise<void> {
    for (const [index, instance] of tap.instances.entries()) {
      if (index > 0) await setTimeout(RETRY_PAUSES_MS[index - 1]);
      const answer = await this.call({
        instance,
        as: sent.user,
        path: '/api/upload/chat-image',
        method: 'POST',
        headers: {
          'content-type': `multipart/form-data; boundary=${BOUNDARY}`,
          ...(tap.key === undefined ? {} : { 'idempotency-key': tap.key }),
        },
        body: uploadForm(sent, bytes, `photo_${Date.now()}.jpg`),
        leaves: index === 0 ? tap.leaves : 'never',
      });
      this.judge('upload', sent.user, answer, [200, 503]);
      if (answer?.status === 200) {
        this.ledger.stored(sent, (answer.body as UploadedChatImageResponseDto).data, tap.key);
        return;
      }
      sent.isCertain = false;
    }
    this.ledger.count('upload given up');
  }

  /** Asks for signed URLs of an appointment's pictures on all routes, as its patient or its doctor. */
  private async askForUrls(reader: number, over: AbortSignal): Promise<void> {
    const random = randomNumbers(this.seed, 4, reader);
    while (await waited(random(READER_PAUSE_MS), over)) {
      const appointment = pick(random, APPOINTMENTS);
      const user = pick(random, [appointment.patient, appointment.doctor]);
      await this.askOnce(user, appointment, random);
    }
  }

  private async askOnce(user: number, appointment: Appointment, random: RandomNumbers): Promise<void> {
    const instance = random(INSTANCES);
    const images = this.imagesOf(appointment.id);
    if (images.length === 0) return;
    const image = pick(random, images);
    const first = random(images.length);
    const several = images.slice(first, first + BATCH_SIZE);
    switch (random(5)) {
      case 0:
      case 1:
      case 2: {
        const paths = [
          `/api/chat-images/${image.id}/signed-url`,
          `/api/chat-images/${fileNameOf(image)}/signed-url`,
          `/storage/${image.file_path}`,
        ];
        const answer = await this.call({ instance, as: user, path: pick(random, paths) });
        this.judge('URL', user, answer, [200, 302, 503]);
        if (answer && answer.status < 400) this.ledger.handedOut(user, image.id);
        else this.ledger.mayBeLost(user, image.id);
        return;
      }
      case 3: {
        const answer = await this.call({ instance, as: user, ...batchOf(several) });
        this.judge('URLs', user, answer, [200, 503]);
        const entries = answer?.status === 200 ? (answer.body as SignedUrlsResponseDto).data : [];
        for (const [index, { id }] of several.entries()) {
          const entry = entries[index];
          if (entry && 'url' in entry) this.ledger.handedOut(user, id);
          else this.ledger.mayBeLost(user, id);
          if (entry && 'error_code' in entry && entry.error_code !== 'DATABASE_UNAVAILABLE')
            this.ledger.findings.push(`user ${user} was told ${entry.error_code} of the stored image ${id}.`);
        }
        return;
      }
      default: {
        // The pictures of a lost list are unknown. So only doctors ask for lists.
        const { id, doctor } = appointment;
        const path = `/api/appointments/${id}/chat-images?signed_urls=true&limit=${BATCH_SIZE}`;
        const answer = await this.call({ instance, as: doctor, path });
        this.judge('list', doctor, answer, [200, 503]);
        if (answer?.status === 200) {
          const { images: listed } = (answer.body as ChatImageListResponseDto).data;
          for (const image of listed) this.ledger.handedOut(doctor, image.id);
        } else {
          this.ledger.anyMayBeLost(doctor);
        }
      }
    }
  }

  /** Asks for pictures as an outsider. */
  private async pryIntoPictures(over: AbortSignal): Promise<void> {
    const random = randomNumbers(this.seed, 5);
    while (await waited(random(READER_PAUSE_MS), over)) {
      const appointment = pick(random, APPOINTMENTS);
      const others = SENDERS.filter((user) => user !== appointment.patient && user !== appointment.doctor);
      const outsider = pick(random, [OUTSIDER, OUTSIDER, ...others]);
      const instance = random(INSTANCES);
      const images = this.imagesOf(appointment.id);
      const calls: Pick<Call, 'path' | 'method' | 'headers' | 'body'>[] = [
        { path: `/api/appointments/${appointment.id}/chat-images?signed_urls=true` },
      ];
      if (images.length > 0) {
        const image = pick(random, images);
        calls.push(
          { path: `/api/chat-images/${image.id}/signed-url` },
          { path: `/api/chat-images/${fileNameOf(image)}/signed-url` },
          { path: `/api/chat-images/${image.id}` },
          { path: `/storage/${image.file_path}` },
          batchOf([image]),
        );
      }
      const call = pick(random, calls);
      const answer = await this.call({ instance, as: outsider, ...call });
      if (call.method !== 'POST') {
        this.judge('outsider', outsider, answer, [403, 503]);
        continue;
      }
      this.judge('outsider, many', outsider, answer, [200, 503]);
      const entries = answer?.status === 200 ? (answer.body as SignedUrlsResponseDto).data : [];
      for (const entry of entries)
        if ('url' in entry || !['FORBIDDEN', 'DATABASE_UNAVAILABLE'].includes(entry.error_code))
          this.ledger.findings.push(
            `the outsider ${outsider} was not refused: ${JSON.stringify(Object.keys(entry))}`,
          );
    }
  }

  /** Counts a response, and compares its status with those expected while backends fail. */
  private judge(what: string, user: number, answer: Answer, expected: readonly number[]): void {
    const { error_code: code = '' } = (answer?.body ?? {}) as Partial<ErrorBodyDto>;
    const outcome = answer ? `${answer.status} ${code}`.trim() : 'without an answer';
    this.ledger.count(`${what} ${outcome}`);
    if (answer && !expected.includes(answer.status))
      this.ledger.findings.push(`${what} of user ${user}: ${outcome}.`);
  }

  private imagesOf(appointmentId: number): { id: number; file_path: string }[] {
    return [...this.ledger.images]
      .filter(([, { appointment }]) => appointment.id === appointmentId)
      .map(([id, { file_path }]) => ({ id, file_path }));
  }

  /** Sends a request. */
  async call({ instance, as, path, method = 'GET', headers, body, leaves = 'never' }: Call): Promise<Answer> {
    const sent = request(`${this.fleet.urlOf(instance)}${path}`, {
      agent: this.agent,
      method,
      headers: {
        authorization: `Bearer ${this.tokens.get(as) ?? ''}`,
        ...(body ? { 'content-length': body.length } : {}),
        ...headers,
      },
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    // An error may also come after the response has begun. The response then reports it.
    sent.on('error', () => undefined);
    try {
      const response = once(sent, 'response') as Promise<[IncomingMessage]>;
      if (leaves === 'never' || !body) {
        sent.end(body);
      } else {
        const share = leaves === 'within' ? 0.5 : 1;
        sent.write(body.subarray(0, Math.floor(body.length * share)), () => sent.destroy());
      }
      const [incoming] = await response;
      const content = await text(incoming);
      return { status: incoming.statusCode ?? 0, body: content === '' ? undefined : JSON.parse(content) };
    } catch (error) {
      if (error instanceof SyntaxError) this.ledger.findings.push(`an answer to ${path} is no JSON.`);
      return undefined;
    }
  }
}

/** Waits. Resolves to whether the run still lasts. */
async function waited(ms: number, over: AbortSignal): Promise<boolean> {
  await setTimeout(ms, undefined, { signal: over }).catch(() => undefined);
  return !over.aborted;
}

/** The form of the app: the file first, its type always image/jpeg. */
function uploadForm({ appointment }: SentPicture, bytes: Buffer, name: string): Buffer {
  return Buffer.concat([
    Buffer.from(
      `--${BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="${name}"\r\n` +
        'Content-Type: image/jpeg\r\n\r\n',
    ),
    bytes,
    Buffer.from(
      `\r\n--${BOUNDARY}\r\nContent-Disposition: form-data; name="appointment_id"\r\n\r\n${appointment.id}\r\n` +
        `--${BOUNDARY}--\r\n`,
    ),
  ]);
}

function batchOf(images: readonly { id: number }[]): Pick<Call, 'path' | 'method' | 'headers' | 'body'> {
  const body = Buffer.from(JSON.stringify({ ids: images.map(({ id }) => id) }));
  return {
    path: '/api/chat-images/signed-urls',
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
  };
}

const fileNameOf = ({ file_path: path }: { file_path: string }): string => path.split('/').at(-1) ?? '';
