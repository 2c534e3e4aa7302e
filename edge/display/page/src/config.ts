// The page's settings, from the server that handed out the page.

import type { Settings } from "./state";

export interface Config extends Settings {
  readonly device: string;
  readonly url: string;
}

interface Wire {
  device: string;
  prefix: string;
  mqtt_url: string | null;
  mqtt_port: number;
  mqtt_path: string;
  stale_after_ms: number;
}

export async function loadConfig(): Promise<Config> {
  const response = await fetch("config.json", { cache: "no-store" });
  if (!response.ok) throw new Error(`config.json: ${response.status}`);
  const wire = (await response.json()) as Wire;
  return {
    device: wire.device,
    topic: `${wire.prefix}/${wire.device}`,
    url: wire.mqtt_url ?? brokerBeside(location, wire.mqtt_port, wire.mqtt_path),
    staleAfterMs: wire.stale_after_ms,
  };
}

/** The broker on the host that the page came from, with TLS exactly when the page has it. */
export function brokerBeside(page: { protocol: string; hostname: string }, port: number, path: string): string {
  return `${page.protocol === "https:" ? "wss" : "ws"}://${page.hostname}:${port}${path}`;
}
