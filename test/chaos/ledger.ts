import { createHash } from 'node:crypto';
import type { UploadedChatImageDto } from '../../src/chat-images/dto/uploaded-chat-image.dto.js';
import type { Appointment } from './plan.js';

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A picture that a user has sent to an appointment, with all responses. */
export type SentPicture = {
  readonly user: number;
  readonly appointment: Appointment;
  /** Makes its bytes again. */
  readonly picture: () => Promise<Buffer>;
  readonly sha256: string;
  /** The data of every 200 response. */
  readonly answers: UploadedChatImageDto[];
  /** Idempotency keys of the 200 responses. */
  readonly keys: Set<string>;
  /** Whether every try got a 200 response, so that no unknown effect is possible. */
  isCertain: boolean;
};

/** The knowledge of the clients: each success, each URL, and possibly lost responses. */
export class Ledger {
  readonly pictures = new Map<string, SentPicture>();
  /** Images with a 200 response, by their ids. */
  readonly images = new Map<number, { readonly file_path: string; readonly appointment: Appointment }>();
  /** The number of each event. */
  readonly counts = new Map<string, number>();
  readonly findings: string[] = [];
  /** The number of URLs that a user has got of an image. */
  private readonly urls = new Map<string, number>();
  /** Users and images with a possibly lost URL; and users who may have lost a URL of any image. */
  private readonly uncertain = new Set<string>();
  private readonly uncertainUsers = new Set<number>();

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  /** The entry of a picture, which is created at its first upload. */
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

  /** Whether no URL of the image for the user can have been lost. */
  isCertain(user: number, imageId: number): boolean {
    return !this.uncertainUsers.has(user) && !this.uncertain.has(urlKey(user, imageId));
  }
}

const urlKey = (user: number, imageId: number): string => `${user} ${imageId}`;
