import { type JSX, render } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import './demo.css';
import { OutsiderView } from './outsider-view.js';
import { Phone } from './phone.js';
import { PhoneView, useChanges } from './phone-view.js';
import { loadSession, type Session } from './session.js';

const TABS = [
  ['chat', 'Patient and doctor'],
  ['outsider', 'Outsider'],
] as const;

function Demo({ session }: { readonly session: Session }): JSX.Element {
  const [{ patient, doctor, outsider }] = useState(() => ({
    patient: new Phone('patient', session),
    doctor: new Phone('doctor', session),
    outsider: new Phone('outsider', session),
  }));
  const [tab, setTab] = useState<(typeof TABS)[number][0]>('chat');
  const active = useRef(patient);
  useChanges(patient);
  useEffect(() => {
    patient.start();
    doctor.start();
    // A paste goes to the phone that was used last.
    const paste = ({ clipboardData }: ClipboardEvent): void => active.current.add(clipboardData?.files ?? []);
    addEventListener('paste', paste);
    return () => removeEventListener('paste', paste);
  }, []);

  const moveTab = ({ key, currentTarget }: KeyboardEvent): void => {
    if (!['ArrowLeft', 'ArrowRight'].includes(key) || !(currentTarget instanceof HTMLElement)) return;
    setTab(tab === 'chat' ? 'outsider' : 'chat');
    currentTarget.querySelector<HTMLElement>('[aria-selected="false"]')?.focus();
  };

  return (
    <>
      <header class="page">
        <h1>A private chat, seen from both sides</h1>
        <p>
          Send a picture from one phone, and it is on the other. Only these two can see it, with URLs that
          work for {life(session.url_expires_in)}.
          {session.url_expires_in > 60 && (
            <>
              {' '}
              To watch them expire: <code>npm run local -- --url-seconds 10</code>
            </>
          )}
        </p>
        <div role="tablist" aria-label="People" onKeyDown={moveTab}>
          {TABS.map(([id, label]) => (
            <button
              key={id}
              type="button"
              role="tab"
              id={`tab-${id}`}
              aria-selected={tab === id}
              aria-controls={`panel-${id}`}
              tabIndex={tab === id ? 0 : -1}
              onClick={() => setTab(id)}
            >
              {label}
            </button>
          ))}
        </div>
      </header>
      <main>
        <div
          role="tabpanel"
          id="panel-chat"
          aria-labelledby="tab-chat"
          class="phones"
          hidden={tab !== 'chat'}
        >
          {[patient, doctor].map((phone) => (
            <div
              key={phone.role}
              class="place"
              onFocusCapture={() => (active.current = phone)}
              onPointerDownCapture={() => (active.current = phone)}
            >
              <PhoneView phone={phone} />
            </div>
          ))}
        </div>
        <div role="tabpanel" id="panel-outsider" aria-labelledby="tab-outsider" hidden={tab !== 'outsider'}>
          <OutsiderView phone={outsider} image={patient.images.at(-1)?.id ?? 1} />
        </div>
      </main>
    </>
  );
}

function life(seconds: number): string {
  return seconds < 120 ? `${seconds} seconds` : `${Math.round(seconds / 60)} minutes`;
}

const app = document.getElementById('app');
if (app) {
  loadSession().then(
    (session) => render(<Demo session={session} />, app),
    (error: unknown) => render(<p class="notice">{String(error)}</p>, app),
  );
}
