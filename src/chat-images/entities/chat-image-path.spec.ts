import { expect, it } from '@jest/globals';
import { appointmentFolder, newFilename } from './chat-image-path.js';

it('a file name is the second of the upload, ten random characters and the extension of the detected type', () => {
  expect(newFilename(new Date('2025-11-05T21:50:01.999Z'), 'jpg')).toMatch(
    /^1762379401_[A-Za-z0-9]{10}\.jpg$/,
  );
});

it('ten thousand file names of the same second are different and use the whole alphabet', () => {
  const names = Array.from({ length: 10_000 }, () => newFilename(new Date(0), 'png'));
  expect(new Set(names).size).toBe(10_000);
  expect(new Set(names.join('').replaceAll(/0_|\.png/g, '')).size).toBe(62);
});

it('an appointment has a folder of its own', () => {
  expect(appointmentFolder(145)).toBe('chat_images/appointment_145');
});
