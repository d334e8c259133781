# The service's image. `docker build -t chat-image-store .`, then run it with the variables of .env.example.

# Node 24 has long-term support until April 2028. "slim" is Debian, with the C library that sharp's binaries want. The digest
# is that of the index of all platforms; docs/operations.md says how to change both.
FROM node:24.20.0-bookworm-slim@sha256:ba849c60be29959425b8734d57b8b4b7d56f98edd9504c9af091d5281095a71e AS base
WORKDIR /app

# The compiler and the tests' tools stay in this stage.
FROM base AS build
COPY package.json package-lock.json ./
RUN npm ci
COPY nest-cli.json tsconfig.json tsconfig.build.json ./
COPY src ./src
COPY client/src ./client/src
COPY demo ./demo
# What only developers start is kept apart.
RUN npm run build:service && mv dist/dev ./dev && npm run build:demo && mv dist/demo ./demo-page

# Apart from the build, so that a change of the source does not install again. npm keeps the compiler, which the build
# plug-in of @nestjs/swagger may use; the service never does.
FROM base AS dependencies
COPY package.json package-lock.json ./
RUN npm ci --omit=dev && rm -rf node_modules/typescript node_modules/.bin/tsc node_modules/.bin/tsserver

FROM base AS service
ENV NODE_ENV=production
# Without this, each of Node's threads would keep memory of its own that it has done with. Decoding processes set it themselves.
ENV MALLOC_ARENA_MAX=2
COPY package.json ./
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# All files belong to root: the service can change none of them, and runs with a read-only root file system too.
USER node
EXPOSE 3000
# Liveness only: a database that is down is no reason to restart the service. The image has no curl.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["node", "--eval", "fetch(`http://127.0.0.1:${process.env.PORT || 3000}/api/health`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
# No shell and no npm in between: SIGTERM reaches the service, which finishes what is under way. `docker stop` waits for 10
# seconds only: `docker run --stop-timeout 35` waits for SHUTDOWN_DELAY_MS and SHUTDOWN_TIMEOUT_MS.
CMD ["node", "dist/main.js"]

# For docker-compose: the service, the demo, and the commands that add sample data and print tokens.
FROM service AS development
COPY --from=build /app/dev ./dist/dev
COPY --from=build /app/demo-page ./dist/demo

# The image of production. It is last, so it is built where no other stage is named.
FROM service
