export const ROLES = ['patient', 'doctor', 'outsider'] as const;
export type Role = (typeof ROLES)[number];

type User = { readonly id: number; readonly token: string };

/** What the page begins with. */
export type Session = {
  readonly appointment_id: number;
  /** How long a signed URL works, in seconds. */
  readonly url_expires_in: number;
  readonly users: Readonly<Record<Role, User>>;
};

export async function loadSession(): Promise<Session> {
  const response = await fetch('session.json');
  const body = (await response.json()) as Session & { readonly message?: string };
  if (!response.ok) throw new Error(body.message ?? 'The demo could not be loaded.');
  return body;
}

/** The bearer token of a user. A refused token, mostly an expired one, is replaced. */
export function tokenOf(role: Role, session: Session): (refused?: string) => Promise<string> {
  let { token } = session.users[role];
  return async (refused) => {
    if (refused === token) token = (await loadSession()).users[role].token;
    return token;
  };
}

/** A URL of a picture that was handed out. */
export type TrailEntry = {
  readonly user_id: number;
  readonly variant: 'original' | 'thumbnail';
  readonly accessed_at: string;
};
