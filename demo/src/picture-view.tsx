import type { Image } from 'chat-image-store-client';
import type { JSX } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { chatSize, hashOf, Placeholder } from './placeholder.js';
import type { Phone } from './phone.js';
import type { TrailEntry } from './session.js';
import { type PictureUrl, sentence, usePictureUrl } from './use-picture-url.js';

const TRAIL_MS = 2000;

/** URLs that live longer are not left to expire: nobody waits for that. */
const SHORT_LIFE_SECONDS = 60;

type Props = { readonly phone: Phone; readonly image: Image; readonly onOpen: (image: Image) => void };

/** A picture of the chat, and below it what can't be seen: the life of its URL, what was taken out, and who opened it. */
export function PictureView({ phone, image, onOpen }: Props): JSX.Element {
  const item = useRef<HTMLLIElement>(null);
  const isOnScreen = useOnScreen(item);
  const shown = usePictureUrl(phone, image, isOnScreen);
  const isOwn = image.uploaded_by === phone.userId;
  const { width, height } = chatSize(image);
  return (
    <li ref={item} class={isOwn ? 'message own' : 'message'} data-image={image.id}>
      <button
        type="button"
        class="picture"
        style={{ width: `${width}px`, aspectRatio: `${width} / ${height}` }}
        aria-label={`Open ${describe(phone, image)}`}
        onClick={() => onOpen(image)}
      >
        <Placeholder hash={hashOf(image.thumb_hash)} />
        {shown.url !== undefined && <img src={shown.url} alt={describe(phone, image)} />}
      </button>
      <Life shown={shown} canExpire={phone.session.url_expires_in <= SHORT_LIFE_SECONDS} />
      {isOwn && <TakenOut details={phone.takenOut.get(image.id)} />}
      <Trail phone={phone} image={image} />
    </li>
  );
}

/** The alternative text of a picture. */
export function describe(phone: Phone, image: Image): string {
  const sender = image.uploaded_by === phone.userId ? 'you' : `the ${nameOf(phone, image.uploaded_by)}`;
  return `picture ${image.name} from ${sender}, ${time(image.created_at)}`;
}

function Life({
  shown,
  canExpire,
}: {
  readonly shown: PictureUrl;
  readonly canExpire: boolean;
}): JSX.Element {
  const { url, secondsLeft, isHeld, story, error } = shown;
  if (error !== undefined)
    return (
      <p class="life">
        {sentence(error)} <Link onClick={shown.retry}>Try again</Link>
      </p>
    );
  return (
    <>
      <p class="life">
        {url === undefined || secondsLeft === undefined ? (
          'Asks for a URL …'
        ) : (
          <>
            <span class={secondsLeft === 0 ? 'expired' : 'alive'} />
            {isHeld ? 'The URL of the whole picture' : 'The URL'}
            {secondsLeft === 0 ? ' has expired' : ` works for ${duration(secondsLeft)}`}
            {canExpire && !isHeld && <Link onClick={shown.letExpire}>Let it expire</Link>}
          </>
        )}
      </p>
      {story !== undefined && <p class="life">{story}</p>}
    </>
  );
}

function TakenOut({ details }: { readonly details: readonly string[] | undefined }): JSX.Element | null {
  if (!details) return null;
  return (
    <p class="taken-out">
      {details.length > 0
        ? `Taken out of the file, and not stored: ${new Intl.ListFormat('en').format(details)}.`
        : 'The file told no place, camera or date.'}
    </p>
  );
}

function Trail({ phone, image }: Omit<Props, 'onOpen'>): JSX.Element {
  const [isOpen, setOpen] = useState(false);
  const [lines, setLines] = useState<readonly string[]>();
  useEffect(() => {
    if (!isOpen) return undefined;
    const read = (): void =>
      void phone.trail(image.id).then(
        (trail) => setLines(trailLines(phone, trail)),
        (error: unknown) => setLines([sentence(error)]),
      );
    read();
    const timer = setInterval(read, TRAIL_MS);
    return () => clearInterval(timer);
  }, [isOpen]);
  return (
    <details class="trail" onToggle={({ currentTarget }) => setOpen(currentTarget.open)}>
      <summary>Who has opened it</summary>
      <ul>
        {lines?.map((line) => (
          <li key={line}>{line}</li>
        ))}
        {lines?.length === 0 && <li>Nobody yet.</li>}
      </ul>
    </details>
  );
}

/** One line for each user and variant. */
function trailLines(phone: Phone, trail: readonly TrailEntry[]): readonly string[] {
  const groups = Map.groupBy(trail, ({ user_id: user, variant }) => `${user} ${variant}`);
  return [...groups.values()].flatMap((entries) => {
    const [last] = entries;
    if (!last) return [];
    const who = last.user_id === phone.userId ? 'You' : capital(`the ${nameOf(phone, last.user_id)}`);
    const what = last.variant === 'thumbnail' ? 'the thumbnail' : 'the whole picture';
    const count = entries.length === 1 ? '' : `${entries.length} times, last `;
    return [`${who}: ${what}, ${count}at ${time(last.accessed_at, true)}`];
  });
}

export function Link({
  onClick,
  children,
}: {
  readonly onClick: () => void;
  readonly children: string;
}): JSX.Element {
  return (
    <button type="button" class="link" onClick={onClick}>
      {children}
    </button>
  );
}

function useOnScreen(element: { readonly current: Element | null }): boolean {
  const [isOnScreen, setOnScreen] = useState(false);
  useEffect(() => {
    if (!element.current) return undefined;
    const observer = new IntersectionObserver((entries) =>
      setOnScreen(entries.at(-1)?.isIntersecting === true),
    );
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return isOnScreen;
}

function nameOf({ session: { users } }: Phone, id: number): string {
  return Object.entries(users).find(([, user]) => user.id === id)?.[0] ?? `user ${id}`;
}

function duration(seconds: number): string {
  return seconds < 120 ? `${seconds} s` : `${Math.ceil(seconds / 60)} min`;
}

export function time(timestamp: string, withSeconds = false): string {
  return new Date(timestamp).toLocaleTimeString('en-GB', {
    hour: '2-digit',
    minute: '2-digit',
    ...(withSeconds && { second: '2-digit' }),
  });
}

export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
