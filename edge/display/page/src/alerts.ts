// A buzz or a tone when the answer changes, where it was asked for. Off by default, kept on this phone.

import type { Kind } from "./state";

const KEY = "foldsight.alerts";

export interface Alerts {
  readonly vibrate: boolean;
  readonly sound: boolean;
}

export const canVibrate = typeof navigator !== "undefined" && "vibrate" in navigator;

/** Milliseconds of buzz and pause, and the tones in Hz: rising where the finding comes, falling where nothing is sure. */
const SIGNALS: Partial<Record<Kind, { readonly buzz: number[]; readonly tones: readonly number[] }>> = {
  in_view: { buzz: [70, 60, 70], tones: [660, 880] },
  not_in_view: { buzz: [40], tones: [440] },
  uncertain: { buzz: [40, 40, 40], tones: [440, 392] },
};
const TROUBLE = { buzz: [300], tones: [330, 220] };

export class Alerter {
  private kind: Kind | null = null;
  private context: AudioContext | null = null;
  settings: Alerts = read();

  constructor() {
    // Browsers let a page sound only after it was touched.
    document.addEventListener("pointerdown", () => void this.context?.resume());
  }

  set(settings: Alerts): void {
    this.settings = settings;
    try {
      localStorage.setItem(KEY, JSON.stringify(settings));
    } catch {
      // lasts as long as the page
    }
    if (settings.sound) {
      this.context ??= new AudioContext();
      void this.context.resume();
    }
  }

  /** Tell of a change. Between two ways of not being live there is nothing to tell. */
  show(kind: Kind): void {
    const before = this.kind;
    if (kind === before) return;
    this.kind = kind;
    if (before === null || (SIGNALS[kind] === undefined && SIGNALS[before] === undefined)) return;
    const { buzz, tones } = SIGNALS[kind] ?? TROUBLE;
    if (this.settings.vibrate && canVibrate) navigator.vibrate(buzz);
    if (this.settings.sound) this.play(tones);
  }

  private play(tones: readonly number[]): void {
    this.context ??= new AudioContext();
    const context = this.context;
    if (context.state !== "running") return;
    tones.forEach((hertz, index) => {
      const begin = context.currentTime + 0.14 * index;
      const tone = new OscillatorNode(context, { frequency: hertz });
      const volume = new GainNode(context, { gain: 0 });
      volume.gain.setTargetAtTime(0.15, begin, 0.01);
      volume.gain.setTargetAtTime(0, begin + 0.1, 0.02);
      tone.connect(volume).connect(context.destination);
      tone.start(begin);
      tone.stop(begin + 0.3);
    });
  }
}

function read(): Alerts {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Record<string, unknown>;
    return { vibrate: stored["vibrate"] === true, sound: stored["sound"] === true };
  } catch {
    return { vibrate: false, sound: false };
  }
}
