import type { Image, QueuedUpload } from 'chat-image-store-client';
import type { JSX } from 'preact';
import { useEffect, useLayoutEffect, useReducer, useRef, useState } from 'preact/hooks';
import type { Phone } from './phone.js';
import { capital, describe, Link, PictureView } from './picture-view.js';
import { chatSize, hashOf, localPlaceholder, Placeholder } from './placeholder.js';
import { sentence } from './use-picture-url.js';

/** How near to its beginning the chat loads older pictures, in CSS pixels. */
const LOAD_OLDER_PX = 800;

/** The screen of a phone: the chat, and what sends pictures. */
export function PhoneView({ phone }: { readonly phone: Phone }): JSX.Element {
  useChanges(phone);
  const [opened, setOpened] = useState<Image>();
  const [isDroppedOn, setDroppedOn] = useState(false);
  const title = `phone-of-${phone.role}`;
  const add = (files: FileList | null | undefined): void => phone.add(files ?? []);
  return (
    <section
      class={isDroppedOn ? 'phone dropped-on' : 'phone'}
      aria-labelledby={title}
      onDragOver={(event) => {
        event.preventDefault();
        setDroppedOn(true);
      }}
      onDragLeave={() => setDroppedOn(false)}
      onDrop={(event) => {
        event.preventDefault();
        setDroppedOn(false);
        add(event.dataTransfer?.files);
      }}
    >
      <header>
        <h2 id={title}>{capital(phone.role)}</h2>
        <Switch label="Network" isOn={phone.isOnline} onChange={(isOn) => phone.setOnline(isOn)} />
      </header>
      <Chat phone={phone} onOpen={setOpened} />
      <p class="visually-hidden" role="status">
        {phone.news}
      </p>
      <footer>
        <PictureInput label="Choose pictures" onFiles={add} multiple />
        <PictureInput label="Take a photo" onFiles={add} capture="environment" />
        <span class="hint">or paste or drop them here</span>
      </footer>
      {opened && <WholePicture phone={phone} image={opened} onClose={() => setOpened(undefined)} />}
    </section>
  );
}

function Chat({
  phone,
  onOpen,
}: {
  readonly phone: Phone;
  readonly onOpen: (image: Image) => void;
}): JSX.Element {
  const { images, uploads } = phone;
  const scroller = useRef<HTMLDivElement>(null);
  // Where the chat was before the render: at its end, or how far from it.
  const before = useRef({ height: 0, first: 0, last: 0, isAtEnd: true });
  const first = images[0]?.id ?? 0;
  const last = (images.at(-1)?.id ?? 0) + uploads.length / 1000;

  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return;
    const { height, first: oldFirst, last: oldLast, isAtEnd } = before.current;
    // Older pictures come above, and what is on the screen stays where it is.
    if (first !== oldFirst && oldFirst !== 0) element.scrollTop += element.scrollHeight - height;
    else if (last !== oldLast && isAtEnd) element.scrollTop = element.scrollHeight;
    before.current = { height: element.scrollHeight, first, last, isAtEnd };
    if (element.scrollTop < LOAD_OLDER_PX && phone.hasOlder) void phone.loadOlder();
  });

  // A line of text below a picture may come later.
  useEffect(() => {
    const element = scroller.current;
    const list = element?.querySelector('ol');
    if (!element || !list) return undefined;
    const observer = new ResizeObserver(() => {
      if (before.current.isAtEnd) element.scrollTop = element.scrollHeight;
      before.current.height = element.scrollHeight;
    });
    observer.observe(list);
    return () => observer.disconnect();
  }, []);

  const onScroll = (): void => {
    const element = scroller.current;
    if (!element) return;
    before.current.isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    before.current.height = element.scrollHeight;
    if (element.scrollTop < LOAD_OLDER_PX && phone.hasOlder) void phone.loadOlder();
  };

  return (
    <div
      ref={scroller}
      class="chat"
      tabIndex={0}
      role="region"
      aria-label={`Chat of the ${phone.role}`}
      onScroll={onScroll}
    >
      {phone.error !== undefined && phone.isOnline && <p class="notice">{sentence(phone.error)}</p>}
      {!phone.isOnline && <p class="notice">No network. Pictures wait here, and leave when it is back.</p>}
      <p class="older">{beginning(phone)}</p>
      <ol>
        {images.map((image) => (
          <PictureView key={image.id} phone={phone} image={image} onOpen={onOpen} />
        ))}
        {uploads.map((upload) => (
          <Upload key={upload.key} phone={phone} upload={upload} />
        ))}
      </ol>
    </div>
  );
}

/** The line above the pictures. It always stays, so that no picture moves when the last page is loaded. */
function beginning({ images, uploads, isLoaded, hasOlder }: Phone): string {
  if (!isLoaded) return 'Loads the chat …';
  if (hasOlder) return 'Loads older pictures …';
  return images.length + uploads.length === 0 ? 'No pictures yet. Send the first.' : 'The chat begins here.';
}

/** A picture that is on its way. */
function Upload({ phone, upload }: { readonly phone: Phone; readonly upload: QueuedUpload }): JSX.Element {
  const { key, file, state, progress, error } = upload;
  const [local, setLocal] = useState<Awaited<ReturnType<typeof localPlaceholder>>>();
  useEffect(() => {
    if (file instanceof Blob) void localPlaceholder(file).then(setLocal);
  }, []);
  const { width, height } = chatSize(local ?? { width: 240, height: 180 });
  const percent = progress ? Math.floor((progress.loaded / progress.total) * 100) : 0;
  const name = file instanceof File ? file.name : 'picture';
  return (
    <li class="message own" data-upload={state}>
      <div class="picture" style={{ width: `${width}px`, aspectRatio: `${width} / ${height}` }}>
        <Placeholder hash={local?.hash} />
        {state === 'uploading' && <progress value={percent} max="100" aria-label={`Upload of ${name}`} />}
      </div>
      <p class="life">
        <span class="visually-hidden">Picture {name}: </span>
        {state === 'failed' ? (
          <>
            {sentence(error)} <Link onClick={() => phone.retry(key)}>Try again</Link>{' '}
            <Link onClick={() => phone.remove(key)}>Remove</Link>
          </>
        ) : state === 'uploading' ? (
          `${percent} % sent`
        ) : (
          <>
            {phone.isOnline ? 'Waits for its turn' : 'Waits for the network'}{' '}
            <Link onClick={() => phone.remove(key)}>Remove</Link>
          </>
        )}
      </p>
    </li>
  );
}

/** The whole picture, above the page. */
function WholePicture({
  phone,
  image,
  onClose,
}: {
  readonly phone: Phone;
  readonly image: Image;
  readonly onClose: () => void;
}): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const [url, setUrl] = useState<string>();
  const [error, setError] = useState<unknown>();
  useEffect(() => {
    dialog.current?.showModal();
    phone.pictures.url(image).then(setUrl, setError);
  }, []);
  return (
    <dialog ref={dialog} aria-label={capital(describe(phone, image))} onClose={onClose}>
      {error !== undefined ? (
        <p class="notice">{sentence(error)}</p>
      ) : (
        <div
          class="whole"
          style={{ '--width': `${image.width}px`, '--ratio': String(image.width / image.height) }}
        >
          <Placeholder hash={hashOf(image.thumb_hash)} />
          {url !== undefined && (
            <img
              src={url}
              alt={describe(phone, image)}
              width={image.width}
              height={image.height}
              onError={() => void phone.pictures.onExpired(image, url).then(setUrl, setError)}
            />
          )}
        </div>
      )}
      <button type="button" class="button" onClick={() => dialog.current?.close()}>
        Close
      </button>
    </dialog>
  );
}

function Switch({
  label,
  isOn,
  onChange,
}: {
  readonly label: string;
  readonly isOn: boolean;
  readonly onChange: (isOn: boolean) => void;
}): JSX.Element {
  return (
    <button type="button" class="switch" role="switch" aria-checked={isOn} onClick={() => onChange(!isOn)}>
      {label}
      <span aria-hidden="true">{isOn ? 'on' : 'off'}</span>
    </button>
  );
}

function PictureInput({
  label,
  onFiles,
  ...rest
}: {
  readonly label: string;
  readonly onFiles: (files: FileList | null) => void;
  readonly multiple?: boolean;
  readonly capture?: 'environment';
}): JSX.Element {
  return (
    <label class="button">
      <input
        type="file"
        accept="image/*"
        class="visually-hidden"
        {...rest}
        onChange={({ currentTarget }) => {
          onFiles(currentTarget.files);
          // The same file again is a change too.
          currentTarget.value = '';
        }}
      />
      {label}
    </label>
  );
}

/** Renders again after every change of a phone. */
export function useChanges(phone: Phone): void {
  const [, render] = useReducer((count: number) => count + 1, 0);
  useEffect(() => phone.subscribe(() => render(undefined)), [phone]);
}
