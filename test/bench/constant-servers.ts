/*
 * The ceilings: servers that answer a constant of a signed URL's size. FRAMEWORK=nest is NestJS on Express
 * with its defaults and a guard. FRAMEWORK=none is `node:http` alone.
 */
import { type CanActivate, Controller, type ExecutionContext, Get, Module, UseGuards } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { Request } from 'express';
import { createServer } from 'node:http';

const { PORT, FRAMEWORK, DO_SPACES_URL } = process.env;

const ANSWER = {
  success: true,
  data: {
    url: `${DO_SPACES_URL}/chat_images/appointment_1450/1762379401_YoxmX4UUfE.jpg?${'x'.repeat(310)}`,
    expires_in: 3600,
    expires_at: '2025-11-05T22:50:01.000000Z',
  },
} as const;

class TokenGuard implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    return context.switchToHttp().getRequest<Request>().headers.authorization !== undefined;
  }
}

@Controller('api/chat-images')
class ConstantController {
  @Get(':id/signed-url')
  @UseGuards(TokenGuard)
  signedUrl(): typeof ANSWER {
    return ANSWER;
  }
}

@Module({ controllers: [ConstantController] })
class AppModule {}

if (FRAMEWORK === 'nest') {
  const app = await NestFactory.create(AppModule);
  await app.listen(Number(PORT), '127.0.0.1');
} else {
  const body = JSON.stringify(ANSWER);
  const headers = {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
  };
  createServer((_, response) => response.writeHead(200, headers).end(body)).listen(Number(PORT), '127.0.0.1');
}
process.once('SIGTERM', () => process.exit(0));
