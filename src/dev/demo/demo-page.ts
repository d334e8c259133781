import type { NestExpressApplication } from '@nestjs/platform-express';
import express from 'express';
import helmet from 'helmet';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../../commands/run-command.js';
import { SETTINGS, type Settings } from '../../config/settings.js';

/** The built page. */
const FOLDER = fileURLToPath(new URL('../../../dist/demo', import.meta.url));

/**
 * Serves the demo's page at `/demo`.
 *
 * @throws UsageError where the page is not built
 */
export function serveDemoPage(app: NestExpressApplication): void {
  if (!existsSync(FOLDER))
    throw new UsageError('DEMO_ENABLED is true, but there is no dist/demo. Please run npm run build:demo.');
  const { storage, appUrl } = app.get<Settings>(SETTINGS);
  const pictures = new URL(storage.driver === 's3' ? storage.publicUrl : appUrl).origin;
  app.use(
    '/demo',
    helmet({
      xFrameOptions: { action: 'deny' },
      contentSecurityPolicy: {
        useDefaults: false,
        directives: {
          defaultSrc: ["'none'"],
          scriptSrc: ["'self'"],
          styleSrc: ["'self'"],
          // Signed URLs, and pictures that are on their way.
          imgSrc: ["'self'", 'blob:', pictures],
          connectSrc: ["'self'"],
          baseUri: ["'none'"],
          formAction: ["'none'"],
          frameAncestors: ["'none'"],
        },
      },
    }),
    express.static(FOLDER),
  );
}
