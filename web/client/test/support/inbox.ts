/** What came and was not taken yet, in order. */
export class Inbox<Item> {
  readonly items: Item[] = [];
  #wake: (() => void)[] = [];

  put(item: Item): void {
    this.items.push(item);
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** The next one; rejects when none comes within so many milliseconds. */
  async take(within = 20_000, what = "an item"): Promise<Item> {
    await this.#until(() => this.items.length > 0, within, what);
    return this.items.shift() as Item;
  }

  /** Waits until `done` says so of all that are there. */
  async until(done: (items: Item[]) => boolean, within = 20_000, what = "what was waited for"): Promise<void> {
    await this.#until(() => done(this.items), within, what);
  }

  async #until(done: () => boolean, within: number, what: string): Promise<void> {
    const end = Date.now() + within;
    while (!done()) {
      const left = end - Date.now();
      if (left <= 0) throw new Error(`${what} did not come within ${within} ms; there is ${JSON.stringify(this.items).slice(0, 2000)}`);
      await new Promise<void>((wake) => {
        const timer = setTimeout(wake, left);
        this.#wake.push(() => {
          clearTimeout(timer);
          wake();
        });
      });
    }
  }
}
