import { useEffect, useRef } from 'preact/hooks';

const TICK_MS = 250;

const listeners = new Set<() => void>();

/** All listeners are called in one task, so that what they ask of the client becomes one request. */
setInterval(() => {
  for (const listener of listeners) listener();
}, TICK_MS);

/** Calls a function at once, and four times a second. */
export function useTicks(listener: () => void, isActive = true): void {
  const current = useRef(listener);
  current.current = listener;
  useEffect(() => {
    if (!isActive) return undefined;
    const tick = (): void => current.current();
    tick();
    listeners.add(tick);
    return () => void listeners.delete(tick);
  }, [isActive]);
}
