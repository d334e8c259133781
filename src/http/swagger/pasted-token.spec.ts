import { expect, it } from '@jest/globals';
import { runInNewContext } from 'node:vm';
import { bearerOnce } from './pasted-token.js';

/** The function runs as on the page: from its text, without the rest of its file. */
const onPage = runInNewContext(`(${bearerOnce.toString()})`) as typeof bearerOnce;

it.each([
  ['without a pasted scheme', 'Bearer a.b.c', 'Bearer a.b.c'],
  ['pasted with the scheme', 'Bearer Bearer a.b.c', 'Bearer a.b.c'],
  ['pasted with the scheme in lower case', 'Bearer bearer a.b.c', 'Bearer a.b.c'],
  ['pasted with spaces around it', 'Bearer  a.b.c \n', 'Bearer a.b.c'],
  ['that only begins with the scheme', 'Bearer Bearera.b.c', 'Bearer Bearera.b.c'],
])('a token %s is sent for %j as %j', (_, given, sent) => {
  expect(onPage({ headers: { Authorization: given } }).headers).toEqual({ Authorization: sent });
});

it('a request without a token is not changed', () => {
  expect(onPage({ headers: { accept: '*/*' } }).headers).toEqual({ accept: '*/*' });
});
