import { expect, it } from '@jest/globals';
import { conversationFolder, isThumbnailKey, newFilename, thumbnailKey } from './chat-image-path.js';

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

it('a thumbnail has the whole name of its picture, in a folder of its own, and a type', () => {
  const path = 'chat_images/appointment_145/1762379401_YoxmX4UUfE';
  expect(thumbnailKey(`${path}.jpg`, 'image/jpeg')).toBe(
    'chat_images/appointment_145/thumbs/1762379401_YoxmX4UUfE.jpg.jpg',
  );
  for (const type of ['image/png', 'image/gif', 'image/webp'])
    expect(thumbnailKey(`${path}.png`, type)).toBe(
      'chat_images/appointment_145/thumbs/1762379401_YoxmX4UUfE.png.webp',
    );
});

it('the keys of thumbnails are told from other keys', () => {
  const folder = 'chat_images/text_session_9/thumbs';
  expect(
    isThumbnailKey(thumbnailKey('chat_images/appointment_1/1762379401_YoxmX4UUfE.jpg', 'image/jpeg')),
  ).toBe(true);
  expect(isThumbnailKey(`${folder}/1762379401_YoxmX4UUfE.JPG.webp`)).toBe(true);
  for (const key of [
    `${folder}/1600000000_OldPicture.jpg`,
    `${folder}/1600000000_OldPicture.jpg.png`,
    `${folder}/other.jpg.jpg`,
    `${folder}/x/1762379401_YoxmX4UUfE.jpg.jpg`,
    'chat_images/voice/thumbs/1762379401_YoxmX4UUfE.jpg.jpg',
    'chat_images/text_session_9/1762379401_YoxmX4UUfE.jpg.jpg',
  ])
    expect([key, isThumbnailKey(key)]).toEqual([key, false]);
});
