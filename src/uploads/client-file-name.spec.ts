import { expect, it } from '@jest/globals';
import { tidyName } from './client-file-name.js';

it.each([
  ['plain letters', 'rash.jpg', 'rash.jpg'],
  ['unencoded spaces and umlauts', 'Foto ä.jpg', 'Foto ä.jpg'],
  ['spaces and umlauts, as React Native encodes them', 'Foto%20%C3%A4.jpg', 'Foto ä.jpg'],
  ['an emoji', '%F0%9F%98%80.jpg', '😀.jpg'],
  ['quotes, as browsers encode them', 'the %22spot%22.png', 'the "spot".png'],
  ['an encoded percent sign', '100%25.jpg', '100%.jpg'],
  ['double encoding', '%252e%252e%252fa.jpg', '%2e%2e%2fa.jpg'],
  ['a plus sign, which is no space', 'a+b%20c.jpg', 'a+b c.jpg'],
])('a file name with %s: %j is shown as %j', (_, sent, shown) => {
  expect(tidyName(sent)).toBe(shown);
});

it.each([
  ['a lone percent sign', '100%.jpg'],
  ['invalid hexadecimal digits', '%zz.jpg'],
  ['an incomplete escape', 'a.jpg%2'],
  ['a NUL', 'a%00.jpg'],
  ['line breaks', 'a%0D%0AX-Evil:%201.jpg'],
  ['a delete character', 'a%7F.jpg'],
  ['a C1 control character', 'a%C2%85.jpg'],
  ['a slash in overlong UTF-8', '..%C0%AFa.jpg'],
  ['half of a surrogate pair', '%ED%A0%80.jpg'],
  ['a byte of Latin-1', 'Foto%20%E4.jpg'],
  ['a direction override', 'a%E2%80%AEgpj.exe'],
  ['a direction isolate', 'a%E2%81%A6gpj.exe'],
  ['only folders', '%2e%2e%2f'],
  ['only the parent folder', '%2E%2E'],
  ['only spaces', '%20%20'],
])('a file name with %s: %j is shown without decoding', (_, sent) => {
  expect(tidyName(sent)).toBe(sent);
});

it.each([
  ['%2e%2e%2f%2e%2e%2fetc%2fpasswd', 'passwd'],
  ['C%3A%5CUsers%5Ceve%5Crash.jpg', 'rash.jpg'],
  ['%2e%2e%2frash.jpg', 'rash.jpg'],
])('a file name with the path %j is shown as %j', (sent, shown) => {
  expect(tidyName(sent)).toBe(shown);
});

it('a file name loses direction controls and invisible characters', () => {
  expect(tidyName('a\u202egpj.\u0000exe')).toBe('agpj.exe');
  expect(tidyName('a%E2%80%8Bb.jpg')).toBe('ab.jpg');
});

it('a missing or empty file name is "image"', () => {
  expect([tidyName(undefined), tidyName(''), tidyName(' \u0007 ')]).toEqual(['image', 'image', 'image']);
});

it('a file name has at most 255 whole characters, counted after decoding', () => {
  expect(tidyName('%C3%A4'.repeat(200))).toBe('ä'.repeat(200));
  expect(tidyName('%C3%A4'.repeat(300))).toBe('ä'.repeat(255));
  const cut = tidyName(`a${'😀'.repeat(200)}`);
  expect(cut).toHaveLength(255);
  expect(cut.isWellFormed()).toBe(true);
  expect(tidyName(`a${'%F0%9F%98%80'.repeat(127)}b`)).toHaveLength(255);
});
