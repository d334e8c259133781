import { Column, Entity, PrimaryColumn } from 'typeorm';

/** A text session of the main application: a chat without appointment. The main application owns the table; read-only here. */
@Entity('text_sessions', { synchronize: false })
export class TextSession {
  @PrimaryColumn({ type: 'bigint' })
  id!: number;

  @Column('bigint', { name: 'patient_id', nullable: true })
  patientId!: number | null;

  @Column('bigint', { name: 'doctor_id', nullable: true })
  doctorId!: number | null;
}
