// A picture for this phone alone: the preview that is on show, what is drawn over it, and what was said of it.

import { drawRegions } from "./overlay";
import type { Shown } from "./picture";
import { TEXTS } from "./texts";

const WIDTH = 1280;
const LINE = 44;

/** @param headline what the page said of this very frame */
export function compose(shown: Shown, headline: string, device: string, at: Date): HTMLCanvasElement {
  const { image, facts } = shown;
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  const height = Math.round((WIDTH * image.height) / image.width);
  canvas.height = height + 2 * LINE + 20;
  const paint = canvas.getContext("2d") as CanvasRenderingContext2D;
  paint.fillStyle = "#0a0e13";
  paint.fillRect(0, 0, canvas.width, canvas.height);
  const on = { x: 0, y: 0, width: WIDTH, height };
  paint.imageSmoothingQuality = "high";
  paint.drawImage(image, 0, 0, WIDTH, height);
  drawRegions(paint, facts.judged?.regions ?? [], on, 4);
  paint.fillStyle = "#f2f6fa";
  paint.font = "650 30px system-ui, sans-serif";
  paint.textBaseline = "middle";
  const score = facts.judged?.score;
  const said = score === null || score === undefined ? headline : `${headline} \u00b7 ${TEXTS.fixed.score} ${score.toFixed(2)}`;
  paint.fillText(said, 20, height + 10 + LINE / 2);
  paint.textAlign = "right";
  paint.fillText(stamp(at).replace("T", " "), WIDTH - 20, height + 10 + LINE / 2);
  paint.textAlign = "left";
  paint.font = "24px system-ui, sans-serif";
  paint.fillText(`${TEXTS.fixed.notice} \u00b7 ${device}`, 20, height + 10 + 1.5 * LINE);
  return canvas;
}

/** Hand it to the phone as a download; it goes nowhere else. */
export function download(canvas: HTMLCanvasElement, at: Date): void {
  canvas.toBlob((blob) => {
    if (blob === null) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `foldsight-${stamp(at).replaceAll(":", "")}.png`;
    link.click();
    window.setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }, "image/png");
}

/** The phone's local time, as a label. */
export function stamp(at: Date): string {
  const local = new Date(at.getTime() - at.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19);
}
