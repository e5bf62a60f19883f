import { ApiError, getJson, messageOf, path } from "./api.js";
import { button, byId, code, count, element, onSubmit, say, table, time, valueOf } from "./dom.js";

interface TracedPush {
  id: string;
  accepted: number;
  source?: string;
  published_in?: number;
  offered: number;
  offered_in?: number;
  dropped: { reason: string; count: number }[];
}

interface PushAnswer extends TracedPush {
  node: string;
  is_complete: boolean;
  streams?: StreamPlace[];
}

interface StreamPlace {
  card?: string;
  room?: string;
  epoch: string;
  seq: number;
  is_kept: boolean;
  devices: { name: string; declared: boolean; acknowledged: boolean; seq: number }[];
}

interface PushesAnswer {
  node: string;
  pushes: TracedPush[];
}

/** How many of the last pushes are listed. */
const LISTED = 20;

export function startPushes(): void {
  onSubmit("lookup", () => lookUp(valueOf("push-id").trim()));
  byId("push-list-again").addEventListener("click", () => void listPushes());
}

/** Lists the last pushes of the node. Throws an `ApiError` where the key may not see them. */
export async function listPushes(): Promise<void> {
  const { pushes } = await getJson<PushesAnswer>(`/pushes?limit=${LISTED}`);
  const rows = pushes.map((push) => [
    button(push.id, `what became of the push ${push.id}`, () => lookUp(push.id)),
    time(push.accepted),
    push.source ?? "another node",
    count(push.offered),
    push.dropped.map(({ reason, count }) => `${reason} ${count}`).join(", ") || "–",
  ]);
  byId("push-list").replaceChildren(
    pushes.length > 0
      ? table("The last pushes of this node", ["Id", "Accepted", "Came by", "Offered to", "Dropped"], rows)
      : element("p", {}, "This node has seen no push yet, or [http] traced_pushes is 0."),
  );
}

/** Shows what became of one push. */
export async function lookUp(id: string): Promise<void> {
  byId<HTMLInputElement>("push-id").value = id;
  const found = byId("push-found");
  try {
    const push = await getJson<PushAnswer>(`/pushes${path(id)}`);
    found.replaceChildren(stepsOf(push), ...(push.streams ?? []).map(placeOf));
    say("lookup-said", `What this node knows of ${id}:`);
  } catch (error) {
    found.replaceChildren();
    const isGone = error instanceof ApiError && error.status === 404;
    say("lookup-said", isGone ? `This node knows nothing of ${id}, or no more: ${messageOf(error)}` : messageOf(error), true);
  }
}

function stepsOf(push: PushAnswer): HTMLElement {
  const steps = [`accepted at ${time(push.accepted)}${push.source ? ` by ${push.source}` : " by another node"}`];
  if (push.published_in !== undefined) steps.push(`taken for good by the queue, or the store, after ${push.published_in} ms`);
  if (push.offered_in !== undefined) steps.push(`offered to ${count(push.offered)} connection${push.offered === 1 ? "" : "s"} of this node after ${push.offered_in} ms`);
  for (const { reason, count: dropped } of push.dropped) steps.push(`dropped: ${reason}, ${count(dropped)} time${dropped === 1 ? "" : "s"}`);
  if (!push.is_complete) steps.push("a step may be missing: the node had no time to note it");
  return element("ol", {}, ...steps.map((step) => element("li", {}, step)));
}

function placeOf(place: StreamPlace): HTMLElement {
  const name = place.card === undefined ? `room ${place.room}` : `card ${place.card}`;
  const where = `Number ${place.seq} in the stream of ${name}${place.is_kept ? "" : ", which it has left by now"}`;
  if (place.devices.length === 0) return element("p", {}, `${where}; no device has read it.`);
  const rows = place.devices.map(({ name, declared, acknowledged, seq }) => [
    declared ? name : `app ${name || "(none)"}`,
    acknowledged ? "acknowledged" : "not yet",
    code(String(seq)),
  ]);
  return table(where, ["Device", "This push", "Has all up to"], rows);
}
