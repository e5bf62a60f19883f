/** The element of this id, which console.html has. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`console.html has no ${id}`);
  return found as T;
}

type Child = Node | string;

/** A new element. */
export function element<K extends keyof HTMLElementTagNameMap>(
  name: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A button that does something, and cannot be pressed while it does. */
export function button(text: string, label: string, press: () => Promise<void> | void): HTMLButtonElement {
  const made = element("button", { type: "button", "aria-label": label }, text);
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await press();
    } finally {
      made.disabled = false;
    }
  });
  return made;
}

/** A table that scrolls by itself where it is too wide. */
export function table(caption: string, heads: string[], rows: Child[][]): HTMLElement {
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  const made = element("table", {}, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...body));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}

export function code(text: string): HTMLElement {
  return element("code", {}, text);
}

/** A form that does something with what was filled in. */
export function onSubmit(id: string, submit: () => Promise<void>): void {
  const form = byId<HTMLFormElement>(id);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void submit();
  });
}

export function valueOf(id: string): string {
  return byId<HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement>(id).value;
}

/** Says how something went, to readers of the screen, too. */
export function say(id: string, text: string, isError = false): void {
  const place = byId(id);
  // what is set again is read aloud again
  if (place.textContent !== text) place.textContent = text;
  place.classList.toggle("bad", isError);
}

export function time(millis: number): string {
  return new Date(millis).toLocaleTimeString();
}

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** As people read it. */
export function count(value: number): string {
  return number.format(value);
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${number.format(value)} ${units[unit]}`;
}

/** Seconds, as people read them. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.001) return `${number.format(seconds * 1e6)} µs`;
  if (seconds < 1) return `${number.format(seconds * 1e3)} ms`;
  if (seconds < 120) return `${number.format(seconds)} s`;
  return seconds < 7200 ? `${number.format(seconds / 60)} min` : `${number.format(seconds / 3600)} h`;
}
