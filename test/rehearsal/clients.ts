import { setTimeout } from 'node:timers/promises';
import type { UploadedChatImageResponseDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import { eventually } from '../support/eventually.js';
import { pixels } from '../support/pictures.js';
import { pick, type RandomNumbers, randomNumbers } from '../support/random-numbers.js';
import type { Findings } from './findings.js';
import {
  type Installation,
  isGood,
  makePicture,
  OPEN_CONVERSATIONS,
  type OldConversation,
  type OldFile,
  sha256,
  STRANGER,
} from './installation.js';
import type { Place } from './places.js';
import { PHASE_HEADER, type Service } from './service.js';

/** The pauses of a client between two pictures, as people look at them, and between two uploads. */
const READ_PAUSE_MS = 10;
const UPLOAD_PAUSE_MS = 150;

/** A slow client follows a redirect to the old address so much later. A client that is slower still may have to ask again. */
const SLOW_CLIENTS = 8;
const SLOW_MS = 500;
const TOO_SLOW_MS = 1500;

/** The time for every client to look at one more picture. */
const TURN_LIMIT_MS = 60_000;

/** A picture that clients look at. */
export type Shown = {
  readonly path: string;
  readonly bytes: Buffer;
  readonly conversation: OldConversation;
  readonly isUploaded: boolean;
};

type Answer = { readonly status: number; readonly phase: number; readonly location: string | null };

/** What a read has come to: a sentence where it was not what the phase owed. */
type Verdict = string | undefined;

/**
 * Clients of the old kind, which know addresses only, and of the new kind, which send a token. Each answer is judged by the
 * phase of the instance that has given it.
 */
export class Clients {
  /** The number of URLs that a user has got of a picture, by user and path. */
  readonly handedOut = new Map<string, number>();
  /** The numbers of pictures opened by link, and of redirects to the old address. */
  opensByLink = 0;
  redirects = 0;
  readonly uploaded: Shown[] = [];
  private readonly old: readonly Shown[];
  /** Pictures that this service has answered for: from then on it must always do so. */
  private readonly here = new Set<string>();
  /** Digests of bytes that were compared with a picture. */
  private readonly known = new Set<string>();
  private readonly turns: number[] = [];
  private isOver = false;

  constructor(
    private readonly service: Service,
    private readonly place: Place,
    private readonly findings: Findings,
    private readonly tokenOf: (user: number) => string,
    { files }: Installation,
  ) {
    this.old = files
      .filter(isGood)
      .map(({ path, bytes, conversation }) => ({ path, bytes, conversation, isUploaded: false }));
  }

  /** Reads and uploads until {@link end}. */
  async run(): Promise<void> {
    await Promise.all([
      this.loop(READ_PAUSE_MS, (random) => this.read('old', this.pickShown(random), random)),
      ...Array.from({ length: SLOW_CLIENTS }, () =>
        this.loop(READ_PAUSE_MS * 8, (random) => this.read('slow', this.pickShown(random), random)),
      ),
      this.loop(READ_PAUSE_MS, (random) => this.read('new', this.pickShown(random), random)),
      this.loop(READ_PAUSE_MS * 4, (random) => this.pry(this.pickShown(random), random)),
      this.loop(UPLOAD_PAUSE_MS, (random) => this.upload(random)),
    ]);
  }

  /** Resolves when every client has ended what it does now, and has looked at one more picture. */
  async turn(): Promise<void> {
    const before = [...this.turns];
    await eventually(
      () => this.isOver || before.every((turns, client) => (this.turns[client] ?? 0) > turns + 1),
      'a turn of every client',
      TURN_LIMIT_MS,
    );
  }

  end(): void {
    this.isOver = true;
  }

  /** Reads a picture once, as a client of the kind. */
  async read(kind: 'old' | 'slow' | 'new', picture: Shown, random: RandomNumbers): Promise<void> {
    const { conversation } = picture;
    const verdict =
      kind !== 'new'
        ? await this.readByLink(picture, kind === 'slow' ? SLOW_MS : 0)
        : await this.readWithToken(
            picture,
            pick(random, [conversation.patient, conversation.doctor]),
            random(3) === 0,
          );
    if (verdict !== undefined) this.findings.add('clients', `${kind} client, ${picture.path}: ${verdict}`);
  }

  /** The picture by its address, without a token: in phase 4 that is refused. */
  async readByLink(picture: Shown, followsAfterMs = 0): Promise<Verdict> {
    const { status, phase, location } = await this.ask(`/storage/${picture.path}`);
    const answered = performance.now();
    if (phase === 4) {
      this.findings.count(`old client ${status} in phase 4`);
      return status === 401 ? undefined : `${status} in phase 4`;
    }
    const isOld = location !== null && this.isOldAddress(location);
    if (status === 302) {
      if (isOld) this.redirects += 1;
      else this.opensByLink += 1;
    }
    if (status !== 302 || location === null) return `${status} in phase ${phase}`;
    if (isOld && (phase > 2 || picture.isUploaded)) return `sent to the old address in phase ${phase}`;
    this.findings.count(`old client ${isOld ? 'sent to the old address' : 'shown'} in phase ${phase}`);
    if (isOld && followsAfterMs > 0) await setTimeout(followsAfterMs);
    const verdict = await this.look(
      picture,
      location,
      `in phase ${phase}${isOld ? ', at the old address' : ''}`,
    );
    const isTooSlow = isOld && performance.now() - answered > TOO_SLOW_MS;
    return verdict !== undefined && isTooSlow ? this.readByLink(picture) : verdict;
  }

  /** The picture with a token, by the name of its file, or by its address. */
  async readWithToken(picture: Shown, user: number, byAddress: boolean): Promise<Verdict> {
    const wasHere = picture.isUploaded || this.here.has(picture.path);
    if (!byAddress) {
      const name = picture.path.split('/').at(-1) ?? '';
      const { status, phase, body } = await this.ask(`/api/chat-images/${name}/signed-url`, user);
      if (status === 200) {
        const { data } = body as { data: { url: string } };
        this.received(user, picture.path);
        this.here.add(picture.path);
        this.findings.count(`new client shown in phase ${phase}`);
        return this.look(picture, data.url, `in phase ${phase}, with a token`);
      }
      if (status !== 404 || phase > 2 || wasHere) return `${status} in phase ${phase} with a token`;
    }
    const { status, phase, location } = await this.ask(`/storage/${picture.path}`, user);
    if (status !== 302 || location === null) return `${status} in phase ${phase} with a token, by address`;
    const isOld = this.isOldAddress(location);
    if (isOld && (phase > 2 || wasHere)) return `sent to the old address in phase ${phase}, with a token`;
    if (!isOld) {
      this.received(user, picture.path);
      this.here.add(picture.path);
    }
    this.findings.count(`new client ${isOld ? 'sent to the old address' : 'shown'} in phase ${phase}`);
    return this.look(
      picture,
      location,
      `in phase ${phase}, with a token${isOld ? ', at the old address' : ''}`,
    );
  }

  private async loop(pauseMs: number, step: (random: RandomNumbers) => Promise<void>): Promise<void> {
    const client = this.turns.push(0) - 1;
    const random = randomNumbers(23, client);
    while (!this.isOver) {
      try {
        await step(random);
      } catch (error) {
        this.findings.add('clients', `client ${client} got no answer: ${String(error)}`);
      }
      this.turns[client] = (this.turns[client] ?? 0) + 1;
      await setTimeout(pauseMs);
    }
  }

  /** A stranger with a token is always refused. */
  private async pry(picture: Shown, random: RandomNumbers): Promise<void> {
    const name = picture.path.split('/').at(-1) ?? '';
    const path = pick(random, [`/api/chat-images/${name}/signed-url`, `/storage/${picture.path}`]);
    const { status, phase, location } = await this.ask(path, STRANGER);
    this.findings.count(`stranger ${status} in phase ${phase}`);
    if ((status !== 403 && status !== 404) || location !== null)
      this.findings.add('clients', `the stranger got ${status} for ${path} in phase ${phase}.`);
  }

  private async upload(random: RandomNumbers): Promise<void> {
    const conversation = pick(random, OPEN_CONVERSATIONS);
    const user = pick(random, [conversation.patient, conversation.doctor]);
    const bytes = await makePicture(random, pick(random, ['jpeg', 'png', 'webp', 'gif'] as const));
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(bytes)], { type: 'image/jpeg' }), 'photo.jpg');
    form.append('appointment_id', conversation.isTextSession ? conversation.folder : String(conversation.id));
    const response = await fetch(`${this.service.url}/api/upload/chat-image`, {
      method: 'POST',
      body: form,
      headers: { authorization: `Bearer ${this.tokenOf(user)}` },
    });
    const body = (await response.json()) as UploadedChatImageResponseDto;
    const phase = response.headers.get(PHASE_HEADER) ?? '';
    this.findings.count(`upload ${response.status} in phase ${phase}`);
    if (response.status !== 200) {
      this.findings.add('clients', `an upload in phase ${phase}: ${response.status} ${JSON.stringify(body)}`);
      return;
    }
    const picture = { path: body.data.file_path, bytes, conversation, isUploaded: true };
    this.received(user, picture.path);
    const verdict = await this.look(picture, body.data.signed_url, 'just uploaded');
    if (verdict !== undefined) this.findings.add('clients', `${picture.path}: ${verdict}`);
    const isPublic = (await this.place.anonymousGet(picture.path, this.service.url)) === 200;
    if (isPublic) this.findings.add('private', `${picture.path} was uploaded in public in phase ${phase}.`);
    this.uploaded.push(picture);
    await this.read('old', picture, random);
    await this.read('new', picture, random);
  }

  /** Fetches a picture, and compares it with what was sent. */
  private async look({ path, bytes }: Shown, url: string, where: string): Promise<Verdict> {
    const response = await fetch(url);
    const shown = Buffer.from(await response.arrayBuffer());
    if (response.status !== 200) return `${response.status} from the storage ${where}`;
    return (await this.isSame(path, shown, bytes)) ? undefined : `another picture ${where}`;
  }

  /** Whether two pictures are equal by byte or by pixel. */
  async isSame(path: string, shown: Buffer, bytes: Buffer): Promise<boolean> {
    const digest = `${path} ${sha256(shown)}`;
    if (shown.equals(bytes) || this.known.has(digest)) return true;
    const isSame = (await pixels(shown)).equals(await pixels(bytes));
    if (isSame) this.known.add(digest);
    return isSame;
  }

  private async ask(path: string, user?: number): Promise<Answer & { readonly body: unknown }> {
    const response = await fetch(`${this.service.url}${path}`, {
      redirect: 'manual',
      headers: {
        'x-app-version': user === undefined ? '1.4.0' : '2.0.0',
        ...(user === undefined ? {} : { authorization: `Bearer ${this.tokenOf(user)}` }),
      },
    });
    const body = await response.text();
    return {
      status: response.status,
      phase: Number(response.headers.get(PHASE_HEADER)),
      location: response.headers.get('location'),
      // A redirect to the old address has no body.
      body: body === '' ? undefined : JSON.parse(body),
    };
  }

  private received(user: number, path: string): void {
    const key = `${user} ${path}`;
    this.handedOut.set(key, (this.handedOut.get(key) ?? 0) + 1);
  }

  /** A URL with a signature is this service's, also where the bucket is the same. */
  private isOldAddress(location: string): boolean {
    return location.startsWith(`${this.place.legacyUrl}/`) && !location.includes('?');
  }

  private pickShown(random: RandomNumbers): Shown {
    return this.uploaded.length > 0 && random(8) === 0 ? pick(random, this.uploaded) : pick(random, this.old);
  }
}

/** An old file as clients see it. */
export const shownOf = ({ path, bytes, conversation }: OldFile): Shown => ({
  path,
  bytes,
  conversation,
  isUploaded: false,
});
