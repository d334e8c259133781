import { expect, it } from '@jest/globals';
import type { Appointment } from '../appointments/appointment.entity.js';
import { isParticipant } from './appointment-participant.guard.js';

const appointment: Appointment = { id: 145, patientId: 1, doctorId: 2 };

it.each([
  ['the patient', { id: 1 }, appointment, true],
  ['the doctor', { id: 2 }, appointment, true],
  ['a user with the number of the appointment', { id: 145 }, appointment, false],
  ['anybody else', { id: 3 }, appointment, false],
  [
    'anybody, where the appointment has no doctor yet',
    { id: 2 },
    { id: 145, patientId: 1, doctorId: null },
    false,
  ],
])('%s may see the images of an appointment: %#', (_, user, its, allowed) => {
  expect(isParticipant(user, its)).toBe(allowed);
});
