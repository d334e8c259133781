import type { NestExpressApplication } from '@nestjs/platform-express';
import { DocumentBuilder, type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import helmet from 'helmet';
import { SETTINGS, type Settings } from '../../config/settings.js';
import { bearerOnce } from './pasted-token.js';
import { signedUrlLinks } from './signed-url-links.js';

const PATH = 'api/docs';

/** Headers of the page. `upgrade-insecure-requests` is off, because it would break the page over http. */
const PAGE_HEADERS = helmet({ contentSecurityPolicy: { directives: { upgradeInsecureRequests: null } } });

/** The addresses of older messages, beside `/storage/`. */
const ALIAS = '/api/images/';

/** Serves Swagger UI at `/api/docs`, and the OpenAPI description of the application's routes at `/api/docs-json`. */
export function serveSwaggerPage(app: NestExpressApplication): void {
  app.use(`/${PATH}`, PAGE_HEADERS);
  SwaggerModule.setup(PATH, app, () => openApiDocument(app), {
    jsonDocumentUrl: `${PATH}-json`,
    raw: ['json'],
    customSiteTitle: 'Chat image store',
    swaggerOptions: {
      persistAuthorization: true,
      tryItOutEnabled: true,
      // Functions are written into the page's script file: the page's policy allows no inline script.
      requestInterceptor: bearerOnce,
      plugins: [signedUrlLinks],
    },
  });
}

function openApiDocument(app: NestExpressApplication): OpenAPIObject {
  const document = SwaggerModule.createDocument(
    app,
    new DocumentBuilder()
      .setTitle('Chat image store')
      .setDescription(
        'Private pictures of a telemedicine chat: for the patient and the doctor of the appointment or text session only.',
      )
      .setVersion('1')
      .addBearerAuth({ type: 'http', scheme: 'bearer', bearerFormat: 'JWT' })
      .build(),
  );
  markAliases(document);
  // The route answers 404 then.
  if (!app.get<Settings>(SETTINGS).textSessions)
    delete document.paths['/api/text-sessions/{textSessionId}/chat-images'];
  return document;
}

/** A handler with two addresses is one operation for NestJS. In the document each address needs its own id. */
function markAliases({ paths }: OpenAPIObject): void {
  for (const [path, { get: operation }] of Object.entries(paths)) {
    if (!path.startsWith(ALIAS) || !operation) continue;
    operation.operationId = `${operation.operationId ?? ''}ByAlias`;
    operation.deprecated = true;
  }
}
