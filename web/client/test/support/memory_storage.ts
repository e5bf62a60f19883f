import type { PlaceStorage } from "../../src/index.js";

/** A storage as a browser's; with `delay` each call takes so many milliseconds. */
export class MemoryStorage implements PlaceStorage {
  readonly items = new Map<string, string>();
  readonly #delay: number | undefined;

  constructor(delay?: number) {
    this.#delay = delay;
  }

  getItem(key: string): string | null | Promise<string | null> {
    return this.#later(() => this.items.get(key) ?? null);
  }

  setItem(key: string, value: string): unknown {
    return this.#later(() => void this.items.set(key, value));
  }

  removeItem(key: string): unknown {
    return this.#later(() => void this.items.delete(key));
  }

  /** What is stored under a key, read as JSON. */
  value(key: string): unknown {
    const text = this.items.get(key);
    return text === undefined ? undefined : JSON.parse(text);
  }

  #later<Value>(act: () => Value): Value | Promise<Value> {
    if (this.#delay === undefined) return act();
    return new Promise((done) => setTimeout(() => done(act()), this.#delay));
  }
}
