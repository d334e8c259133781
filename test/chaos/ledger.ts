import { createHash } from 'node:crypto';
import type { UploadedChatImageDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { Appointment } from './plan.js';

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A picture that a user has sent to an appointment, and all that they were told of it. */
export type SentPicture = {
  readonly user: number;
  readonly appointment: Appointment;
  /** Makes its bytes again. */
  readonly picture: () => Promise<Buffer>;
  readonly sha256: string;
  /** Every success. */
  readonly answers: UploadedChatImageDto[];
  /** Idempotency keys with which a success was had. */
  readonly keys: Set<string>;
  /** Whether every try was answered with a success, so that nothing can have been done of which nobody was told. */
  isCertain: boolean;
};

/** What the clients know: each success, each URL, and where an answer may have been lost. */
export class Ledger {
  readonly pictures = new Map<string, SentPicture>();
  /** Images that somebody has been told to be stored, by their ids. */
  readonly images = new Map<number, { readonly file_path: string; readonly appointment: Appointment }>();
  /** How often each thing has happened. */
  readonly counts = new Map<string, number>();
  readonly findings: string[] = [];
  /** How many URLs a user has had of an image. */
  private readonly urls = new Map<string, number>();
  /** Images whose URL may have been on its way to a user and got lost; and users for whom that may be any image. */
  private readonly uncertain = new Set<string>();
  private readonly uncertainUsers = new Set<number>();

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  /** The picture's entry; a new one when the user sends it for the first time. */
  picture(
    user: number,
    appointment: Appointment,
    bytes: Buffer,
    picture: () => Promise<Buffer>,
  ): SentPicture {
    const digest = sha256(bytes);
    const key = `${user} ${appointment.id} ${digest}`;
    let entry = this.pictures.get(key);
    if (!entry) {
      entry = { user, appointment, picture, sha256: digest, answers: [], keys: new Set(), isCertain: true };
      this.pictures.set(key, entry);
    }
    return entry;
  }

  stored(sent: SentPicture, image: UploadedChatImageDto, key: string | undefined): void {
    sent.answers.push(image);
    if (key !== undefined) sent.keys.add(key);
    this.images.set(image.id, { file_path: image.file_path, appointment: sent.appointment });
    this.handedOut(sent.user, image.id);
  }

  handedOut(user: number, imageId: number): void {
    const key = urlKey(user, imageId);
    this.urls.set(key, (this.urls.get(key) ?? 0) + 1);
  }

  mayBeLost(user: number, imageId: number): void {
    this.uncertain.add(urlKey(user, imageId));
  }

  anyMayBeLost(user: number): void {
    this.uncertainUsers.add(user);
  }

  urlCount(user: number, imageId: number): number {
    return this.urls.get(urlKey(user, imageId)) ?? 0;
  }

  /** Whether the user has got every URL of the image that was made for them. */
  isCertain(user: number, imageId: number): boolean {
    return !this.uncertainUsers.has(user) && !this.uncertain.has(urlKey(user, imageId));
  }
}

const urlKey = (user: number, imageId: number): string => `${user} ${imageId}`;
