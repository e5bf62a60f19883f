/** The values of one look at /metrics, in Prometheus's classic text. */
export class Sample {
  readonly #values = new Map<string, { labels: Map<string, string>; value: number }[]>();

  constructor(
    text: string,
    /** When it was taken, in seconds since 1970. */
    readonly at: number,
  ) {
    for (const line of text.split("\n")) {
      const found = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
      if (!found) continue;
      const [, name = "", labels = "", value] = found;
      const values = this.#values.get(name) ?? [];
      values.push({ labels: labelsOf(labels), value: Number(value) });
      this.#values.set(name, values);
    }
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** The sum of those whose labels have these values. */
  sum(name: string, wanted: Record<string, string> = {}): number {
    const values = this.#values.get(name) ?? [];
    const isWanted = (labels: Map<string, string>) => Object.entries(wanted).every(([key, value]) => labels.get(key) === value);
    return values.filter(({ labels }) => isWanted(labels)).reduce((sum, { value }) => sum + value, 0);
  }

  /** The sum for each value of a label. */
  by(name: string, label: string): Map<string, number> {
    const sums = new Map<string, number>();
    for (const { labels, value } of this.#values.get(name) ?? []) {
      const key = labels.get(label) ?? "";
      sums.set(key, (sums.get(key) ?? 0) + value);
    }
    return sums;
  }
}

function labelsOf(text: string): Map<string, string> {
  const labels = new Map<string, string>();
  for (const [, key = "", value = ""] of text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
    labels.set(key, value.replace(/\\(.)/g, (_, char: string) => (char === "n" ? "\n" : char)));
  }
  return labels;
}

/** How much a counter grew in a second; one that was set back (the gateway was started again) began at 0. */
export function rate(before: Sample, now: Sample, name: string, labels: Record<string, string> = {}): number {
  return growth(before.sum(name, labels), now.sum(name, labels)) / (now.at - before.at);
}

function growth(before: number, now: number): number {
  return now >= before ? now - before : now;
}

/** The quantile of what a histogram took since `before`, between the bounds of its bucket; `null`: it took nothing. */
export function quantile(before: Sample, now: Sample, name: string, part: number): number | null {
  const old = before.by(`${name}_bucket`, "le");
  const buckets = [...now.by(`${name}_bucket`, "le")]
    .map(([bound, value]) => ({ bound: bound === "+Inf" ? Infinity : Number(bound), taken: growth(old.get(bound) ?? 0, value) }))
    .sort((one, other) => one.bound - other.bound);
  const all = buckets.at(-1)?.taken ?? 0;
  if (all === 0) return null;
  const rank = part * all;
  let low = 0;
  let below = 0;
  for (const { bound, taken } of buckets) {
    if (taken >= rank) {
      // what is above the last bound is shown as that
      if (bound === Infinity) return low;
      return low + ((bound - low) * (rank - below)) / (taken - below || 1);
    }
    low = bound;
    below = taken;
  }
  return low;
}
