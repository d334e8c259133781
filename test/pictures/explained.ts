type Explanation = {
  readonly kind: RegExp;
  /** Of the picture; without it, of any picture. */
  readonly name?: RegExp;
  readonly because: string;
};

/**
 * Findings that are right: what is refused although two decoders show something, and what is shown otherwise. Everything
 * else that is found is a fault. Faults that are known and not mended yet begin with OPEN.
 */
const EXPLANATIONS: readonly Explanation[] = [
  {
    kind: /^jpeg: refused, though shown: .*(Corrupt JPEG data|Inconsistent progression)/,
    because: 'Compressed data are damaged: decoders draw grey or odd blocks, and tell only by a warning.',
  },
  {
    kind: /^jpeg: refused, though shown: A segment of the JPEG has a wrong length/,
    name: /: (scan|fill before scan) /,
    because: 'Compressed data are damaged: a changed byte makes a marker.',
  },
  {
    kind: /^gif: refused, though shown: (A graphic control of the GIF has a wrong length|The GIF has an unknown block)/,
    because: 'Blocks are damaged. Decoders show the frames before, or disagree about the ones behind.',
  },
  {
    kind: /^gif: refused, though shown: (A block of the GIF runs over its end|A frame of the GIF)/,
    because: 'A frame is cut or damaged: decoders show the ones before.',
  },
  {
    kind: /^png: refused, though shown: A frame of the PNG is incomplete/,
    name: /fdAT|IEND|fcTL/,
    because:
      'Compressed data of a frame are damaged or missing. A browser shows what it has, for libvips there is one frame.',
  },
  {
    kind: /^png: refused, though shown: (A chunk of the PNG (runs over its end|has a wrong checksum)|A frame of the PNG (has a wrong length|is not on its canvas|is drawn in an unknown way)|The PNG has fewer frames|The frames of the PNG are not in order)/,
    name: /^animated/,
    because:
      'Frames are damaged or missing. A browser shows the ones before, for libvips there is one frame.',
  },
  {
    kind: /^webp: refused, though shown: A frame of the WebP has no picture/,
    because: 'A frame is damaged: decoders show the others.',
  },
  {
    kind: /: refused, though shown: The animation has (too many lines for its width|more than n pixels)/,
    because: 'A limit of animations.',
  },
  {
    kind: /^png: Chromium (shows other frames|draws another image)/,
    name: /iCCP \(\d+\) (with|shorter|longer)/,
    because:
      'The stream of the colour profile is damaged: it is used as by libpng, and Chromium does not use it.',
  },
  {
    kind: /^png: Chromium (shows other frames|draws another image)/,
    name: /tRNS( \(\d+\))? (longer|shorter|before)/,
    because: 'Transparency of a wrong length is dropped, as by libpng. Chromium takes its first bytes.',
  },
  {
    kind: /^jpeg: libvips shows another picture: pixels/,
    name: /e2( \(\d+\))? (before|again|twice|moved)/,
    because: 'There are two colour profiles: the first one is kept, as by Chromium. libvips uses none.',
  },
  {
    kind: /^gif: refused, though shown: The GIF has no picture/,
    because: 'The only frame has no pixels: decoders show an empty screen.',
  },
  {
    kind: /^gif: libvips shows another picture: pixels/,
    name: /: picture block \(\d+\) shorter/,
    because:
      'The end code is missing: it is written, and libvips draws the last pixels, as Chromium does without it.',
  },
  {
    kind: /^jpeg: libvips shows another picture: pixels/,
    name: /e2 \(\d+\) with \d+ at 11$/,
    because: 'The name of the colour profile is damaged: libvips uses it all the same, Chromium does not.',
  },
  {
    kind: /^gif: (libvips|Chromium) shows/,
    name: /: (f9 before|without ff block)/,
    because:
      'OPEN: of several graphic controls in a row, or of a loop count without its block, decoders take other parts.',
  },
  {
    kind: /^jpeg: Chromium does not show the stored picture whole/,
    name: /: da \(\d+\) again/,
    because: 'OPEN: a second scan header without data, in a picture that is not progressive, is let in.',
  },
  {
    kind: /^png: Chromium (shows other frames|draws another image)/,
    name: /: PLTE \(\d+\) shorter/,
    because: 'OPEN: with a palette shorter than its transparency, the transparency is dropped.',
  },
  {
    kind: /^webp: (refused, though shown: A chunk of the WebP has a wrong length|(libvips|Chromium) shows)/,
    name: /: (ANIM |behind the frame )/,
    because:
      'OPEN: an ANIM chunk that is too long is refused; frames that are there twice are shown otherwise.',
  },
];

/** Why a finding is right, if it is. */
export const explanationOf = (kind: string, name: string): string | undefined =>
  EXPLANATIONS.find((explanation) => explanation.kind.test(kind) && (explanation.name?.test(name) ?? true))
    ?.because;
