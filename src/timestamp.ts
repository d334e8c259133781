/** A moment as the API writes it: UTC, ISO 8601 with six fractional digits (`2025-11-05T21:50:01.000000Z`). */
export function toTimestamp(moment: Date): string {
  return `${moment.toISOString().slice(0, -1)}000Z`;
}
