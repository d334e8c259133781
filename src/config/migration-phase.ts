import type { MigrationPhase } from './settings.js';

/** Rules for requests in one phase of the requirements' migration path. Uploads are private in every phase. */
export type PhaseRules = {
  /** A stable address without a token: a short-lived URL and a log row, or 401. */
  readonly withoutToken: 'opened by link' | 'refused';
  /** The stable address of a picture that is not imported yet: a redirect to LEGACY_MEDIA_URL if set, or 404. */
  readonly notHereYet: 'legacy address' | 'not found';
};

/** The rules of all phases; `docs/migration.md` has the same table. */
export const PHASE_RULES: Readonly<Record<MigrationPhase, PhaseRules>> = {
  // New endpoints beside the old endpoints.
  1: { withoutToken: 'opened by link', notHereYet: 'legacy address' },
  // The new app version is being tested.
  2: { withoutToken: 'opened by link', notHereYet: 'legacy address' },
  // The old pictures are imported.
  3: { withoutToken: 'opened by link', notHereYet: 'not found' },
  // Every installed app sends its token.
  4: { withoutToken: 'refused', notHereYet: 'not found' },
};
