import { getJson, messageOf } from "./api.js";
import { byId, count, say, table } from "./dom.js";

interface NodesAnswer {
  node: string;
  nodes: { id: string; roles: string[]; phase: string; weight: number; version: string; url?: string; connections?: number }[];
}

/** Shows the nodes and their phase. */
export async function showNodes(): Promise<void> {
  try {
    const { node, nodes } = await getJson<NodesAnswer>("/nodes");
    byId("node").textContent = node;
    document.title = `${node} · oxipush console`;
    const rows = nodes.map((one) => [
      one.id === node ? `${one.id} (this one)` : one.id,
      one.phase,
      one.roles.join(", "),
      one.connections === undefined ? "–" : count(one.connections),
      String(one.weight),
      one.version,
      one.url ?? "–",
    ]);
    byId("nodes-list").replaceChildren(table("Nodes of the cluster", ["Node", "Phase", "Roles", "Connections", "Weight", "Version", "Clients connect to"], rows));
    say("nodes-said", "");
  } catch (error) {
    say("nodes-said", messageOf(error), true);
  }
}
