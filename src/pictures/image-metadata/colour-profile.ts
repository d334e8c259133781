import { ImageLimitError, TOO_COMPLEX } from './image-limit-error.js';

const HEADER_LENGTH = 128;
const TAG_LENGTH = 12;
/** Signature of the type multiProcessElementsType. */
const MULTI_PROCESS_ELEMENTS = 0x6d706574;

/**
 * Refuses a colour profile (ICC.1:2022) with multi-process elements: chains of steps computed for each pixel. A few hundred
 * bytes can contain thousands of steps. A PNG of 256 pixels and 600 bytes took the decoder over 100 s; another PNG took
 * 1.5 GB. No camera, phone or image editor writes such profiles.
 *
 * @throws ImageLimitError
 */
export function expectPlainProfile(profile: Buffer): void {
  const tags = HEADER_LENGTH + 4;
  if (profile.length < tags) return;
  const end = Math.min(profile.length, tags + profile.readUInt32BE(HEADER_LENGTH) * TAG_LENGTH);
  for (let tag = tags; tag + TAG_LENGTH <= end; tag += TAG_LENGTH) {
    const data = profile.readUInt32BE(tag + 4);
    if (data + 4 <= profile.length && profile.readUInt32BE(data) === MULTI_PROCESS_ELEMENTS) {
      throw new ImageLimitError(TOO_COMPLEX, 'The colour profile has multi-process elements.');
    }
  }
}
