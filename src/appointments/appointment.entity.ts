import { Column, Entity, PrimaryColumn } from 'typeorm';
import { bigintNumber } from '../database/bigint-number.js';

/** An appointment of the main application, which owns the table; read-only here. */
@Entity('appointments', { synchronize: false })
export class Appointment {
  @PrimaryColumn({ type: 'bigint', transformer: bigintNumber })
  id!: number;

  @Column('bigint', { name: 'patient_id', nullable: true, transformer: bigintNumber })
  patientId!: number | null;

  @Column('bigint', { name: 'doctor_id', nullable: true, transformer: bigintNumber })
  doctorId!: number | null;
}
