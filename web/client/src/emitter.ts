import { OxipushError } from "./errors.js";

/** Handlers by the name of their event. */
export class Emitter<Events> {
  readonly #handlers = new Map<keyof Events, Set<(event: never) => void>>();
  readonly #failed: (error: OxipushError) => void;

  /** `failed` is told what a handler throws. */
  constructor(failed: (error: OxipushError) => void) {
    this.#failed = failed;
  }

  /** Adds a handler; gives what takes it away again. */
  on<Name extends keyof Events>(name: Name, handler: (event: Events[Name]) => void): () => void {
    let handlers = this.#handlers.get(name);
    if (!handlers) this.#handlers.set(name, (handlers = new Set()));
    handlers.add(handler);
    return () => this.off(name, handler);
  }

  off<Name extends keyof Events>(name: Name, handler: (event: Events[Name]) => void): void {
    this.#handlers.get(name)?.delete(handler);
  }

  /** Calls the handlers in their order; gives how many there are. */
  emit<Name extends keyof Events>(name: Name, event: Events[Name]): number {
    const handlers = [...(this.#handlers.get(name) ?? [])] as ((event: Events[Name]) => void)[];
    for (const handler of handlers) {
      try {
        handler(event);
      } catch (cause) {
        // else it would be told to the one that threw
        if (name === "error") console.error("oxipush:", cause);
        else this.#failed(new OxipushError("handler", `a handler of ${String(name)} threw: ${cause}`, { cause }));
      }
    }
    return handlers.length;
  }
}
