import { ChatImagesError } from 'chat-image-store-client';
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Phone } from './phone.js';
import { sentence } from './use-picture-url.js';

type Attempt = {
  readonly what: string;
  readonly outcome: 'waits' | 'refused' | 'granted';
  readonly words?: string;
};

/** A logged-in user who takes no part in the chat, and tries to see it all the same. */
export function OutsiderView({
  phone,
  image,
}: {
  readonly phone: Phone;
  readonly image: number;
}): JSX.Element {
  const [attempts, setAttempts] = useState<readonly Attempt[]>([]);
  const { appointment_id: appointmentId } = phone.session;
  const ways: readonly (readonly [what: string, way: () => Promise<unknown>])[] = [
    [`Read the chat of appointment ${appointmentId}`, () => phone.pictures.list(appointmentId)],
    [`Open picture ${image}`, () => phone.pictures.url(image)],
    [`Open a picture that is not there`, () => phone.pictures.url(Number.MAX_SAFE_INTEGER)],
    [`See who has opened picture ${image}`, () => phone.trail(image)],
    ['Send a picture to the chat', async () => phone.pictures.upload(await drawing(), { appointmentId })],
  ];
  const tryAll = async (): Promise<void> => {
    setAttempts(ways.map(([what]) => ({ what, outcome: 'waits' })));
    const outcomes = ways.map(async ([what, way]): Promise<Attempt> => {
      try {
        await way();
        return { what, outcome: 'granted' };
      } catch (error) {
        const code = error instanceof ChatImagesError ? ` (${error.code})` : '';
        return { what, outcome: 'refused', words: `${sentence(error)}${code}` };
      }
    });
    setAttempts(await Promise.all(outcomes));
  };
  return (
    <section class="outsider" aria-labelledby="outsider-title">
      <h2 id="outsider-title">Outsider</h2>
      <p>
        The outsider is logged in too, but is neither the patient nor the doctor of the appointment. All that
        the outsider tries is refused, and nothing is told that is not known already.
      </p>
      <button type="button" class="button" onClick={() => void tryAll()}>
        Try everything
      </button>
      <ul aria-live="polite">
        {attempts.map(({ what, outcome, words }) => (
          <li key={what} class={outcome}>
            <strong>{what}</strong>
            <span>
              {outcome === 'waits' && '…'}
              {outcome === 'refused' && `Refused: ${words ?? ''}`}
              {outcome === 'granted' && 'Granted. This must never happen.'}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

async function drawing(): Promise<Blob> {
  const canvas = new OffscreenCanvas(32, 32);
  canvas.getContext('2d')?.fillRect(0, 0, 16, 16);
  return canvas.convertToBlob();
}
