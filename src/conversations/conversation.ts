import { parseId } from '../database/parse-id.js';
import { AppError } from '../errors/app-error.js';

/** Whose chat a picture belongs to: an appointment, or a text session, a chat without appointment. */
export type Conversation = {
  readonly kind: 'appointment' | 'text session';
  /** Unique within its kind. */
  readonly id: number;
};

/**
 * How a client names a conversation. A bare number is the text session of that number where the user takes part in it,
 * otherwise the appointment of that number.
 */
export type NamedConversation = { readonly kind: Conversation['kind'] | 'bare'; readonly id: number };

/**
 * Reads the field `appointment_id` of an upload: a bare number, or with text sessions also `text_session_147` and
 * `text_session:147`.
 *
 * @param textSessions TEXT_SESSIONS
 * @returns `undefined` for any other text
 */
export function parseConversation(text: string, textSessions: boolean): NamedConversation | undefined {
  const sessionId = textSessions ? /^text_session[_:](.*)$/s.exec(text)?.[1] : undefined;
  const id = parseId(sessionId ?? text);
  return id === undefined ? undefined : { kind: sessionId === undefined ? 'bare' : 'text session', id };
}

/** The error for a conversation that does not exist. Both kinds have the same code. */
export function conversationNotFound({ kind }: Pick<NamedConversation, 'kind'>, cause?: unknown): AppError {
  return new AppError('APPOINTMENT_NOT_FOUND', {
    ...(kind === 'text session' ? { message: 'Text session not found.' } : {}),
    cause,
  });
}
