/** Pauses between tries: each random between nothing and a bound that doubles (full jitter). */
export class Backoff {
  #tries = 0;
  readonly #base: number;
  readonly #max: number;

  /** Milliseconds. */
  constructor(base: number, max: number) {
    this.#base = base;
    this.#max = max;
  }

  /** The next pause in milliseconds; `base` is the first bound where another is wanted. */
  next(base = this.#base): number {
    return Math.random() * Math.min(this.#max, base * 2 ** this.#tries++);
  }

  /** A random time up to `bound` milliseconds, which are not more than the longest pause. */
  within(bound: number): number {
    return Math.random() * Math.min(this.#max, bound);
  }

  reset(): void {
    this.#tries = 0;
  }
}
