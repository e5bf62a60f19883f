import { ApiError, hasKey, messageOf, useKey } from "./api.js";
import { byId, onSubmit, say, valueOf } from "./dom.js";
import { startEvents, stop as stopEvents } from "./events.js";
import { startFind } from "./find.js";
import { showNodes } from "./nodes.js";
import { Overview } from "./overview.js";
import { listPushes, startPushes } from "./pushes.js";

/** Milliseconds between two looks at the metrics, and at the nodes. */
const LOOK = 1000;
const LOOK_AT_NODES = 5000;

let overview: Overview | undefined;
/** Which of the loops below is the current one. */
let run = 0;

/** Enters with the key that there is, or without one; asks for one where it is refused. */
async function enter(): Promise<void> {
  try {
    await listPushes();
  } catch (error) {
    const isKey = error instanceof ApiError && [401, 403].includes(error.status);
    if (!isKey) return await again(error);
    const said = hasKey() ? messageOf(error) : "This node has keys: give one with the scope admin.";
    useKey(undefined);
    return ask(said);
  }
  byId("asking").hidden = true;
  byId("content").hidden = false;
  byId("leave").hidden = !hasKey();
  overview ??= new Overview();
  run += 1;
  void repeat(run, LOOK, look);
  void repeat(run, LOOK_AT_NODES, showNodes);
}

/** The node is away, or cannot answer now. */
async function again(error: unknown): Promise<void> {
  say("state", messageOf(error), true);
  await new Promise((resolve) => setTimeout(resolve, LOOK_AT_NODES));
  return enter();
}

function ask(text: string): void {
  run += 1;
  stopEvents();
  byId("content").hidden = true;
  byId("leave").hidden = true;
  byId("asking").hidden = false;
  say("asking-said", text, true);
  byId("key").focus();
}

async function look(): Promise<void> {
  try {
    await overview?.look();
    say("state", "live");
  } catch (error) {
    say("state", messageOf(error), true);
  }
}

/** Does something again and again, while the tab is seen and nothing took this run's place. */
async function repeat(own: number, pause: number, work: () => Promise<void>): Promise<void> {
  while (own === run) {
    if (!document.hidden) await work();
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

startFind();
startPushes();
startEvents();
onSubmit("asking", async () => {
  useKey(valueOf("key"));
  byId<HTMLInputElement>("key").value = "";
  await enter();
});
byId("leave").addEventListener("click", () => {
  useKey(undefined);
  ask("The key is forgotten.");
});
void enter();
