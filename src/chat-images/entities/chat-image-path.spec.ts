import { expect, it } from '@jest/globals';
import { conversationFolder, newFilename } from './chat-image-path.js';

it('a file name has the second of the upload, ten random characters and the extension', () => {
  expect(newFilename(new Date('2025-11-05T21:50:01.999Z'), 'jpg')).toMatch(
    /^1762379401_[A-Za-z0-9]{10}\.jpg$/,
  );
});

it('10,000 file names of the same second differ and use the whole alphabet', () => {
  const names = Array.from({ length: 10_000 }, () => newFilename(new Date(0), 'png'));
  expect(new Set(names).size).toBe(10_000);
  expect(new Set(names.join('').replaceAll(/0_|\.png/g, '')).size).toBe(62);
});

it('each appointment and each text session has its own folder', () => {
  expect(conversationFolder({ kind: 'appointment', id: 145 })).toBe('chat_images/appointment_145');
  expect(conversationFolder({ kind: 'text session', id: 145 })).toBe('chat_images/text_session_145');
});
