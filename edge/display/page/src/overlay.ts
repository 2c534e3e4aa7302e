// Draws regions over a picture, or over a sketch of the frame. Every label has a shape of its own, not only a colour.

import { type Box, place, type Rectangle, type Region } from "./regions";
import { TEXTS } from "./texts";

interface Look {
  readonly color: string;
  /** Of the box's line, in units of its width; none: solid. */
  readonly dash: readonly number[];
  readonly mark: "cross" | "ring";
}

// Okabe and Ito (2008). Each line lies on a dark one, so that it stands out on tissue, on glare and on black.
const LOOKS: Record<string, Look> = {
  folds: { color: "#00d69b", dash: [], mark: "cross" },
  glottis: { color: "#7cc8f2", dash: [0.1, 2.2], mark: "ring" },
};
const OTHER: Look = { color: "#ffffff", dash: [3, 2], mark: "cross" };
const DARK = "rgba(4, 8, 12, .82)";

/** @param unit width of a line, pixels of the canvas */
export function drawRegions(paint: CanvasRenderingContext2D, regions: readonly Region[], on: Rectangle, unit: number): void {
  paint.save();
  paint.lineJoin = "round";
  const tags: Rectangle[] = [];
  // The largest first, so that what lies in it is not hidden.
  for (const region of [...regions].sort((a, b) => b.box[2] * b.box[3] - a.box[2] * a.box[3])) {
    const look = LOOKS[region.label] ?? OTHER;
    const box = place(region.box, on);
    const x = on.x + region.centre[0] * on.width;
    const y = on.y + region.centre[1] * on.height;
    for (const [color, width] of [[DARK, 2.6 * unit], [look.color, unit]] as const) {
      paint.strokeStyle = color;
      paint.lineWidth = width;
      paint.lineCap = look.dash.length > 0 ? "round" : "butt";
      paint.setLineDash(color === DARK ? [] : look.dash.map((part) => part * unit));
      paint.strokeRect(box.x, box.y, box.width, box.height);
      paint.setLineDash([]);
      paint.lineCap = "round";
      mark(paint, look.mark, x, y, 4.5 * unit);
    }
    tags.push(tag(paint, region, look.color, box, on, unit, tags));
  }
  paint.restore();
}

function mark(paint: CanvasRenderingContext2D, shape: Look["mark"], x: number, y: number, size: number): void {
  paint.beginPath();
  if (shape === "ring") {
    paint.arc(x, y, 0.75 * size, 0, 2 * Math.PI);
  } else {
    paint.moveTo(x - size, y);
    paint.lineTo(x + size, y);
    paint.moveTo(x, y - size);
    paint.lineTo(x, y + size);
  }
  paint.stroke();
}

/** The name, above the box where there is room, else below or in it, and never over another name. */
function tag(
  paint: CanvasRenderingContext2D, region: Region, color: string, box: Rectangle, on: Rectangle, unit: number, taken: readonly Rectangle[],
): Rectangle {
  const words = TEXTS.regions[region.label] ?? region.label;
  paint.font = `650 ${7.5 * unit}px system-ui, sans-serif`;
  const width = paint.measureText(words).width + 6 * unit;
  const height = 11 * unit;
  const x = Math.min(Math.max(on.x, box.x), on.x + on.width - width);
  const above = box.y - height - 2 * unit;
  const below = box.y + box.height + 2 * unit;
  const places = [above, below, box.y + 2 * unit, above - height, below + height].map((y) => ({ x, y, width, height }));
  const inside = (r: Rectangle): boolean => r.y >= on.y && r.y + r.height <= on.y + on.height;
  const found = places.find((r) => inside(r) && !taken.some((t) => overlaps(t, r))) ?? places[2] ?? box;
  paint.fillStyle = DARK;
  paint.beginPath();
  paint.rect(found.x, found.y, width, height);
  paint.fill();
  paint.fillStyle = color;
  paint.textBaseline = "middle";
  paint.fillText(words, found.x + 3 * unit, found.y + height / 2 + 0.4 * unit);
  return found;
}

function overlaps(a: Rectangle, b: Rectangle): boolean {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

/** The frame's outline and the scope's round image in it, where no picture is to be had. */
export function drawSketch(paint: CanvasRenderingContext2D, aperture: Box | null, on: Rectangle, unit: number): void {
  paint.save();
  paint.fillStyle = "#05080b";
  paint.fillRect(on.x, on.y, on.width, on.height);
  paint.strokeStyle = "#3a4958";
  paint.lineWidth = unit;
  paint.strokeRect(on.x + unit / 2, on.y + unit / 2, on.width - unit, on.height - unit);
  if (aperture !== null) {
    const box = place(aperture, on);
    paint.beginPath();
    paint.ellipse(box.x + box.width / 2, box.y + box.height / 2, box.width / 2, box.height / 2, 0, 0, 2 * Math.PI);
    paint.fillStyle = "#141d26";
    paint.fill();
    paint.stroke();
  }
  paint.restore();
}
