import { Module } from '@nestjs/common';
import { DatabaseModule } from '../database/database.module.js';
import { ImageAccess } from './image-access.js';

/** The permission rule. The root module registers the AccessGuard, behind the other guards. */
@Module({ imports: [DatabaseModule], providers: [ImageAccess], exports: [ImageAccess] })
export class AccessModule {}
