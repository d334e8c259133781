/** A finding about one thing of an installation, and what a person is to do about it. */
export type Finding = {
  /** The name of the check; the same in every run, for machines. */
  readonly name: string;
  /** `wrong`: the service does not work, or is not safe. `skipped`: there was nothing to look at, or no way to. */
  readonly status: 'ok' | 'warning' | 'wrong' | 'skipped';
  /** One line for a person, without any secret. */
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
