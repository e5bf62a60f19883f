import { OxipushError } from "./errors.js";
import type { PlaceStorage } from "./options.js";
import type { Place } from "./protocol.js";

/** Places in streams, as the caller's storage keeps them. */
export class Places {
  readonly #storage: PlaceStorage | undefined;
  readonly #prefix: string;
  readonly #failed: (error: OxipushError) => void;
  /** What is still to be written while an async storage writes, the newest of each key; `undefined`: to be removed. */
  readonly #unwritten = new Map<string, Place | undefined>();
  #writes = false;

  constructor(storage: PlaceStorage | undefined, prefix: string, failed: (error: OxipushError) => void) {
    this.#storage = storage;
    this.#prefix = prefix;
    this.#failed = failed;
  }

  /** `undefined`: nothing is kept, or nothing that is a place. */
  async load(key: string): Promise<Place | undefined> {
    try {
      if (this.#unwritten.has(key)) return this.#unwritten.get(key);
      const text = await this.#storage?.getItem(this.#prefix + key);
      return text ? placeOf(text) : undefined;
    } catch (cause) {
      this.#fail("read", cause);
      return undefined;
    }
  }

  /** `undefined` removes it. */
  save(key: string, place: Place | undefined): void {
    if (!this.#storage) return;
    this.#unwritten.set(key, place);
    if (!this.#writes) void this.#write(this.#storage);
  }

  async #write(storage: PlaceStorage): Promise<void> {
    this.#writes = true;
    for (let next; (next = this.#unwritten.entries().next().value); ) {
      const [key, place] = next;
      try {
        const name = this.#prefix + key;
        const written = place ? storage.setItem(name, JSON.stringify(place)) : storage.removeItem(name);
        // a storage without promises has it by now
        if (written instanceof Promise) await written;
      } catch (cause) {
        this.#fail("written", cause);
      }
      if (this.#unwritten.get(key) === place) this.#unwritten.delete(key);
    }
    this.#writes = false;
  }

  #fail(what: string, cause: unknown): void {
    this.#failed(new OxipushError("storage", `cannot be ${what}: ${cause}`, { cause }));
  }
}

/** `undefined`: it is none. */
function placeOf(text: string): Place | undefined {
  try {
    const { epoch, seq, id } = JSON.parse(text) as Partial<Place>;
    if (!/^[0-9a-f]{8}$/.test(`${epoch}`) || !Number.isSafeInteger(seq) || Number(seq) < 0) return undefined;
    return { epoch, seq, id: /^\w{26}$/.test(`${id}`) ? id : undefined } as Place;
  } catch {
    return undefined;
  }
}
