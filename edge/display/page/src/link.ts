// The way to the broker: MQTT 5 over WebSocket. Reports what comes and whether it stands; judges nothing.

import mqtt, { type MqttClient } from "mqtt";
import type { LinkState } from "./state";

/** A dead connection is noticed within one and a half of these; results go stale long before. */
const KEEPALIVE_S = 5;
const CONNECT_TIMEOUT_MS = 4000;
const RECONNECT_MS = 1000;
const LARGEST_MESSAGE = 256 * 1024;
/** MQTT 5 reason codes: bad user name or password, not authorised, banned. */
const REFUSALS = new Set([134, 135, 138]);

export interface Listener {
  link(state: LinkState): void;
  message(topic: string, retained: boolean, payload: unknown): void;
}

export class Link {
  private client: MqttClient | null = null;

  constructor(
    private readonly url: string,
    private readonly topic: string,
    private readonly listener: Listener,
  ) {}

  start(): void {
    if (this.client !== null) return;
    this.listener.link("connecting");
    const client = mqtt.connect(this.url, {
      protocolVersion: 5,
      clientId: `foldsight-page-${crypto.getRandomValues(new Uint32Array(2)).join("")}`,
      // A live page wants what comes from now on, and nothing kept for it.
      clean: true,
      properties: { sessionExpiryInterval: 0, maximumPacketSize: LARGEST_MESSAGE },
      keepalive: KEEPALIVE_S,
      connectTimeout: CONNECT_TIMEOUT_MS,
      reconnectPeriod: RECONNECT_MS,
      resubscribe: false,
      // The other kind of timer starts a worker from a blob, which the content security policy forbids.
      timerVariant: "native",
    });
    this.client = client;
    let refused = false;
    client.on("connect", () => {
      refused = false;
      this.subscribe(client);
    });
    client.on("error", (error: Error & { code?: unknown }) => {
      refused = typeof error.code === "number" && REFUSALS.has(error.code);
    });
    client.on("close", () => {
      if (client === this.client) this.listener.link(refused ? "refused" : "disconnected");
    });
    client.on("message", (topic, payload, packet) => {
      if (client !== this.client) return;
      let parsed: unknown;
      try {
        parsed = JSON.parse(payload.toString());
      } catch {
        return; // not one of ours
      }
      this.listener.message(topic, packet.retain, parsed);
    });
  }

  stop(): void {
    const client = this.client;
    this.client = null;
    client?.end(true);
  }

  /** Drop the connection with all that is still on its way, and make a new one. */
  restart(): void {
    this.stop();
    this.start();
  }

  private subscribe(client: MqttClient): void {
    // Without "retain as published" the flag tells what was stored before from what is said now.
    const options = { rap: false, rh: 0 } as const;
    const topics = {
      [`${this.topic}/status`]: { ...options, qos: 1 as const },
      [`${this.topic}/birth`]: { ...options, qos: 1 as const },
      // Live results: the broker drops what the phone cannot take, nothing is sent twice.
      [`${this.topic}/state`]: { ...options, qos: 0 as const },
      [`${this.topic}/detection`]: { ...options, qos: 0 as const },
    };
    // Before the request, since retained messages may come before its answer.
    this.listener.link("connected");
    client.subscribe(topics, (error, granted) => {
      if (client !== this.client) return;
      if (error || granted?.some(({ qos }) => qos >= 128)) this.listener.link("refused");
    });
  }
}
