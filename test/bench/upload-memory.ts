/*
 * npm run bench:upload-memory: what uploads cost other users. A hundred users send ten megabytes at the
 * same time. Then two hundred clients send a byte per second, and a normal upload passes them.
 */
import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import { Bench, forms, peakMiB, photograph, type Server } from './service-under-test.js';

const CLIENTS = 100;
const LORIS_CLIENTS = 200;
const LORIS_INTERVAL_MS = 1000;
const FILE_BYTES = 10 * 1024 * 1024;

async function upload(
  { port }: Server,
  token: string,
  type: string,
  body: Buffer,
  agent?: Agent,
): Promise<number> {
  const post = request({
    port,
    ...(agent ? { agent } : {}),
    method: 'POST',
    path: '/api/upload/chat-image',
    headers: { authorization: `Bearer ${token}`, 'content-type': type, 'content-length': body.length },
  });
  post.end(body);
  const [answer] = (await once(post, 'response')) as [IncomingMessage];
  answer.resume();
  await once(answer, 'end');
  return answer.statusCode ?? 0;
}

/** A client that announces ten megabytes and sends a byte a second. */
function loris({ port }: Server, token: string, type: string, body: Buffer): () => void {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write(
    `POST /api/upload/chat-image HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer ${token}\r\n` +
      `Content-Type: ${type}\r\nContent-Length: ${body.length}\r\n\r\n`,
  );
  let sent = 200;
  socket.write(body.subarray(0, sent));
  const timer = setInterval(() => socket.write(body.subarray(sent, (sent += 1))), LORIS_INTERVAL_MS);
  return () => {
    clearInterval(timer);
    socket.destroy();
  };
}

/** Users, each with an appointment of the same number. */
const USERS = Array.from({ length: LORIS_CLIENTS }, (_, index) => 1000 + index);

const bench = await Bench.open({
  fill: async (database) => {
    await database.query('INSERT INTO users (id) SELECT unnest($1::bigint[])', [[1, 2, ...USERS]]);
    await database.query(
      'INSERT INTO appointments (id, patient_id, doctor_id) SELECT id, id, 2 FROM unnest($1::bigint[]) AS id',
      [USERS],
    );
    await database.query('INSERT INTO appointments (id, patient_id, doctor_id) VALUES (145, 1, 2)');
  },
});
try {
  const memoryMiB = 256;
  const server = await bench.start('this service', 'dist/main.js', { UPLOAD_MEMORY_MIB: String(memoryMiB) });
  const photo = await photograph(6000, 4500, 96);
  const large = forms(photo);
  console.log(`storage: ${bench.storage}; a photo of ${(photo.length / 1024 / 1024).toFixed(1)} MiB`);
  if (photo.length > FILE_BYTES) throw new Error('The photo is larger than an upload may be.');

  const idle = await peakMiB(server, { reset: true });
  const started = performance.now();
  const bodies = USERS.slice(0, CLIENTS).map((user) => ({ user, body: forms(photo, user).next() }));
  const agent = new Agent({ maxSockets: CLIENTS });
  const statuses = await Promise.all(
    bodies.map(({ user, body }) => upload(server, bench.tokenOf(user), large.type, body, agent)),
  );
  const counts = Object.fromEntries(
    [...new Set(statuses)].map((status) => [status, statuses.filter((one) => one === status).length]),
  );
  const peak = await peakMiB(server, { reset: true });
  console.table({
    [`${CLIENTS} clients at once`]: {
      answers: JSON.stringify(counts),
      seconds: ((performance.now() - started) / 1000).toFixed(1),
      'peak MiB': peak.toFixed(0),
      'budget + 150 MiB': memoryMiB + 150,
      'MiB before': idle.toFixed(0),
    },
  });

  const normal = forms(await photograph(1278, 720, 82));
  const time = async (): Promise<number> => {
    const from = performance.now();
    const status = await upload(server, bench.tokenOf(1), normal.type, normal.next());
    if (status !== 200) throw new Error(`A normal upload was answered ${status}.`);
    return performance.now() - from;
  };
  await time();
  const alone = await time();
  const stop = USERS.map((user) => loris(server, bench.tokenOf(user), normal.type, large.next()));
  await new Promise((resolve) => setTimeout(resolve, 5 * LORIS_INTERVAL_MS));
  const among = await time();
  for (const end of stop) end();
  console.table({
    [`a normal upload among ${LORIS_CLIENTS} slow ones`]: {
      'ms alone': alone.toFixed(0),
      'ms among them': among.toFixed(0),
      'peak MiB': (await peakMiB(server, { reset: false })).toFixed(0),
    },
  });
} finally {
  await bench.close();
}
process.exit(0);
