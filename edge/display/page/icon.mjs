// The icon of public/icon.svg as PNG, for phones that want pixels: drawn here, so that no picture needs to be kept.
import { deflateSync } from "node:zlib";

const GROUND = [10, 14, 19];
const FRAME = [242, 246, 250];
const FOLDS = [0, 158, 115];
const SAMPLES = 3;

function bezier([x0, y0], [x1, y1], [x2, y2], [x3, y3], steps = 12) {
  return Array.from({ length: steps }, (_, i) => {
    const t = (i + 1) / steps;
    const u = 1 - t;
    const at = (a, b, c, d) => u * u * u * a + 3 * u * u * t * b + 3 * u * t * t * c + t * t * t * d;
    return [at(x0, x1, x2, x3), at(y0, y1, y2, y3)];
  });
}

const LEFT = [
  ...bezier([58, 34], [49, 46], [41, 62], [39, 80]),
  ...bezier([39, 80], [39, 85], [46, 87], [49, 82]),
  ...bezier([49, 82], [54, 71], [58, 54], [59.5, 36]),
];
const mirror = (points) => points.map(([x, y]) => [120 - x, y]);
const flip = (points) => points.map(([x, y]) => [x, 120 - y]);
const CORNER = [[22, 42], [22, 32], ...bezier([22, 32], [22, 26.5], [26.5, 22], [32, 22]), [42, 22]];
const CORNERS = [CORNER, mirror(CORNER), flip(CORNER), flip(mirror(CORNER))];

function inside(polygon, x, y) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [xi, yi] = polygon[i];
    const [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
  }
  return odd;
}

function near(line, x, y, reach) {
  for (let i = 1; i < line.length; i++) {
    const [ax, ay] = line[i - 1];
    const [dx, dy] = [line[i][0] - ax, line[i][1] - ay];
    const t = Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)));
    if ((x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2 <= reach * reach) return true;
  }
  return false;
}

/** Colour and opacity at a point of the 120 x 120 drawing. */
function at(x, y, full) {
  if (full) {
    // A maskable icon may be cut to a circle of 80 %: ground to the edges, the drawing smaller.
    [x, y] = [60 + (x - 60) / 0.86, 60 + (y - 60) / 0.86];
  } else {
    const [dx, dy] = [Math.max(0, Math.abs(x - 60) - 34), Math.max(0, Math.abs(y - 60) - 34)];
    if (dx * dx + dy * dy > 26 * 26) return null;
  }
  const folded = x > 60 ? 120 - x : x;
  if (folded > 36 && folded < 60 && y > 32 && y < 88 && inside(LEFT, folded, y)) return FOLDS;
  if (CORNERS.some((line) => near(line, x, y, 4))) return FRAME;
  return GROUND;
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type), data]);
  let crc = ~0;
  for (const byte of body) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  const head = Buffer.alloc(4);
  head.writeUInt32BE(data.length);
  const tail = Buffer.alloc(4);
  tail.writeUInt32BE(~crc >>> 0);
  return Buffer.concat([head, body, tail]);
}

/** A PNG of so many pixels a side. */
export function icon(size, full) {
  const rows = Buffer.alloc(size * (1 + 4 * size));
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const sum = [0, 0, 0, 0];
      for (let sample = 0; sample < SAMPLES * SAMPLES; sample++) {
        const x = ((column + ((sample % SAMPLES) + 0.5) / SAMPLES) * 120) / size;
        const y = ((row + (Math.floor(sample / SAMPLES) + 0.5) / SAMPLES) * 120) / size;
        const color = at(x, y, full);
        if (color === null) continue;
        for (let i = 0; i < 3; i++) sum[i] += color[i];
        sum[3] += 1;
      }
      const pixel = row * (1 + 4 * size) + 1 + 4 * column;
      for (let i = 0; i < 3; i++) rows[pixel + i] = sum[3] === 0 ? 0 : Math.round(sum[i] / sum[3]);
      rows[pixel + 3] = Math.round((255 * sum[3]) / SAMPLES ** 2);
    }
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(size, 0);
  header.writeUInt32BE(size, 4);
  header.set([8, 6, 0, 0, 0], 8); // eight bits, RGBA
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", deflateSync(rows, { level: 9 })), chunk("IEND", Buffer.alloc(0))]);
}
