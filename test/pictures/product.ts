import { loadSettings } from '../../src/config/settings.js';
import { ImagePreparer } from '../../src/pictures/image-preparer.js';
import { ImageProcesses } from '../../src/pictures/image-processes.js';
import { PictureError } from '../../src/pictures/picture-error.js';
import type { Outcome } from './differential.js';

const SECRET = 'a secret of the tests of pictures, 0123456789';

/** The product's way of a picture, with real decoding processes, without the rest of the service. */
export class Product {
  private constructor(
    private readonly processes: ImageProcesses,
    private readonly preparer: ImagePreparer,
  ) {}

  static async start(): Promise<Product> {
    const settings = loadSettings({
      APP_URL: 'http://localhost:3000',
      DATABASE_URL: 'postgres://localhost/none',
      JWT_SECRET: SECRET,
      STORAGE_DRIVER: 'local',
      LOCAL_STORAGE_DIR: 'none',
      LOCAL_STORAGE_SECRET: SECRET,
      DECODE_PROCESSES: '2',
      UPLOAD_WAIT_MS: '120000',
    });
    const processes = new ImageProcesses(settings);
    await processes.start();
    return new Product(processes, new ImagePreparer(processes, settings));
  }

  async prepare(bytes: Buffer, userId: number): Promise<Outcome> {
    const left = new AbortController().signal;
    try {
      const { pieces } = await this.preparer.prepare([Buffer.from(bytes)], { userId, left });
      return { stored: Buffer.concat(pieces) };
    } catch (error) {
      if (!(error instanceof PictureError) || error.failure !== 'invalid') throw error;
      const detail = error.cause instanceof Error ? error.cause.message : '';
      return { refusal: detail || error.message };
    }
  }

  stop(): Promise<void> {
    return this.processes.onApplicationShutdown();
  }
}
