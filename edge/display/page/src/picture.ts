// The picture on the stage: the newest preview with what its own detection says, else a sketch of where things are.

import { drawRegions, drawSketch } from "./overlay";
import { fit } from "./regions";
import type { Model, PictureFacts, View } from "./state";
import { picture } from "./state";
import { TEXTS } from "./texts";

export type Picture = "preview" | "late" | "sketch" | "none";

/** After the last preview the stage keeps its place for so long, empty once the picture is not current. */
const KEEPS_PLACE_MS = 5000;
const DIGITS_EVERY_MS = 250;
const ASPECT = 4 / 3;

interface Preview {
  readonly session: number;
  readonly seq: number;
  readonly image: ImageBitmap;
}

export interface Shown {
  readonly image: ImageBitmap;
  readonly facts: PictureFacts;
}

export class Stage {
  private readonly body = document.body;
  private readonly canvas = document.getElementById("canvas") as HTMLCanvasElement;
  private readonly note = document.getElementById("picture-note") as HTMLElement;
  private readonly paint = this.canvas.getContext("2d", { alpha: false }) as CanvasRenderingContext2D;
  private preview: Preview | null = null;
  private decoding = false;
  private waiting: { readonly session: number; readonly seq: number; readonly jpeg: Uint8Array } | null = null;
  private cameAt = Number.NEGATIVE_INFINITY;
  private notedAt = Number.NEGATIVE_INFINITY;
  private drawn = "";
  private acknowledged = -1;

  /**
   * @param ready called when a picture is decoded and should be shown
   * @param seen called once with the number of each picture that was
   */
  constructor(
    private readonly ready: () => void,
    private readonly seen: (seq: number) => void,
  ) {
    new ResizeObserver(() => {
      this.drawn = "";
      this.ready();
    }).observe(this.canvas);
  }

  /** Take a picture. While one is being decoded only the newest waits. */
  take(session: number, seq: number, jpeg: Uint8Array): void {
    this.waiting = { session, seq, jpeg };
    if (!this.decoding) void this.decode();
  }

  private async decode(): Promise<void> {
    this.decoding = true;
    for (let next = this.waiting; next !== null; next = this.waiting) {
      this.waiting = null;
      try {
        const image = await createImageBitmap(new Blob([next.jpeg as BlobPart], { type: "image/jpeg" }));
        this.preview?.image.close();
        this.preview = { session: next.session, seq: next.seq, image };
        this.cameAt = performance.now();
        this.ready();
      } catch {
        // not a picture
      }
    }
    this.decoding = false;
  }

  /** The picture that is current now, if one is. */
  current(model: Model, view: View, now: number): Shown | null {
    const preview = this.preview;
    if (preview === null || !view.live) return null;
    const facts = picture(model, preview.session, preview.seq);
    if (facts === null || now >= facts.until) return null;
    // The picture comes a little after its answer, and a newer answer may have taken the place back since.
    const judged = facts.judged !== null && view.kind !== "in_view" ? { ...facts.judged, regions: [] } : facts.judged;
    return { image: preview.image, facts: { ...facts, judged } };
  }

  /** Draw what is to be seen now; gives when that changes by time alone. */
  show(model: Model, view: View, now: number): number | null {
    const shown = this.current(model, view, now);
    const placed = now - this.cameAt < KEEPS_PLACE_MS && this.preview?.session === model.session;
    const kind: Picture = !view.live ? "none" : shown !== null ? "preview" : placed ? "late" : view.regions.length > 0 ? "sketch" : "none";
    if (this.body.dataset["picture"] !== kind) this.body.dataset["picture"] = kind;
    switch (kind) {
      case "preview":
        if (shown !== null) this.showPreview(shown, now);
        return shown?.facts.until ?? null;
      case "sketch":
        this.showSketch(view);
        this.write(TEXTS.picture.sketch);
        return null;
      case "late":
        this.clear();
        this.write(TEXTS.picture.late);
        return null;
      case "none":
        this.clear();
        return null;
    }
  }

  private showPreview(shown: Shown, now: number): void {
    const seq = this.preview?.seq ?? -1;
    const size = this.measure();
    const key = `${seq} ${shown.facts.judged?.regions.length ?? 0}`;
    if (key !== this.drawn) {
      this.drawn = key;
      this.black();
      const on = fit(shown.image.width / shown.image.height, this.canvas.width, this.canvas.height);
      this.paint.drawImage(shown.image, on.x, on.y, on.width, on.height);
      drawRegions(this.paint, shown.facts.judged?.regions ?? [], on, size);
      this.describe(shown.facts.judged?.regions.map((region) => region.label) ?? []);
      this.canvas.dataset["seq"] = String(seq);
    }
    if (seq !== this.acknowledged) {
      this.acknowledged = seq;
      this.seen(seq);
    }
    if (now - this.notedAt >= DIGITS_EVERY_MS) {
      this.notedAt = now;
      this.write(TEXTS.picture.age(Math.round(now - shown.facts.exposedAt)));
    }
  }

  private showSketch(view: View): void {
    const size = this.measure();
    this.drawn = "";
    this.black();
    const on = fit(view.health?.aspect ?? ASPECT, this.canvas.width, this.canvas.height);
    drawSketch(this.paint, view.aperture, on, size);
    drawRegions(this.paint, view.regions, on, size);
    this.describe(view.regions.map((region) => region.label));
    delete this.canvas.dataset["seq"];
  }

  /** Nothing of an older picture stays, not even behind something else. */
  private clear(): void {
    if (this.drawn === "empty") return;
    this.drawn = "empty";
    this.black();
    this.describe([]);
    delete this.canvas.dataset["seq"];
  }

  private black(): void {
    this.paint.fillStyle = "#000";
    this.paint.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Make the canvas as fine as the screen; gives the width of a line. */
  private measure(): number {
    const ratio = Math.min(3, window.devicePixelRatio);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.drawn = "";
    }
    return 2 * ratio;
  }

  private describe(labels: readonly string[]): void {
    const words = TEXTS.picture.described(labels.map((label) => TEXTS.regions[label] ?? label));
    if (this.canvas.getAttribute("aria-label") !== words) this.canvas.setAttribute("aria-label", words);
  }

  private write(words: string): void {
    if (this.note.textContent !== words) this.note.textContent = words;
  }
}
