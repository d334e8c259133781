import type { NestExpressApplication } from '@nestjs/platform-express';
import { DocumentBuilder, type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import helmet from 'helmet';
import { bearerOnce } from './pasted-token.js';
import { signedUrlLinks } from './signed-url-links.js';

const PATH = 'api/docs';

/** For the page; without upgrading to https, which would break it where QA opens it over http. */
const PAGE_HEADERS = helmet({ contentSecurityPolicy: { directives: { upgradeInsecureRequests: null } } });

/** Where older messages find their pictures, beside `/storage/`. */
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
      // Functions go into the page's script file as their text: the page's policy allows no inline script.
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
        'Private pictures of a telemedicine chat: for the patient and the doctor of the appointment only.',
      )
      .setVersion('1')
      .addBearerAuth({ type: 'http', scheme: 'bearer', bearerFormat: 'JWT' })
      .build(),
  );
  markAliases(document);
  return document;
}

/** A handler with two addresses is one operation for NestJS; in the document each needs an id of its own. */
function markAliases({ paths }: OpenAPIObject): void {
  for (const [path, { get: operation }] of Object.entries(paths)) {
    if (!path.startsWith(ALIAS) || !operation) continue;
    operation.operationId = `${operation.operationId ?? ''}ByAlias`;
    operation.deprecated = true;
  }
}
