import type { Conversation, PictureFile, Progress } from './types.js';

/** The form of an upload. The conversation comes first: who may not upload is told before the picture is read. */
export function uploadForm(file: PictureFile, conversation: Conversation): FormData {
  const form = new FormData();
  form.append(
    'appointment_id',
    'textSessionId' in conversation
      ? `text_session_${conversation.textSessionId}`
      : String(conversation.appointmentId),
  );
  if (file instanceof Blob) form.append('file', file, fileName(file));
  // React Native reads the file itself. Types of the DOM do not know this.
  else form.append('file', file as unknown as Blob);
  return form;
}

/** The name that a person gave the file, or a name of ours. */
export function fileName(file: PictureFile): string {
  return 'name' in file && typeof file.name === 'string' ? file.name : 'picture';
}

/** The bytes of the picture, of what has left of its form. */
export function pictureProgress(file: PictureFile, loaded: number, total: number): Progress {
  const size = file instanceof Blob ? file.size : total;
  return { loaded: Math.max(0, size - (total - loaded)), total: size };
}

/** A fresh `Idempotency-Key`: unique among the uploads of a user. */
export function newIdempotencyKey(): string {
  // React Native has no crypto, and pages without https have no randomUUID.
  const { crypto } = globalThis as { crypto?: { randomUUID?: () => string } };
  return crypto?.randomUUID?.() ?? `${Date.now().toString(36)}-${randomText()}-${randomText()}`;
}

function randomText(): string {
  return Math.random().toString(36).slice(2);
}
