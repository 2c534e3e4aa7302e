// This phone's account at the adapter: traded once for the token in the code's address, and kept on this phone.

import type { Credential } from "./link";

export interface Invitation {
  readonly token: string;
  /** Fingerprint of the authority that the adapter's certificate must come from. */
  readonly ca: string;
}

const KEY = "foldsight.account";

/** Read `#pair=TOKEN&ca=FINGERPRINT`, of an address or by itself; null where it is none. */
export function readInvitation(address: string): Invitation | null {
  const hash = address.includes("#") ? address.slice(address.indexOf("#") + 1) : "";
  const parts = new URLSearchParams(hash);
  const token = parts.get("pair")?.trim() ?? "";
  return token === "" ? null : { token, ca: parts.get("ca") ?? "" };
}

/** Take the invitation out of the address bar, and out of the history, before anything else happens. */
export function takeInvitation(): Invitation | null {
  const invitation = readInvitation(location.href);
  if (location.hash !== "") history.replaceState(null, "", location.pathname + location.search);
  return invitation;
}

export function storedAccount(device: string): Credential | null {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "null") as Record<string, unknown> | null;
    const { device: of, username, password } = stored ?? {};
    return of === device && typeof username === "string" && typeof password === "string" ? { username, password } : null;
  } catch {
    return null;
  }
}

export function storeAccount(device: string, account: Credential | null): void {
  try {
    if (account === null) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, JSON.stringify({ device, ...account }));
  } catch {
    // Private browsing may forbid it: the account then lasts as long as the page.
  }
}

export type Answer = { readonly account: Credential } | { readonly problem: string };

/** @param unreachable what to say where no answer comes */
export async function pair(token: string, name: string, unreachable: string): Promise<Answer> {
  try {
    const response = await fetch("api/pair", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ token, name }),
      cache: "no-store",
    });
    const body = (await response.json()) as Record<string, unknown>;
    const { username, password, detail } = body;
    if (response.status === 201 && typeof username === "string" && typeof password === "string") {
      return { account: { username, password } };
    }
    return { problem: typeof detail === "string" ? detail : unreachable };
  } catch {
    return { problem: unreachable };
  }
}
