/**
 * What a picture may ask of whoever reads it, this service and the phones alike, beyond what its bytes and pixels already
 * cost. Everything here is legal in its format, and is refused because no real picture comes near it. The pictures for
 * which each limit was measured are made in `test/support/hostile-pictures.ts`.
 */
export const IMAGE_LIMITS = {
  /**
   * Frames of an animation, of APNG too. Each costs time and memory, however small it is.
   * Real ones: stickers and short clips have up to some hundred.
   */
  frames: 1000,

  /**
   * Pixels over all frames of an animation. A frame counts with its own area or the canvas, whichever is larger, as
   * readers compose the whole canvas for each, and decode what lies outside of it too: 200 frames of 65 megapixels over
   * a canvas of 100 × 100 take 3.5 s, from 5 MB.
   * Real ones: 60 frames of 1080 × 1080 are 70 million.
   */
  animationPixels: 400_000_000,

  /**
   * Lines over all frames of an animation, for each pixel of its width. Every line costs, however short: a thousand
   * frames of 1 × 4000 take 22 s.
   * Real ones: a thousand frames of a square picture are 1000.
   */
  animationLinesPerColumn: 65_536,

  /**
   * Parts that are free: segments and stray markers of a JPEG, chunks of a PNG or WebP, extensions and data sub-blocks of
   * a GIF. A file of nothing but tiny parts takes half a second to walk through.
   * Real ones: a GIF of a thousand frames has about 4,000; PngSuite has pictures of up to 2,000 chunks of one byte.
   */
  parts: 16_384,

  /**
   * Beyond the free parts, one more for so many bytes of the file.
   * Real ones: encoders write 255 bytes into a sub-block of a GIF, and 4 to 64 KiB into a chunk of a PNG.
   */
  bytesPerFurtherPart: 64,

  /**
   * Scans of a JPEG. The decoder goes over a whole component for each, also where it changes nothing: 2,646 nearly
   * empty ones take 25 s at 50 megapixels, from 450 kB.
   * Real ones: at most 15 in 2,806 pictures; libjpeg's script for CMYK has 18.
   */
  jpegScans: 32,

  /**
   * Coefficients that the scans of a JPEG go over, together: for each scan its components times the blocks of the picture
   * times the width of its band.
   * Real ones: libjpeg's progressive script goes over 350 million at 50 megapixels, and nearly 600 million of CMYK.
   */
  jpegCoefficients: 640_000_000,

  /**
   * Bytes that an interlaced PNG decodes to. It is in memory whole.
   * Real ones: 200 million for 50 megapixels with transparency. With 16 bits to a sample more than that does not fit into
   * the largest file that is accepted, but for a drawing.
   */
  pngInterlacedBytes: 256 * 1024 * 1024,

  /**
   * Bytes of a PNG's colour profile, decompressed. A longer one is left out.
   * Real ones: less than 1 MiB for screens and cameras, up to 3 MiB for printers.
   */
  pngProfileBytes: 4 * 1024 * 1024,

  /**
   * Groups of prefix codes in the lossless parts of a WebP, over all frames, pictures and transparency. Each takes 6 kB
   * of tables and 30 µs, from 20 bits: an animation of 48 frames of 512 × 512 with 65,536 groups each takes over 26 s.
   * Real ones: a photograph of 36 megapixels has 263, a sticker some in each frame.
   */
  webpPrefixCodeGroups: 16_384,
} as const;
