// Places in the camera's frame, as they come on the wire and as they lie on a screen. Pure.

export interface Region {
  readonly label: string;
  /** Left, top, width, height as fractions of the camera's frame; the preview is the whole of that frame. */
  readonly box: Box;
  readonly centre: readonly [number, number];
  readonly score: number | null;
}

export type Box = readonly [number, number, number, number];

/** What a message calls its regions; whatever is not one is left out. */
export function readRegions(value: unknown): readonly Region[] {
  if (!Array.isArray(value)) return [];
  const regions: Region[] = [];
  for (const each of value as unknown[]) {
    if (typeof each !== "object" || each === null) continue;
    const { label, box, centre, score } = each as Record<string, unknown>;
    if (typeof label !== "string" || !isBox(box)) continue;
    const middle = [box[0] + box[2] / 2, box[1] + box[3] / 2] as const;
    regions.push({
      label,
      box,
      centre: isNumbers(centre, 2) ? [centre[0] ?? 0, centre[1] ?? 0] : middle,
      score: typeof score === "number" && Number.isFinite(score) ? score : null,
    });
  }
  return regions;
}

export function isBox(value: unknown): value is Box {
  return isNumbers(value, 4) && (value[2] ?? 0) > 0 && (value[3] ?? 0) > 0;
}

function isNumbers(value: unknown, count: number): value is readonly number[] {
  return Array.isArray(value) && value.length === count && value.every((n) => typeof n === "number" && Number.isFinite(n));
}

export interface Rectangle {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** The largest rectangle of this aspect ratio in the middle of a surface, whole pixels. */
export function fit(aspect: number, width: number, height: number): Rectangle {
  const fitted = Math.min(width, height * aspect);
  const w = Math.max(1, Math.round(fitted));
  const h = Math.max(1, Math.round(fitted / aspect));
  return { x: Math.floor((width - w) / 2), y: Math.floor((height - h) / 2), width: w, height: h };
}

/** A box of the frame on the rectangle where the frame is drawn. */
export function place(box: Box, on: Rectangle): Rectangle {
  return { x: on.x + box[0] * on.width, y: on.y + box[1] * on.height, width: box[2] * on.width, height: box[3] * on.height };
}
