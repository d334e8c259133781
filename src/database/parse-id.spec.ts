import { expect, it } from '@jest/globals';
import { parseId } from './parse-id.js';

it.each([
  ['1', 1],
  ['145', 145],
  ['4294967296', 2 ** 32],
  ['9007199254740991', Number.MAX_SAFE_INTEGER],
])('parseId(%j) is %d', (text, id) => {
  expect(parseId(text)).toBe(id);
});

it.each([
  '',
  '0',
  '-1',
  '+1',
  '01',
  '2.5',
  '1e3',
  '0x10',
  ' 1',
  '1 ',
  '1\n',
  'NaN',
  'Infinity',
  '١',
  '9007199254740992',
  '99999999999999999999',
])('parseId(%j) is undefined', (text) => {
  expect(parseId(text)).toBeUndefined();
});
