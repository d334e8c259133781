import type { MigrationPhase } from './settings.js';

/** The rules of a phase of the requirements' migration path, for requests. Uploads are private in every phase. */
export type PhaseRules = {
  /** A stable address without a token: is opened for a short time and recorded, or is refused with a 401. */
  readonly withoutToken: 'opened by link' | 'refused';
  /** The stable address of a picture that is not here yet: leads to LEGACY_MEDIA_URL where that is set, or is a 404. */
  readonly notHereYet: 'legacy address' | 'not found';
};

/** The one place that says what each phase does; `docs/migration.md` has the same table for people. */
export const PHASE_RULES: Readonly<Record<MigrationPhase, PhaseRules>> = {
  // New endpoints beside the old.
  1: { withoutToken: 'opened by link', notHereYet: 'legacy address' },
  // The new app version is in test.
  2: { withoutToken: 'opened by link', notHereYet: 'legacy address' },
  // The old pictures are imported.
  3: { withoutToken: 'opened by link', notHereYet: 'not found' },
  // Every app in the field sends its token.
  4: { withoutToken: 'refused', notHereYet: 'not found' },
};
