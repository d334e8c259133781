import { Entity, PrimaryColumn } from 'typeorm';

/** A user of the main application. The main application owns the table; read-only here. */
@Entity('users', { synchronize: false })
export class User {
  @PrimaryColumn({ type: 'bigint' })
  id!: number;
}
