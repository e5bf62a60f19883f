import uPlot from "uplot";
import { byId, element } from "./dom.js";

/** Points that a plot keeps: at one a second, five minutes. */
const KEPT = 300;
/** Lines of one plot; the colours are those of console.css. */
const COLOURS = 6;

export interface PlotOptions {
  /** Where in the page. */
  id: string;
  title: string;
  /** Of each line; more may come with its points. */
  names: string[];
  /** A value as it is written. */
  show: (value: number) => string;
  /** The vertical axis reaches to this at least. */
  least: number;
}

/** Lines over the last minutes, with their newest values as text beside them. */
export class Plot {
  readonly #options: PlotOptions;
  readonly #canvas = element("div", { class: "canvas", role: "img" });
  readonly #legend = element("ul", { class: "legend" });
  #names: string[];
  #times: number[] = [];
  #lines: (number | null)[][];
  #plot: uPlot | undefined;

  constructor(options: PlotOptions) {
    this.#options = options;
    this.#names = [...options.names];
    this.#lines = this.#names.map(() => []);
    byId(options.id).append(element("h3", {}, options.title), this.#legend, this.#canvas);
    new ResizeObserver(() => this.#resize()).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    this.#draw();
  }

  /** One more point of each line, at a time in seconds since 1970; `null`: there is none. */
  add(at: number, values: Map<string, number | null>): void {
    const fresh = [...values.keys()].filter((name) => !this.#names.includes(name)).slice(0, COLOURS - this.#names.length);
    for (const name of fresh) {
      this.#names.push(name);
      this.#lines.push(this.#times.map(() => null));
    }
    this.#times.push(at);
    this.#lines.forEach((line, place) => line.push(values.get(this.#names[place] ?? "") ?? null));
    if (this.#times.length > KEPT) for (const line of [this.#times, ...this.#lines]) line.shift();
    if (fresh.length > 0) this.#draw();
    this.#plot?.setData([this.#times, ...this.#lines]);
    this.#tell();
  }

  #tell(): void {
    const last = (place: number) => this.#lines[place]?.at(-1) ?? null;
    const texts = this.#names.map((name, place) => {
      const value = last(place);
      return { name, text: value === null ? "–" : this.#options.show(value) };
    });
    this.#legend.replaceChildren(
      ...texts.map(({ name, text }, place) =>
        element("li", {}, element("span", { class: `line line-${place}`, "aria-hidden": "true" }), name ? `${name} ` : "", element("b", {}, text)),
      ),
    );
    const now = texts.map(({ name, text }) => `${name} ${text}`.trim()).join(", ");
    this.#canvas.setAttribute("aria-label", `${this.#options.title}, the last minutes; now: ${now || "nothing"}`);
  }

  /** In the colours of now. */
  #draw(): void {
    this.#plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft-text"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1 } };
    const show = this.#options.show;
    const font = "11px system-ui, sans-serif";
    const options: uPlot.Options = {
      width: Math.max(this.#canvas.clientWidth, 100),
      height: 130,
      legend: { show: false },
      cursor: { show: false },
      scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(high ?? 0, this.#options.least) * 1.1] } },
      axes: [
        { ...axis, font, size: 28 },
        { ...axis, font, size: 62, values: (_, splits) => splits.map((value) => show(value)) },
      ],
      series: [
        {},
        ...this.#names.map((_, place) => ({
          stroke: colour(`--line-${place}`),
          width: 2,
          spanGaps: true,
          points: { show: false },
        })),
      ],
    };
    this.#plot = new uPlot(options, [this.#times, ...this.#lines], this.#canvas);
    this.#tell();
  }

  #resize(): void {
    this.#plot?.setSize({ width: Math.max(this.#canvas.clientWidth, 100), height: 130 });
  }
}
