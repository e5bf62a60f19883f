import { ApiError, getJson, messageOf, path, postJson } from "./api.js";
import { button, byId, bytes, code, count, duration, element, onSubmit, say, table, time, valueOf } from "./dom.js";
import { lookUp } from "./pushes.js";

interface FoundClient {
  client: string;
  cards: { card: string; app: string }[];
  dialect: string;
  since: number;
  outbox: number;
  address: string | null;
  node?: string;
}

interface ClientsAnswer {
  node: string;
  count: number;
  clients: FoundClient[];
  next: string | null;
  missing?: string[];
}

interface StreamAnswer {
  epoch: string;
  first: number;
  head: number;
  entries: number;
  bytes: number;
  devices: { name: string; declared: boolean; seq: number; idle: number }[];
}

type Kind = "card" | "room" | "client";

/** What was found last: it is what the push and the disconnect are for. */
let shown: { kind: Kind; name: string } | undefined;

export function startFind(): void {
  onSubmit("find", () => find(valueOf("find-kind") as Kind, valueOf("find-name")));
  onSubmit("find-push", pushToFound);
  byId("find-names").addEventListener("click", () => void listNames(valueOf("find-kind") as Kind));
}

/** Shows the connections of a card, a room or a client, and what is stored for it. */
export async function find(kind: Kind, name: string): Promise<void> {
  byId<HTMLSelectElement>("find-kind").value = kind;
  byId<HTMLInputElement>("find-name").value = name;
  const place = byId("found");
  shown = undefined;
  byId("found-actions").hidden = true;
  try {
    const answer = await getJson<ClientsAnswer>(`${path(`${kind}s`, name)}`);
    const parts: HTMLElement[] = [clientsOf(answer)];
    if (kind !== "client") parts.push(...(await streamOf(kind, name)));
    if (answer.missing) parts.unshift(element("p", { class: "bad" }, `Without the part of ${answer.missing.join(", ")}: no answer in time.`));
    if (kind === "card") parts.push(disconnectAll(name));
    place.replaceChildren(...parts);
    shown = { kind, name };
    byId("found-actions").hidden = kind === "client";
    const some = `${count(answer.count)} connection${answer.count === 1 ? "" : "s"}`;
    say("find-said", `${kind} ${name}: ${some}${answer.next === null ? "" : `; the first ${answer.clients.length} are shown`}`);
  } catch (error) {
    place.replaceChildren();
    say("find-said", messageOf(error), true);
  }
}

function clientsOf({ clients }: ClientsAnswer): HTMLElement {
  if (clients.length === 0) return element("p", {}, "Nobody is connected.");
  const rows = clients.map((client) => [
    code(client.client),
    client.cards.map(({ card, app }) => (app ? `${card} (${app})` : card)).join(", "),
    client.dialect,
    time(client.since),
    bytes(client.outbox),
    client.address ?? "–",
    client.node ?? "–",
    button("Disconnect", `disconnect ${client.client}`, () => disconnect({ client: client.client })),
  ]);
  return table("Connections", ["Client", "Joined as", "Speaks", "Since", "Waiting", "From", "Node", "Action"], rows);
}

async function streamOf(kind: Kind, name: string): Promise<HTMLElement[]> {
  let stream: StreamAnswer;
  try {
    stream = await getJson<StreamAnswer>(`${path(`${kind}s`, name)}/stream`);
  } catch (error) {
    const isNone = error instanceof ApiError && ["not_found", "no_store"].includes(error.reason);
    return [element("p", {}, isNone ? "Nothing is stored for it." : `Its stream: ${messageOf(error)}`)];
  }
  const { first, head, entries, devices } = stream;
  const text = `${count(entries)} stored push${entries === 1 ? "" : "es"}, ${bytes(stream.bytes)}: numbers ${first} to ${head} of epoch ${stream.epoch}`;
  const rows = devices.map((device) => [
    device.declared ? device.name : `app ${device.name || "(none)"}`,
    code(String(device.seq)),
    count(Math.max(0, head - Math.max(device.seq, first - 1))),
    `${duration(device.idle)} ago`,
  ]);
  const told = element("p", {}, text);
  return rows.length > 0 ? [told, table("Cursors in the stream", ["Device", "Has all up to", "Behind by", "Heard of"], rows)] : [told];
}

function disconnectAll(card: string): HTMLElement {
  return button("Disconnect all of this card", `disconnect all connections of ${card}`, () => disconnect({ card_id: card }));
}

async function disconnect(whom: Record<string, string>): Promise<void> {
  try {
    await postJson("/disconnect", { ...whom, reason: "disconnected by the console" });
    const again = shown;
    if (again) {
      // the order goes through the queue
      await new Promise((resolve) => setTimeout(resolve, 300));
      await find(again.kind, again.name);
    }
    say("action-said", "Disconnected.");
  } catch (error) {
    say("action-said", messageOf(error), true);
  }
}

async function pushToFound(): Promise<void> {
  if (!shown) return;
  const { kind, name } = shown;
  const target = kind === "room" ? { room: name } : { to: [name] };
  const isStored = byId<HTMLInputElement>("find-push-stored").checked;
  const body = { from: "console", ...target, content: valueOf("find-push-content"), ...(isStored && { offline: true }) };
  try {
    const { id } = await postJson<{ id: string }>("/push", body);
    say("action-said", `Accepted as ${id}.`);
    await lookUp(id);
  } catch (error) {
    say("action-said", messageOf(error), true);
  }
}

interface NamesAnswer {
  cards?: { card: string; count: number }[];
  rooms?: { room: string; count: number }[];
  next: string | null;
}

/** Lists the cards, or rooms, that somebody is in. */
async function listNames(kind: Kind): Promise<void> {
  const of = kind === "room" ? "room" : "card";
  byId("found-actions").hidden = true;
  shown = undefined;
  try {
    const answer = await getJson<NamesAnswer>(`/${of}s?limit=50`);
    const names = answer.cards?.map(({ card, count }) => [card, count] as const) ?? answer.rooms?.map(({ room, count }) => [room, count] as const) ?? [];
    const rows = names.map(([name, clients]) => [button(name, `show the ${of} ${name}`, () => find(of, name)), count(clients)]);
    byId("found").replaceChildren(
      rows.length > 0 ? table(`The first ${of}s by name`, [of === "card" ? "Card" : "Room", "Connections"], rows) : element("p", {}, `No ${of} has a connection.`),
    );
    say("find-said", `${rows.length}${answer.next === null ? "" : " of more"} ${of}s`);
  } catch (error) {
    say("find-said", messageOf(error), true);
  }
}
