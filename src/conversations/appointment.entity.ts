import { Column, Entity, PrimaryColumn } from 'typeorm';

/** An appointment of the main application. The main application owns the table; read-only here. */
@Entity('appointments', { synchronize: false })
export class Appointment {
  @PrimaryColumn({ type: 'bigint' })
  id!: number;

  @Column('bigint', { name: 'patient_id', nullable: true })
  patientId!: number | null;

  @Column('bigint', { name: 'doctor_id', nullable: true })
  doctorId!: number | null;
}
