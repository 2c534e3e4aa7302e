// Pictures come in pieces. Only the newest picture's are kept.

export interface Whole {
  readonly session: number;
  readonly seq: number;
  readonly jpeg: Uint8Array;
}

/** More than the largest picture has. */
const MOST = 64;

export class Pieces {
  private key = "";
  private found: (Uint8Array | undefined)[] = [];

  /** Take a piece; gives the picture once it is whole. */
  add(user: Readonly<Record<string, unknown>>, piece: Uint8Array): Whole | null {
    const [session, seq, part, parts] = ["session", "seq", "part", "parts"].map((name) => Number(user[name])) as [number, number, number, number];
    if (![session, seq, part, parts].every(Number.isSafeInteger) || parts < 1 || parts > MOST || part < 0 || part >= parts) return null;
    const key = `${session} ${seq} ${parts}`;
    if (key !== this.key) {
      this.key = key;
      this.found = new Array<Uint8Array | undefined>(parts).fill(undefined);
    }
    this.found[part] = piece;
    const whole = this.found.filter((each) => each !== undefined);
    if (whole.length < parts) return null;
    this.key = "";
    const jpeg = new Uint8Array(whole.reduce((sum, each) => sum + each.length, 0));
    let at = 0;
    for (const each of whole) {
      jpeg.set(each, at);
      at += each.length;
    }
    return { session, seq, jpeg };
  }
}
