import { ChatImagesError, type Image } from 'chat-image-store-client';
import { useRef, useState } from 'preact/hooks';
import type { Phone } from './phone.js';
import { useTicks } from './ticks.js';

const THUMBNAIL = { variant: 'thumbnail' } as const;

/** A URL works this much longer than the client says, at most: the client's clock is never late, but up to a second early. */
const CLOCK_MARGIN_MS = 1500;

/** A URL that is left to expire. */
type HeldUrl = { readonly url: string; readonly expiresAt: number };

/** The URL that an image view shows, and what is known of it. */
export type PictureUrl = {
  readonly url: string | undefined;
  /** Seconds until the URL expires. */
  readonly secondsLeft: number | undefined;
  /** A sentence about the last end of a URL. */
  readonly story: string | undefined;
  readonly error: unknown;
  /** Whether a URL of the whole picture is left to expire: `secondsLeft` is its life then. */
  readonly isHeld: boolean;
  /** Gets a URL of the whole picture, and opens it when it has expired. */
  readonly letExpire: () => void;
  readonly retry: () => void;
};

/**
 * The URL of a picture's thumbnail, renewed while the picture is on the screen. A new URL is shown when its picture is
 * loaded, so the view never flickers.
 */
export function usePictureUrl(phone: Phone, image: Image, isOnScreen: boolean): PictureUrl {
  const [url, setUrl] = useState<string>();
  const [secondsLeft, setSecondsLeft] = useState<number>();
  const [story, setStory] = useState<string>();
  const [error, setError] = useState<unknown>();
  const [held, setHeld] = useState<HeldUrl>();
  const isBusy = useRef(false);
  const { pictures } = phone;

  /** Shows the picture with a URL, or with the URL that comes in its place when it does not work. */
  const show = async (wanted: string): Promise<void> => {
    let working = wanted;
    // The client ends this with an error when a fresh URL does not work either.
    while (!(await isShown(working))) working = await pictures.onExpired(image, working, THUMBNAIL);
    setUrl(working);
  };

  /** Opens the whole picture with an expired URL, as a view does that was asleep. */
  const openExpired = async (expired: string): Promise<void> => {
    if (await isShown(expired)) setStory('The expired URL has shown the picture: the browser had kept it.');
    else {
      const working = await pictures.onExpired(image, expired);
      if (await isShown(working)) setUrl(working);
      setStory('The storage has refused the expired URL. A new one is in its place.');
    }
    setHeld(undefined);
  };

  const run = async (work: () => Promise<void>): Promise<void> => {
    if (isBusy.current) return;
    isBusy.current = true;
    try {
      await work();
    } catch (failure) {
      setError(failure);
    } finally {
      isBusy.current = false;
    }
  };

  useTicks(() => {
    // The client forgets URLs that have expired.
    const lifeMs = held ? held.expiresAt - Date.now() : pictures.urlLifeMs(image, THUMBNAIL);
    setSecondsLeft(lifeMs === undefined ? undefined : Math.max(0, Math.ceil(lifeMs / 1000)));
    if (held) {
      if (Date.now() > held.expiresAt + CLOCK_MARGIN_MS) void run(() => openExpired(held.url));
    } else if (error === undefined) {
      void run(async () => {
        const current = await pictures.url(image, THUMBNAIL);
        if (current !== url) await show(current);
      });
    }
  }, isOnScreen);

  return {
    url,
    secondsLeft,
    story,
    error,
    isHeld: held !== undefined,
    letExpire: () => {
      setStory(undefined);
      // Not in `run`: a click during a renewal counts too.
      pictures
        .url(image)
        .then(
          (given) => setHeld({ url: given, expiresAt: Date.now() + (pictures.urlLifeMs(image) ?? 0) }),
          setError,
        );
    },
    retry: () => setError(undefined),
  };
}

async function isShown(url: string): Promise<boolean> {
  const view = new Image();
  view.src = url;
  return view.decode().then(
    () => true,
    () => false,
  );
}

/** What to tell people of an error. */
export function sentence(error: unknown): string {
  return error instanceof ChatImagesError || error instanceof Error ? error.message : String(error);
}
