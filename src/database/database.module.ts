import { Module } from '@nestjs/common';
import { RequestDatabase } from './request-database.js';

/** The connections of requests. TypeORM's own connection is for entities, migrations and upkeep; its module is global. */
@Module({ providers: [RequestDatabase], exports: [RequestDatabase] })
export class DatabaseModule {}
