import type { JSX } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { rgbaToThumbHash, thumbHashToRGBA } from 'thumbhash';

/** The most pixels of a side that a ThumbHash is made of. */
const MAX_SIDE = 100;

/** The longest sides of a picture in the chat, in CSS pixels. */
const BOX = { width: 264, height: 264 };

export type Size = { readonly width: number; readonly height: number };

/** How large a picture is in the chat. It is known before the picture is there, so nothing moves when it comes. */
export function chatSize({ width, height }: Size): Size {
  const scale = Math.min(1, BOX.width / width, BOX.height / height);
  return {
    width: Math.max(48, Math.round(width * scale)),
    height: Math.max(48, Math.round(height * scale)),
  };
}

/** The ThumbHash and the size of a picture that is not uploaded yet; `undefined` for a file that the browser cannot read. */
export async function localPlaceholder(
  file: Blob,
): Promise<(Size & { readonly hash: Uint8Array }) | undefined> {
  try {
    const bitmap = await createImageBitmap(file);
    const { width, height } = bitmap;
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
    const small = { width: Math.ceil(width * scale), height: Math.ceil(height * scale) };
    const context = new OffscreenCanvas(small.width, small.height).getContext('2d');
    context?.drawImage(bitmap, 0, 0, small.width, small.height);
    bitmap.close();
    const pixels = context?.getImageData(0, 0, small.width, small.height).data;
    return pixels && { width, height, hash: rgbaToThumbHash(small.width, small.height, pixels) };
  } catch {
    return undefined;
  }
}

/** A ThumbHash of the service. */
export function hashOf(base64: string | null): Uint8Array | undefined {
  return base64 === null ? undefined : Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** A blurred picture in place of one that is on its way. On a canvas, as the page's policy allows no data: URLs. */
export function Placeholder({ hash }: { readonly hash: Uint8Array | undefined }): JSX.Element {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    const context = canvas.current?.getContext('2d');
    if (!context || !hash) return;
    const { w, h, rgba } = thumbHashToRGBA(hash);
    context.canvas.width = w;
    context.canvas.height = h;
    context.putImageData(new ImageData(new Uint8ClampedArray(rgba), w, h), 0, 0);
  }, [hash?.join()]);
  return <canvas ref={canvas} class="placeholder" width="1" height="1" aria-hidden="true" />;
}
