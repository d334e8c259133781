// Runs in the page of test/support/chromium.ts: tells what a browser shows of a picture.

// More pixels take seconds in a canvas, and no picture of the tests needs them.
const MAX_PIXELS = 20_000_000;

const canvas = new OffscreenCanvas(1, 1);
const context = canvas.getContext('2d', { willReadFrequently: true });

/** The size and a hash of the pixels, as red, green, blue and alpha in sRGB. */
function pixelsOf(source, width, height) {
  if (width * height > MAX_PIXELS) return `${width}x${height}`;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  context.clearRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  // FNV-1a over pixels, twice: enough to tell pictures apart.
  let [first, second] = [0x811c9dc5, 0x1234567];
  for (const pixel of new Uint32Array(data.buffer)) {
    first = Math.imul(first ^ pixel, 0x01000193);
    second = Math.imul((second ^ (pixel >>> 7) ^ (pixel << 25)) + first, 0x01000193);
  }
  return `${width}x${height} ${(first >>> 0).toString(16)}${(second >>> 0).toString(16)}`;
}

/** What `<img>` draws: `undefined` when it reports an error. */
async function imageOf(url) {
  const image = new Image();
  const loaded = await new Promise((resolve) => {
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
    image.src = url;
  });
  return loaded ? pixelsOf(image, image.naturalWidth, image.naturalHeight) : undefined;
}

/** All frames with their durations in microseconds, and the repetitions; or why not every frame is whole. */
async function framesOf(data, type) {
  let decoder;
  try {
    decoder = new ImageDecoder({ data, type });
    await decoder.tracks.ready;
    await decoder.completed;
    const track = decoder.tracks.selectedTrack;
    const frames = [];
    for (let frameIndex = 0; frameIndex < track.frameCount; frameIndex += 1) {
      const { image, complete } = await decoder.decode({ frameIndex });
      if (!complete) return { error: `frame ${frameIndex} is incomplete` };
      frames.push(`${pixelsOf(image, image.displayWidth, image.displayHeight)} ${image.duration ?? '-'}`);
      image.close();
    }
    if (frames.length === 0) return { error: 'no frame' };
    return { frames: [...frames, `repeated ${track.repetitionCount}`] };
  } catch (error) {
    return { error: String(error) };
  } finally {
    decoder?.close();
  }
}

/** @param pictures in base64, with their MIME types */
globalThis.show = (pictures) =>
  Promise.all(
    pictures.map(async ({ base64, type }) => {
      const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const image = await imageOf(`data:${type};base64,${base64}`);
      return { image, ...(await framesOf(bytes, type)) };
    }),
  );
