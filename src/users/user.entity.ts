import { Entity, PrimaryColumn } from 'typeorm';
import { bigintNumber } from '../database/bigint-number.js';

/** A user of the main application, which owns the table; read-only here. */
@Entity('users', { synchronize: false })
export class User {
  @PrimaryColumn({ type: 'bigint', transformer: bigintNumber })
  id!: number;
}
