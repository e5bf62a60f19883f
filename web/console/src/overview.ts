import { call } from "./api.js";
import { bytes, byId, count, duration } from "./dom.js";
import { quantile, rate, Sample } from "./metrics.js";
import { Plot } from "./plots.js";

const single = (value: number | null) => new Map([["", value]]);

/** The node's numbers, as plots that move. */
export class Overview {
  #before: Sample | undefined;
  readonly #connections = new Plot({ id: "plot-connections", title: "Connections", names: [""], show: count, least: 1 });
  readonly #pushes = new Plot({ id: "plot-pushes", title: "Pushes accepted per second", names: [""], show: count, least: 1 });
  readonly #deliveries = new Plot({ id: "plot-deliveries", title: "Deliveries per second", names: [""], show: count, least: 1 });
  readonly #latency = new Plot({ id: "plot-latency", title: "Latency", names: ["published, median", "99 %"], show: duration, least: 0.001 });
  readonly #queue = new Plot({ id: "plot-queue", title: "Queue: pushes not finished", names: ["in the queue", "in flight"], show: count, least: 1 });
  readonly #store = new Plot({ id: "plot-store", title: "Stored pushes", names: [""], show: count, least: 1 });
  readonly #drops = new Plot({ id: "plot-drops", title: "Not delivered, per second", names: [], show: count, least: 1 });

  /** Looks at the metrics once. Throws an `ApiError`. */
  async look(): Promise<void> {
    const text = await (await call("/metrics")).text();
    const now = new Sample(text, Date.now() / 1000);
    const before = this.#before;
    this.#before = now;
    const { at } = now;
    this.#connections.add(at, single(now.sum("oxipush_connections")));
    this.#queue.add(
      at,
      new Map([
        ["in the queue", now.sum("oxipush_queue_records")],
        ["in flight", now.sum("oxipush_jobs_in_flight")],
      ]),
    );
    this.#store.add(at, single(now.sum("oxipush_store_entries")));
    this.#tellTexts(now);
    // the tab slept: a rate over that time says nothing of now
    if (!before || at - before.at > 30 || at <= before.at) return;
    this.#pushes.add(at, single(rate(before, now, "oxipush_pushes_total", { outcome: "accepted" })));
    this.#deliveries.add(at, single(rate(before, now, "oxipush_deliveries_total")));
    this.#latency.add(at, latency(before, now));
    const reasons = [...now.by("oxipush_drops_total", "reason").keys()];
    const drops = reasons.map((reason) => [reason, rate(before, now, "oxipush_drops_total", { reason })] as const);
    const known = new Set(drops.filter(([reason, dropped]) => dropped > 0 || now.sum("oxipush_drops_total", { reason }) > 0).map(([reason]) => reason));
    this.#drops.add(at, new Map(drops.filter(([reason]) => known.has(reason))));
  }

  #tellTexts(now: Sample): void {
    const texts: [string, string][] = [
      ["now-connections", count(now.sum("oxipush_connections"))],
      ["now-cards", count(now.sum("oxipush_groups"))],
      ["now-pushes", count(now.sum("oxipush_pushes_total", { outcome: "accepted" }))],
      ["now-deliveries", count(now.sum("oxipush_deliveries_total"))],
      ["now-queue", bytes(now.sum("oxipush_queue_bytes"))],
      ["now-store", bytes(now.sum("oxipush_store_bytes"))],
    ];
    for (const [id, text] of texts) byId(id).textContent = text;
  }
}

function latency(before: Sample, now: Sample): Map<string, number | null> {
  const of = (name: string, part: number) => quantile(before, now, `oxipush_${name}_seconds`, part);
  const values = new Map<string, number | null>([
    ["published, median", of("publish", 0.5)],
    ["99 %", of("publish", 0.99)],
  ]);
  // what the queue of nsqd, and shards, say where they measure
  for (const [name, text] of [["queue", "in nsqd, 99 %"], ["offer", "offered, 99 %"], ["write", "written, 99 %"]] as const) {
    const measured = of(name, 0.99);
    if (measured !== null || now.sum(`oxipush_${name}_seconds_count`) > 0) values.set(text, measured);
  }
  return values;
}
