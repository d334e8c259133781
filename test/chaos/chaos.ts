import { setTimeout } from 'node:timers/promises';
import { balanceBooks } from './books.js';
import { Clients } from './clients.js';
import { Fleet } from './fleet.js';
import { Ledger } from './ledger.js';
import { orEnded } from './or-ended.js';
import { INSTANCES, planFaults, type PlannedFault } from './plan.js';

/** The time for each step of upkeep after all faults. */
const UPKEEP_LIMIT_MS = 90_000;
const POLL_MS = 200;

export type ChaosOptions = {
  /** The source of all random numbers. The same seed gives the same faults and pictures. */
  readonly seed: number;
  /** The minutes with faults and new uploads. */
  readonly minutes: number;
  /** Called with a line for each event. */
  readonly onEvent?: (line: string) => void;
  /** Ends the run early, with an error. */
  readonly signal?: AbortSignal;
};

/** The result of a run. */
export type ChaosReport = {
  readonly storage: string;
  readonly faults: readonly PlannedFault[];
  /** The number of each event, and the final counts. */
  readonly counts: Readonly<Record<string, number>>;
  /** A sentence for each error. The books balance without findings. */
  readonly findings: readonly string[];
};

/**
 * Runs three instances of the built service over one database and one storage. Clients send and retry as the app does,
 * while faults are made one after the other. Then upkeep runs, and all responses are compared with
 * the database and the storage. All times are those of production, but upkeep runs sooner.
 *
 * Needs `npm run build` before, and Linux. Uses the S3 server of `S3_ENDPOINT` when it is set, else a folder.
 *
 * @throws Error when a start fails, or the run was ended
 */
export async function runChaos({
  seed,
  minutes,
  onEvent = () => undefined,
  signal,
}: ChaosOptions): Promise<ChaosReport> {
  const fleet = await Fleet.start(signal);
  const ledger = new Ledger();
  const clients = new Clients(fleet, ledger, seed);
  const over = new AbortController();
  const began = performance.now();
  const tell = (text: string): void =>
    onEvent(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}`);
  try {
    const faults = planFaults(seed, minutes);
    const running = clients.run(over.signal);
    await Promise.race([running, makeFaults(fleet, faults, tell, signal)]);
    over.abort();
    tell('all faults are over; the clients end what they have begun');
    await orEnded(running, signal);
    await orEnded(settle(fleet, ledger, clients, tell), signal);
    tell('the books are balanced');
    const books = await orEnded(balanceBooks(fleet, ledger, clients), signal);
    return {
      storage: fleet.storage.name,
      faults,
      counts: { ...Object.fromEntries([...ledger.counts].sort()), ...books.counts },
      findings: [...fleet.findings, ...ledger.findings, ...fleet.logged(), ...books.findings],
    };
  } finally {
    over.abort();
    clients.close();
    await fleet.stop();
  }
}

/** Begins each fault at its time. Resolves when all faults have ended. */
async function makeFaults(
  fleet: Fleet,
  faults: readonly PlannedFault[],
  tell: (text: string) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const began = performance.now();
  const made: Promise<void>[] = [];
  for (const fault of faults) {
    await setTimeout(Math.max(0, fault.atMs - (performance.now() - began)), undefined, { signal });
    tell(describe(fault));
    made.push(fleet.make(fault));
  }
  await orEnded(Promise.all(made), signal);
}

/** Waits until no request runs, and upkeep has deleted what the faults have left. */
async function settle(
  fleet: Fleet,
  ledger: Ledger,
  clients: Clients,
  tell: (text: string) => void,
): Promise<void> {
  tell('each instance is asked whether it works again');
  const probes = await Promise.all(Array.from({ length: INSTANCES }, (_, index) => clients.probe(index)));
  for (const [index, works] of probes.entries())
    if (!works) ledger.findings.push(`instance ${index} does not work again by itself.`);
  tell('each instance is started anew');
  await fleet.restartAll();
  tell('upkeep runs its course');
  const until = async (what: string, sql: string): Promise<void> => {
    const deadline = performance.now() + UPKEEP_LIMIT_MS;
    for (;;) {
      const left = await fleet.withDatabase((database) => database.query<unknown[]>(sql));
      if (left.length === 0 && fleet.underWay() === 0) return;
      if (performance.now() > deadline) {
        ledger.findings.push(
          `${what} after ${UPKEEP_LIMIT_MS / 1000} s: ${JSON.stringify(left).slice(0, 1000)}`,
        );
        return;
      }
      await setTimeout(POLL_MS);
    }
  };
  await until(
    'uploads are not ended',
    `SELECT id, state, created_at FROM chat_images WHERE state <> 'stored'`,
  );
  // This moves the tombstones to a time at which no late write can arrive any more.
  await fleet.withDatabase((database) =>
    database.query(
      `UPDATE chat_image_tombstones SET settled_at = settled_at - interval '1 hour', next_attempt_at = now()`,
    ),
  );
  await until('tombstones are left', 'SELECT * FROM chat_image_tombstones');
}

function describe({ kind, instance, lastsMs, network, heldIsLost }: PlannedFault): string {
  const where = kind.includes('instance') || kind.includes('processes') ? ` (${instance})` : '';
  const way = `${network.how}${network.at ? ` at ${network.at}` : ''}`;
  const how = kind.startsWith('disturb')
    ? `: ${way}`
    : /^(kill|pause) an/.test(kind)
      ? `, ${way}${heldIsLost ? ' for ever' : ''}`
      : '';
  const time = lastsMs > 0 ? `, for ${(lastsMs / 1000).toFixed(1)} s` : '';
  return `${kind}${where}${how}${time}`;
}
