import { readFile } from 'node:fs/promises';
import sharp from 'sharp';
import type { Fault } from '../support/cutting-proxy.js';
import { pick, type RandomNumbers, randomNumbers } from '../support/random-numbers.js';

export const INSTANCES = 3;

/** Appointments of four patients and two doctors. */
export const APPOINTMENTS = [
  { id: 201, patient: 11, doctor: 21 },
  { id: 202, patient: 12, doctor: 21 },
  { id: 203, patient: 13, doctor: 22 },
  { id: 204, patient: 14, doctor: 22 },
] as const;

export type Appointment = (typeof APPOINTMENTS)[number];

/** All users who send pictures. */
export const SENDERS = [...new Set(APPOINTMENTS.flatMap(({ patient, doctor }) => [patient, doctor]))];

/** A user without appointments. */
export const OUTSIDER = 31;

/**
 * Kinds of faults, with their number in a round and their duration in milliseconds. A pause is longer than the
 * lease of a pending upload.
 */
const KINDS = {
  'kill an instance': { inRound: 2, lastsMs: [500, 6000] },
  'restart an instance': { inRound: 1, lastsMs: [0, 0] },
  'pause an instance': { inRound: 1, lastsMs: [16_000, 20_000] },
  'kill decoding processes': { inRound: 2, lastsMs: [0, 0] },
  'pause the database': { inRound: 1, lastsMs: [2000, 9000] },
  'restart the database': { inRound: 1, lastsMs: [500, 4000] },
  'crash the database': { inRound: 1, lastsMs: [2000, 3000] },
  'disturb the database of an instance': { inRound: 3, lastsMs: [1000, 12_000] },
  'disturb the storage of an instance': { inRound: 2, lastsMs: [1000, 12_000] },
  'disturb the storage': { inRound: 1, lastsMs: [1000, 8000] },
} as const satisfies Readonly<
  Record<string, { readonly inRound: number; readonly lastsMs: readonly [number, number] }>
>;

export type FaultKind = keyof typeof KINDS;

export const FAULT_KINDS = Object.keys(KINDS) as readonly FaultKind[];

/** The pause between the beginnings of two faults, in milliseconds. */
const FAULT_PAUSE_MS = [2000, 4500] as const;

/** Network faults between an instance and its database. Most of them hit between the steps of an upload. */
const DATABASE_FAULTS = [
  'cut before',
  'cut before',
  'cut after',
  'hold',
  'hold answers',
  'delay answers',
] as const;
const DATABASE_PLACES = [
  ...Array<'commit-stored'>(6).fill('commit-stored'),
  'claim-upload',
  'claim-upload',
  'decide-images',
  'decide-conversation',
  'decide-images',
  'renew-leases',
  'abandon-upload',
  'lock-upload-key',
  'COMMIT',
] as const;

/** Places where an upload is held when its instance is killed or paused: before or after its object is written. */
const HELD_UPLOADS: readonly Fault[] = [
  { how: 'hold', at: 'commit-stored' },
  { how: 'hold', at: 'commit-stored' },
  { how: 'hold answers', at: 'commit-stored' },
  { how: 'hold answers', at: 'claim-upload' },
];

const STORAGE_FAULTS = [
  'refuse',
  'cut before',
  'cut within',
  'cut after',
  'answer 500',
  'hold',
  'hold answers',
  'delay answers',
] as const;
const STORAGE_PLACES = ['PUT ', 'PUT ', 'DELETE ', undefined];

export type PlannedFault = {
  readonly kind: FaultKind;
  /** The time from the start of the run to the fault. */
  readonly atMs: number;
  readonly lastsMs: number;
  /** The instance that the fault hits, if it hits an instance. */
  readonly instance: number;
  /** The network fault. On the local disk the folder is unusable instead. */
  readonly network: Fault;
  /** Whether a held statement of a killed or paused instance never arrives. */
  readonly heldIsLost: boolean;
};

/** Ends a fault. */
export type EndFault = () => void | Promise<void>;

/** The faults of a run. Each round has every kind, in a new order. */
export function planFaults(seed: number, minutes: number): readonly PlannedFault[] {
  const random = randomNumbers(seed, 1);
  const between = ([from, to]: readonly [number, number]): number => from + random(to - from + 1);
  const faults: PlannedFault[] = [];
  let round: FaultKind[] = [];
  for (let atMs = between(FAULT_PAUSE_MS); atMs < minutes * 60_000; atMs += between(FAULT_PAUSE_MS)) {
    if (round.length === 0)
      round = FAULT_KINDS.flatMap((kind) => Array.from({ length: KINDS[kind].inRound }, () => kind));
    const [kind] = round.splice(random(round.length), 1);
    if (!kind) break;
    faults.push({
      kind,
      atMs,
      lastsMs: between(KINDS[kind].lastsMs),
      instance: random(INSTANCES),
      network: planNetworkFault(random, kind),
      heldIsLost: random(2) === 0,
    });
  }
  return faults;
}

function planNetworkFault(random: RandomNumbers, kind: FaultKind): Fault {
  const limits = { bytes: random(20_000), ms: 100 + random(3000) };
  if (kind.startsWith('disturb the storage')) {
    const at = pick(random, STORAGE_PLACES);
    return { how: pick(random, STORAGE_FAULTS), ...limits, ...(at === undefined ? {} : { at }) };
  }
  if (kind !== 'disturb the database of an instance') return pick(random, HELD_UPLOADS);
  // Some faults hit all connections of the instance.
  if (random(6) === 0) return { how: 'refuse' };
  return { how: pick(random, DATABASE_FAULTS), at: pick(random, DATABASE_PLACES), ...limits };
}

/** The tries of an upload, each at an instance, until a try succeeds. */
export type Tap = {
  readonly instances: readonly [number, number, number];
  readonly key: string | undefined;
  /** Whether the client disconnects in its first try: during the picture, or before the response. */
  readonly leaves: 'never' | 'within' | 'before the answer';
};

/** The uploads of a picture by a user. */
export type Sending = {
  readonly appointment: Appointment;
  /** Creates the bytes of the picture, the same each time. */
  readonly picture: () => Promise<Buffer>;
  /** More than one tap when the user taps twice. */
  readonly taps: readonly Tap[];
  /** A later upload of the same picture. */
  readonly again: { readonly afterMs: number; readonly tap: Tap } | undefined;
  readonly pauseMs: number;
};

/** The n-th picture of a user. */
export function planSending(seed: number, user: number, index: number): Sending {
  const random = randomNumbers(seed, 2, user, index);
  const tap = (): Tap => {
    const instances: Tap['instances'] = [random(INSTANCES), random(INSTANCES), random(INSTANCES)];
    const key = random(3) === 0 ? `upload-${user}-${index}-${random(1_000_000)}` : undefined;
    const leaves = pick(random, ['within', 'before the answer', ...Array<'never'>(8).fill('never')] as const);
    return { instances, key, leaves };
  };
  const first = tap();
  // The second tap goes to another instance at the same time.
  const { instances: taken } = first;
  const twice = random(5) === 0;
  const second = tap();
  const instances: Tap['instances'] = [(taken[0] + 1) % INSTANCES, second.instances[1], second.instances[2]];
  const again = { afterMs: random(15_000), tap: tap() };
  // All users send some of the pictures, which are different images for each user.
  const shared = index % 10 === 9;
  return {
    appointment: pick(
      random,
      APPOINTMENTS.filter(({ patient, doctor }) => patient === user || doctor === user),
    ),
    picture: () => makePicture(randomNumbers(seed, 3, index, shared ? 0 : user)),
    taps: twice ? [first, { ...second, instances }] : [first],
    again: random(8) === 0 ? again : undefined,
    pauseMs: 200 + random(1500),
  };
}

/** A random picture in one of the four formats, or a photograph with a random comment. */
async function makePicture(random: RandomNumbers): Promise<Buffer> {
  const format = pick(random, ['png', 'png', 'jpeg', 'jpeg', 'webp', 'gif', 'photograph'] as const);
  if (format === 'photograph') {
    const photo = await readFile('test/images/phone-photo.jpg');
    const comment = Buffer.from(String(random(2 ** 32)).padEnd(60));
    return Buffer.concat([
      photo.subarray(0, 2),
      Buffer.from([0xff, 0xfe, 0, 62]),
      comment,
      photo.subarray(2),
    ]);
  }
  const [width, height] = [32 + random(96), 32 + random(96)];
  const noise = Buffer.from(Array.from({ length: width * height * 3 }, () => random(256)));
  return sharp(noise, { raw: { width, height, channels: 3 } })
    .toFormat(format)
    .toBuffer();
}
