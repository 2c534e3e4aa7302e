// The way to the broker: MQTT 5 over WebSocket. Reports what comes and whether it stands; judges nothing.

import mqtt, { type MqttClient } from "mqtt";
import { Pieces } from "./pieces";
import type { LinkState } from "./state";

/** A dead connection is noticed within one and a half of these; results go stale long before. */
const KEEPALIVE_S = 5;
const CONNECT_TIMEOUT_MS = 4000;
const RECONNECT_MS = 1000;
const LARGEST_MESSAGE = 256 * 1024;
/** MQTT 5 reason codes: bad user name or password, not authorised, banned. */
const REFUSALS = new Set([134, 135, 138]);

/** Whoever is not admitted need not ask every second. */
const REFUSED_RETRY_MS = 15_000;

export interface Credential {
  readonly username: string;
  readonly password: string;
}

export interface Listener {
  link(state: LinkState): void;
  message(topic: string, retained: boolean, payload: unknown): void;
  /** A JPEG, with the session and the number of its frame. */
  preview(session: number, seq: number, jpeg: Uint8Array): void;
  /** The answer to a ping. */
  answer(id: number): void;
}

export class Link {
  private client: MqttClient | null = null;
  private retry: number | undefined;
  /** Below the device, where a phone may read; nobody else knows it. */
  private readonly replies: string;

  constructor(
    private readonly url: string,
    private readonly topic: string,
    private readonly credential: Credential | null,
    private readonly listener: Listener,
  ) {
    this.replies = `${topic}/reply/${random()}`;
  }

  start(): void {
    if (this.client !== null) return;
    window.clearTimeout(this.retry);
    this.listener.link("connecting");
    const client = mqtt.connect(this.url, {
      protocolVersion: 5,
      clientId: `${this.credential?.username ?? "foldsight-page"}-${random()}`,
      ...(this.credential ?? {}),
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
    const pieces = new Pieces();
    client.on("connect", () => {
      refused = false;
      this.subscribe(client);
    });
    client.on("error", (error: Error & { code?: unknown }) => {
      refused = typeof error.code === "number" && REFUSALS.has(error.code);
    });
    client.on("close", () => {
      if (client !== this.client) return;
      this.listener.link(refused ? "refused" : "disconnected");
      if (refused) {
        this.stop();
        this.retry = window.setTimeout(() => this.start(), REFUSED_RETRY_MS);
      }
    });
    client.on("message", (topic, payload, packet) => {
      if (client !== this.client) return;
      if (topic === this.replies) {
        this.listener.answer(Number(packet.properties?.correlationData?.toString() ?? Number.NaN));
        return;
      }
      if (topic === `${this.topic}/preview-part`) {
        // A stored picture is never of now.
        const whole = packet.retain ? null : pieces.add(packet.properties?.userProperties ?? {}, payload);
        if (whole !== null) this.listener.preview(whole.session, whole.seq, whole.jpeg);
        return;
      }
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
    window.clearTimeout(this.retry);
    const client = this.client;
    this.client = null;
    client?.end(true);
  }

  /** Drop the connection with all that is still on its way, and make a new one. */
  restart(): void {
    this.stop();
    this.start();
  }

  /** Ask the adapter to answer; what cannot be sent now is not sent later. */
  ping(id: number): void {
    if (this.client?.connected !== true) return;
    const properties = { responseTopic: this.replies, correlationData: new TextEncoder().encode(String(id)) as never };
    this.client.publish(`${this.topic}/cmd/ping`, "{}", { qos: 0, properties });
  }

  /** Tell the adapter that a picture is on the screen, from which it learns how many this way can take. */
  seen(seq: number): void {
    if (this.client?.connected !== true) return;
    this.client.publish(`${this.topic}/cmd/preview-seen`, JSON.stringify({ seq }), { qos: 0 });
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
      [`${this.topic}/health`]: { ...options, qos: 0 as const },
      // In pieces, as the broker is slow to pass anything larger than 4 kB on to a browser.
      [`${this.topic}/preview-part`]: { ...options, qos: 0 as const },
      [this.replies]: { ...options, qos: 0 as const },
    };
    // Before the request, since retained messages may come before its answer.
    this.listener.link("connected");
    client.subscribe(topics, (error, granted) => {
      if (client !== this.client) return;
      if (error || granted?.some(({ qos }) => qos >= 128)) this.listener.link("refused");
    });
  }
}

function random(): string {
  return crypto.getRandomValues(new Uint32Array(2)).join("");
}
