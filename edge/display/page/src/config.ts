// What the page must know before it can connect, from the server that handed out the page.

import type { Settings } from "./state";

export interface Config extends Settings {
  readonly device: string;
  /** What to call it on the screen. */
  readonly name: string;
  readonly url: string;
  /** Whether this phone needs an account of its own. */
  readonly pairing: boolean;
}

/** A result may be this old and no older to be shown as live. */
const STALE_AFTER_MS = 1000;
const ROOT = "foldsight/v1";

export async function loadConfig(): Promise<Config> {
  const response = await fetch("api/info", { cache: "no-store" });
  if (!response.ok) throw new Error(`api/info: ${response.status}`);
  return readInfo(await response.json());
}

export function readInfo(info: unknown): Config {
  const { device, name, pairing, mqtt } = info as { device: unknown; name: unknown; pairing: unknown; mqtt: { url: unknown } };
  if (typeof device !== "string" || !/^[^+#/\s]+$/.test(device)) throw new Error("api/info names no device");
  if (typeof mqtt?.url !== "string" || !/^wss?:\/\//.test(mqtt.url)) throw new Error("api/info names no broker");
  return {
    device,
    name: typeof name === "string" && name !== "" ? name : device,
    topic: `${ROOT}/${device}`,
    url: mqtt.url,
    pairing: pairing !== false,
    staleAfterMs: STALE_AFTER_MS,
  };
}
