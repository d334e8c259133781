/** The result of one check of an installation, and what to do. */
export type Finding = {
  /** The name of the check; stable, for scripts. */
  readonly name: string;
  /** `wrong`: the service does not work, or is not safe. `skipped`: there was nothing to check, or no way to check it. */
  readonly status: 'ok' | 'warning' | 'wrong' | 'skipped';
  /** One line for the operator, without any secret. */
  readonly message: string;
};

export function ok(name: string, message: string): Finding {
  return { name, status: 'ok', message };
}

export function warning(name: string, message: string): Finding {
  return { name, status: 'warning', message };
}

export function wrong(name: string, message: string): Finding {
  return { name, status: 'wrong', message };
}

export function skipped(name: string, message: string): Finding {
  return { name, status: 'skipped', message };
}
