import type { ValueTransformer } from 'typeorm';

/**
 * Reads a `bigint` column, which the driver gives as text, as a number. Ids are checked to be at most 2^53 - 1
 * before they get into a statement, and sequences do not reach it.
 */
export const bigintNumber: ValueTransformer = {
  from: (value: string | null): number | null => (value === null ? null : Number(value)),
  to: (value: number | null): number | null => value,
};
