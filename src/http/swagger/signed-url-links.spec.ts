import { expect, it } from '@jest/globals';
import { runInNewContext } from 'node:vm';
import { signedUrlLinks } from './signed-url-links.js';

type Element = { readonly type: unknown; readonly props: object | null; readonly children: unknown[] };

const React = {
  createElement: (type: unknown, props: object | null, ...children: unknown[]): Element => ({
    type,
    props,
    children: children.flat(),
  }),
};
const Original = Symbol('the component of Swagger UI');

/** The plugin's result for a response. It runs as on the page: from its text, without the rest of its file. */
function rendered(content: unknown): Element {
  const plugin = runInNewContext(`(${signedUrlLinks.toString()})()`) as ReturnType<typeof signedUrlLinks>;
  return plugin.wrapComponents.responseBody(Original, { React })({ content }) as Element;
}

function linksOf(content: unknown): unknown[] {
  const list = rendered(content).children[1] as Element | false;
  return list === false ? [] : list.children.map((item) => (item as Element).children[0]);
}

const link = (href: string, text: string): Element => ({
  type: 'a',
  props: { href, target: '_blank', rel: 'noopener noreferrer' },
  children: [text],
});

const S3 = 'https://bucket.example.com/a.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0a';
const LOCAL = 'http://localhost:3000/api/local-storage/a.jpg?Expires=1&Signature=b';

it('a signed URL in a response gets a link to a new tab, without referrer', () => {
  expect(linksOf(JSON.stringify({ success: true, data: { url: S3, expires_in: 3600 } }))).toEqual([
    link(S3, 'Open data.url'),
  ]);
  expect(linksOf(JSON.stringify({ data: { signed_url: LOCAL } }))).toEqual([
    link(LOCAL, 'Open data.signed_url'),
  ]);
});

it('each signed URL of a list gets a link', () => {
  const data = { images: [{ url: S3 }, { url: null }, { url: LOCAL }] };
  expect(linksOf(JSON.stringify({ data }))).toEqual([
    link(S3, 'Open data.images[0].url'),
    link(LOCAL, 'Open data.images[2].url'),
  ]);
});

it.each([
  [
    'a stable address, which needs a token',
    JSON.stringify({ data: { media_url: 'https://x.example/a.jpg' } }),
  ],
  ['a javascript: URL that looks signed', JSON.stringify({ url: 'javascript:alert(1)//?Signature=x' })],
  ['a data: URL that looks signed', JSON.stringify({ url: 'data:text/html,<b>?Signature=x' })],
  ['a text that contains a signed URL', JSON.stringify({ name: `see ${S3}` })],
  ['a body that is not JSON', S3],
  ['a file', new Blob([JSON.stringify({ url: S3 })])],
  ['an empty body', undefined],
])('%s gets no link', (_, content) => {
  expect(linksOf(content)).toEqual([]);
});

it('the response is still shown by Swagger UI', () => {
  const { children } = rendered('text');
  expect(children[0]).toEqual({ type: Original, props: { content: 'text' }, children: [] });
});
