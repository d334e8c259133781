import { describe, expect, it } from '@jest/globals';
import { build } from 'esbuild';
import { gzipSync } from 'node:zlib';

/** The most bytes that the whole package may add to an app. */
const MAX_BYTES = 6000;

describe('the package', () => {
  it(`is at most ${MAX_BYTES} bytes, minified and compressed, and needs no other package`, async () => {
    const { outputFiles, metafile } = await build({
      entryPoints: ['client/src/index.ts'],
      bundle: true,
      minify: true,
      format: 'esm',
      platform: 'browser',
      metafile: true,
      write: false,
    });
    expect(Object.keys(metafile.inputs).filter((path) => !path.startsWith('client/src/'))).toEqual([]);
    expect(gzipSync(outputFiles[0]?.contents ?? '').length).toBeLessThanOrEqual(MAX_BYTES);
  });
});
