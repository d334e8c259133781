import { Module } from '@nestjs/common';
import { DatabaseModule } from '../database/database.module.js';
import { JwtStrategy } from './jwt.strategy.js';
import { SessionRevocations } from './session-revocations.js';
import { TokenVerifier } from './token-verifier.js';

/** Authentication. The JwtStrategy registers itself with passport, for the JwtAuthGuard. */
@Module({
  imports: [DatabaseModule],
  providers: [JwtStrategy, SessionRevocations, TokenVerifier],
  exports: [TokenVerifier],
})
export class AuthModule {}
