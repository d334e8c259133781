import { expect, it } from '@jest/globals';
import { tidyName } from './client-file-name.js';

it.each([
  ['a name of plain letters', 'rash.jpg', 'rash.jpg'],
  ['spaces and umlauts, not encoded', 'Foto ä.jpg', 'Foto ä.jpg'],
  ['spaces and umlauts, as React Native encodes them', 'Foto%20%C3%A4.jpg', 'Foto ä.jpg'],
  ['an emoji', '%F0%9F%98%80.jpg', '😀.jpg'],
  ['quotes, as browsers encode them', 'the %22spot%22.png', 'the "spot".png'],
  ['a percent sign that is encoded', '100%25.jpg', '100%.jpg'],
  ['a name that is encoded twice', '%252e%252e%252fa.jpg', '%2e%2e%2fa.jpg'],
  ['a plus sign, which stands for itself', 'a+b%20c.jpg', 'a+b c.jpg'],
])('%s: %j is shown as %j', (_, sent, shown) => {
  expect(tidyName(sent)).toBe(shown);
});

it.each([
  ['a lone percent sign', '100%.jpg'],
  ['no hexadecimal digits', '%zz.jpg'],
  ['an escape that breaks off', 'a.jpg%2'],
  ['a NUL', 'a%00.jpg'],
  ['line breaks', 'a%0D%0AX-Evil:%201.jpg'],
  ['a delete character', 'a%7F.jpg'],
  ['a C1 control character', 'a%C2%85.jpg'],
  ['a slash in overlong UTF-8', '..%C0%AFa.jpg'],
  ['half of a surrogate pair', '%ED%A0%80.jpg'],
  ['a byte of Latin-1', 'Foto%20%E4.jpg'],
  ['a control that turns the direction', 'a%E2%80%AEgpj.exe'],
  ['an isolate that turns the direction', 'a%E2%81%A6gpj.exe'],
  ['nothing but folders', '%2e%2e%2f'],
  ['the folder above', '%2E%2E'],
  ['nothing but spaces', '%20%20'],
])('%s: %j is shown as it came', (_, sent) => {
  expect(tidyName(sent)).toBe(sent);
});

it.each([
  ['%2e%2e%2f%2e%2e%2fetc%2fpasswd', 'passwd'],
  ['C%3A%5CUsers%5Ceve%5Crash.jpg', 'rash.jpg'],
  ['%2e%2e%2frash.jpg', 'rash.jpg'],
])('of the path in %j only %j is shown', (sent, shown) => {
  expect(tidyName(sent)).toBe(shown);
});

it('what turns the direction of a text, or is seen by nobody, is left out of a name that came as it is', () => {
  expect(tidyName('a\u202egpj.\u0000exe')).toBe('agpj.exe');
  expect(tidyName('a%E2%80%8Bb.jpg')).toBe('ab.jpg');
});

it('a name that is missing, or left empty, is "image"', () => {
  expect([tidyName(undefined), tidyName(''), tidyName(' \u0007 ')]).toEqual(['image', 'image', 'image']);
});

it('a name has at most 255 characters, counted after decoding, and no half of one', () => {
  expect(tidyName('%C3%A4'.repeat(200))).toBe('ä'.repeat(200));
  expect(tidyName('%C3%A4'.repeat(300))).toBe('ä'.repeat(255));
  const cut = tidyName(`a${'😀'.repeat(200)}`);
  expect(cut).toHaveLength(255);
  expect(cut.isWellFormed()).toBe(true);
  expect(tidyName(`a${'%F0%9F%98%80'.repeat(127)}b`)).toHaveLength(255);
});
