import { call, messageOf } from "./api.js";
import { byId, element, say, time } from "./dom.js";

/** Events that are shown; older ones go. */
const SHOWN = 200;
/** Milliseconds until it is tried again. */
const PAUSE = 3000;

interface ShownEvent {
  type: string;
  time: number;
  card?: string;
  app?: string;
  room?: string;
  client?: string;
  code?: number;
  data?: unknown;
}

let watching: AbortController | undefined;

export function startEvents(): void {
  const toggle = byId<HTMLButtonElement>("events-watch");
  toggle.addEventListener("click", () => {
    if (watching) stop();
    else void watch(new AbortController());
  });
  byId("events-clear").addEventListener("click", () => byId("events-list").replaceChildren());
}

/** Watches no more. */
export function stop(): void {
  watching?.abort();
  watching = undefined;
  show();
}

function show(): void {
  byId("events-watch").textContent = watching ? "Stop" : "Watch";
  if (!watching) say("events-said", "not watching");
}

async function watch(control: AbortController): Promise<void> {
  watching = control;
  show();
  while (watching === control) {
    try {
      const answer = await call("/events", { signal: control.signal });
      say("events-said", "watching");
      await read(answer);
      say("events-said", "the stream ended; it is opened again");
    } catch (error) {
      if (control.signal.aborted) return;
      say("events-said", messageOf(error), true);
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

/** Each event of a stream, as Server-Sent Events have them. */
async function read(answer: Response): Promise<void> {
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data) add(JSON.parse(data) as ShownEvent);
    }
  }
}

function add(event: ShownEvent): void {
  const { type, card, app, room, client, code, data } = event;
  const about = [card && `card ${card}`, app && `app ${app}`, room && `room ${room}`, code !== undefined && `code ${code}`, data !== undefined && JSON.stringify(data)];
  const line = element("li", {}, element("time", {}, time(event.time)), element("b", {}, type), ` ${about.filter(Boolean).join(", ")} `);
  if (client) line.append(element("code", {}, client));
  const list = byId("events-list");
  list.prepend(line);
  while (list.children.length > SHOWN) list.lastChild?.remove();
}
