import { spawnSync } from 'node:child_process';

/**
 * Whether promtool, of Debian's package prometheus, is installed.
 *
 * @throws Error when it is not, and REQUIRE_PROMTOOL is set
 */
export function hasPromtool(): boolean {
  const installed = !spawnSync('promtool', ['--version']).error;
  if (!installed && process.env.REQUIRE_PROMTOOL)
    throw new Error('REQUIRE_PROMTOOL is set, but promtool is not installed.');
  return installed;
}

/** Runs promtool. Returns its exit code and its whole output. */
export function promtool(
  args: readonly string[],
  input = '',
): { readonly code: number | null; readonly output: string } {
  const { status, stdout, stderr } = spawnSync('promtool', args, { encoding: 'utf8', input });
  return { code: status, output: `${stdout}${stderr}` };
}
