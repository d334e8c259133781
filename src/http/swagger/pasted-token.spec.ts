import { expect, it } from '@jest/globals';
import { runInNewContext } from 'node:vm';
import { bearerOnce } from './pasted-token.js';

/** Run as the page runs it: from its text, with nothing of the file around it. */
const onPage = runInNewContext(`(${bearerOnce.toString()})`) as typeof bearerOnce;

it.each([
  ['as the page sends it', 'Bearer a.b.c', 'Bearer a.b.c'],
  ['pasted with the scheme', 'Bearer Bearer a.b.c', 'Bearer a.b.c'],
  ['pasted with the scheme in small letters', 'Bearer bearer a.b.c', 'Bearer a.b.c'],
  ['pasted with spaces around it', 'Bearer  a.b.c \n', 'Bearer a.b.c'],
  ['a token that only begins alike', 'Bearer Bearera.b.c', 'Bearer Bearera.b.c'],
])('a token %s: %j leaves as %j', (_, given, sent) => {
  expect(onPage({ headers: { Authorization: given } }).headers).toEqual({ Authorization: sent });
});

it('a request without a token stays without one', () => {
  expect(onPage({ headers: { accept: '*/*' } }).headers).toEqual({ accept: '*/*' });
});
