import sharp, { type Sharp } from 'sharp';

const WIDTH = 480;
const HEIGHT = 320;
const DOT = 10;

/** Drawn as dots, because the container image has no fonts. */
const WORD = [
  ' ####  ###  #   # ####  #     #####',
  '#     #   # ## ## #   # #     #    ',
  '#     #   # # # # #   # #     #    ',
  ' ###  ##### # # # ####  #     #### ',
  '    # #   # #   # #     #     #    ',
  '    # #   # #   # #     #     #    ',
  '####  #   # #   # #     ##### #####',
];
const WORD_LEFT = (WIDTH - 35 * DOT) / 2;
const WORD_TOP = HEIGHT - 9 * DOT;

type Color = readonly [red: number, green: number, blue: number];

type Landscape = {
  readonly sky: readonly [top: Color, horizon: Color];
  readonly disc: { readonly color: Color; readonly x: number; readonly y: number; readonly radius: number };
  readonly hills: readonly [far: Color, near: Color];
};

const MORNING: Landscape = {
  sky: [
    [126, 190, 230],
    [255, 226, 178],
  ],
  disc: { color: [255, 243, 199], x: 350, y: 90, radius: 38 },
  hills: [
    [133, 178, 132],
    [74, 128, 98],
  ],
};

const NIGHT: Landscape = {
  sky: [
    [24, 32, 70],
    [104, 92, 148],
  ],
  disc: { color: [240, 238, 220], x: 120, y: 80, radius: 30 },
  hills: [
    [52, 62, 98],
    [28, 38, 64],
  ],
};

/** A picture and its file name. */
type SamplePicture = { readonly name: string; readonly bytes: Buffer<ArrayBuffer> };

/** Two landscapes with the word SAMPLE, so that nobody mistakes them for pictures of a patient. */
export async function samplePictures(): Promise<readonly [SamplePicture, SamplePicture]> {
  return [
    { name: 'sample-morning.jpg', bytes: Buffer.from(await draw(MORNING).jpeg({ quality: 90 }).toBuffer()) },
    { name: 'sample-night.png', bytes: Buffer.from(await draw(NIGHT).png({ palette: true }).toBuffer()) },
  ];
}

function draw(landscape: Landscape): Sharp {
  const pixels = Buffer.alloc(WIDTH * HEIGHT * 3);
  for (let y = 0; y < HEIGHT; y += 1) {
    for (let x = 0; x < WIDTH; x += 1) {
      const color = colorAt(landscape, x, y);
      pixels.set(isWord(x, y) ? mixed(color, [255, 255, 255], 0.85) : color, (y * WIDTH + x) * 3);
    }
  }
  return sharp(pixels, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } });
}

function colorAt({ sky: [top, horizon], disc, hills: [far, near] }: Landscape, x: number, y: number): Color {
  if (y > 235 + 22 * Math.sin(x / 70 + 2)) return near;
  if (y > 195 + 28 * Math.sin(x / 95)) return far;
  if (Math.hypot(x - disc.x, y - disc.y) < disc.radius) return disc.color;
  return mixed(top, horizon, y / HEIGHT);
}

function isWord(x: number, y: number): boolean {
  const row = WORD[Math.floor((y - WORD_TOP) / DOT)];
  return row?.[Math.floor((x - WORD_LEFT) / DOT)] === '#';
}

function mixed(from: Color, to: Color, share: number): Color {
  const mix = (a: number, b: number): number => Math.round(a + (b - a) * share);
  return [mix(from[0], to[0]), mix(from[1], to[1]), mix(from[2], to[2])];
}
