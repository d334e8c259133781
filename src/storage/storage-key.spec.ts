import { expect, it } from '@jest/globals';
import { InvalidStorageKeyError } from './storage-errors.js';
import { assertStorageKey } from './storage-key.js';

it.each([
  'a',
  'chat_images/appointment_145/1762379401_YoxmX4UUfE.jpg',
  'a/...',
  'a/.hidden',
  'ä b+%2F',
  `${'x'.repeat(240)}/y`,
])('the storage key %j is valid', (key) => {
  expect(() => assertStorageKey(key)).not.toThrow();
});

it.each([
  '',
  '/',
  '/a',
  'a/',
  'a//b',
  '.',
  '..',
  'a/../b',
  'a/./b',
  'a\\b',
  'a\0',
  'a\nb',
  'a\u007f',
  '\udc00',
  'x'.repeat(241),
  'ä'.repeat(121),
  'x/'.repeat(520) + 'x',
])('the storage key %j is refused', (key) => {
  expect(() => assertStorageKey(key)).toThrow(InvalidStorageKeyError);
});
