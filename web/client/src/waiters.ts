import type { OxipushError } from "./errors.js";

interface Waiter {
  resolve(value: unknown): void;
  reject(error: OxipushError): void;
}

/** Promises that wait for what is named by a text: `join alice`. */
export class Waiters {
  readonly #waiting = new Map<string, Waiter[]>();

  /** One that nobody awaits may be rejected unnoticed. */
  wait<Value>(key: string): Promise<Value> {
    const promise = new Promise<Value>((resolve, reject) => {
      const waiter = { resolve: resolve as (value: unknown) => void, reject };
      this.#waiting.set(key, [...(this.#waiting.get(key) ?? []), waiter]);
    });
    promise.catch(() => undefined);
    return promise;
  }

  /** `false`: nobody waited. */
  resolve(key: string, value?: unknown): boolean {
    const waiting = this.#take(key);
    for (const waiter of waiting) waiter.resolve(value);
    return waiting.length > 0;
  }

  reject(key: string, error: OxipushError): void {
    for (const waiter of this.#take(key)) waiter.reject(error);
  }

  /** Resolves all whose key begins so. */
  resolveAll(prefix: string): void {
    for (const key of [...this.#waiting.keys()]) if (key.startsWith(prefix)) this.resolve(key);
  }

  rejectAll(error: OxipushError): void {
    for (const key of [...this.#waiting.keys()]) this.reject(key, error);
  }

  #take(key: string): Waiter[] {
    const waiting = this.#waiting.get(key) ?? [];
    this.#waiting.delete(key);
    return waiting;
  }
}
