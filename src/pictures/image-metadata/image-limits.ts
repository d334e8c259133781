/**
 * Limits on the cost of reading a picture, for this service and for phones, beyond the cost of its bytes and pixels.
 * Pictures above a limit are valid in their format. They are refused because no real picture comes near the limit.
 * `test/support/hostile-pictures.ts` generates the pictures with which each limit was measured.
 */
export const IMAGE_LIMITS = {
  /**
   * Frames of an animation, including APNG. Each frame costs time and memory, even a small one.
   * Real pictures: stickers and short clips have up to a few hundred.
   */
  frames: 1000,

  /**
   * Pixels of all frames of an animation. A frame counts as its own area or the canvas, whichever is larger: decoders
   * compose the whole canvas for each frame, and also decode pixels outside the canvas. A file of 5 MB with 200 frames of
   * 65 megapixels on a canvas of 100 × 100 takes 3.5 s.
   * Real pictures: 60 frames of 1080 × 1080 are 70 million.
   */
  animationPixels: 400_000_000,

  /**
   * Lines of all frames of an animation, divided by the width in pixels. Each line costs time, even a short one: a thousand
   * frames of 1 × 4000 take 22 s.
   * Real pictures: a thousand frames of a square picture are 1000.
   */
  animationLinesPerColumn: 65_536,

  /**
   * Parts that any file may have: segments and stray markers of a JPEG, chunks of a PNG or WebP, extensions and data
   * sub-blocks of a GIF. Parsing a file of only tiny parts takes half a second.
   * Real pictures: a GIF of a thousand frames has about 4,000; PngSuite has pictures of up to 2,000 chunks of one byte.
   */
  parts: 16_384,

  /**
   * Beyond `parts`, one more part is allowed per this many bytes of the file.
   * Real pictures: encoders write 255 bytes into a sub-block of a GIF, and 4 to 64 KiB into a chunk of a PNG.
   */
  bytesPerFurtherPart: 64,

  /**
   * Scans of a JPEG. For each scan the decoder visits a whole component, even if the scan changes nothing. A file of 450 kB
   * with 2,646 nearly empty scans at 50 megapixels takes 25 s.
   * Real pictures: at most 15 in 2,806 pictures; libjpeg's script for CMYK has 18.
   */
  jpegScans: 32,

  /**
   * Coefficients that all scans of a JPEG visit. Per scan: number of components × blocks of the picture × width of the
   * spectral band.
   * Real pictures: libjpeg's progressive script visits 350 million at 50 megapixels, and nearly 600 million for CMYK.
   */
  jpegCoefficients: 640_000_000,

  /**
   * Decoded size of an interlaced PNG in bytes. The decoder holds the whole picture in memory.
   * Real pictures: 200 million for 50 megapixels with transparency. With 16 bits per sample, only a drawing of more bytes
   * fits into the largest accepted file.
   */
  pngInterlacedBytes: 256 * 1024 * 1024,

  /**
   * Decompressed size of a PNG's colour profile in bytes. A longer profile is dropped.
   * Real pictures: less than 1 MiB for screens and cameras, up to 3 MiB for printers.
   */
  pngProfileBytes: 4 * 1024 * 1024,

  /**
   * Tags of a colour profile. libvips refuses more than 100 tags, and browsers do not.
   * Real pictures: at most 40, in profiles of displays.
   */
  profileTags: 100,

  /**
   * Groups of prefix codes in the lossless parts of a WebP, over all frames, pictures and transparency. A group needs only
   * 20 bits in the file, but 6 kB of tables and 30 µs: 48 frames of 512 × 512 with 65,536 groups each take over 26 s.
   * Real pictures: a photograph of 36 megapixels has 263, a sticker a few in each frame.
   */
  webpPrefixCodeGroups: 16_384,
} as const;
