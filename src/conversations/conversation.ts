/** Whose chat a picture belongs to: an appointment, or a text session, a chat without appointment. */
export type Conversation = {
  readonly kind: 'appointment' | 'text session';
  /** Unique within its kind. */
  readonly id: number;
};
