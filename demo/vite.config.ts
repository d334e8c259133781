import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

/** Builds the demo's page into `dist/demo`, for the address `/demo`. */
export default defineConfig({
  root: import.meta.dirname,
  base: '/demo/',
  oxc: { jsx: { importSource: 'preact' } },
  resolve: {
    alias: {
      'chat-image-store-client': fileURLToPath(new URL('../client/src/index.ts', import.meta.url)),
      exifr: 'exifr/dist/lite.esm.mjs',
    },
  },
  build: {
    outDir: '../dist/demo',
    emptyOutDir: true,
    // The page's policy allows no data: URLs.
    assetsInlineLimit: 0,
    modulePreload: false,
  },
});
