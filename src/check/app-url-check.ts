import type { Settings } from '../config/settings.js';
import { type Finding, ok, warning } from './finding.js';
import { get, NoResponseError } from './http-response.js';

/**
 * Checks that the service responds at APP_URL, the start of every media_url. Only a warning: the service may not run yet.
 */
export async function checkAppUrl({ appUrl }: Settings): Promise<Finding> {
  const name = 'APP_URL';
  const health = `${appUrl}/api/health`;
  try {
    const { status, bytes } = await get(health);
    if (status === 200 && isHealthy(bytes)) return ok(name, `${health} answers`);
    if (status >= 300 && status < 400)
      return warning(name, `${health} redirects: write the address that it redirects to`);
    return warning(
      name,
      `${health} is answered by something else (${status}): the reverse proxy must send this path to the service`,
    );
  } catch (error) {
    if (!(error instanceof NoResponseError)) throw error;
    return warning(
      name,
      `${health} does not answer (${error.reason}): start the service, or correct APP_URL`,
    );
  }
}

function isHealthy(body: Buffer): boolean {
  try {
    const answer: unknown = JSON.parse(body.toString());
    return typeof answer === 'object' && answer !== null && 'status' in answer && answer.status === 'ok';
  } catch {
    return false;
  }
}
