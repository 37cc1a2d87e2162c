// The table of clients: a row for each, kept and changed in place; buttons that show those of one state.

import { arrange, byId, make, say, show } from "./dom.js";
import { brief, bytes, count, fixed, number, seconds } from "./format.js";

const STATES = ["working", "late", "idle", "resting", "asked", "refused", "gone"];
const COLUMNS = [
  ["Client", "The client's name", (c, name) => brief(name)],
  ["State", "What it is doing", (c) => c.state + (c.drifted ? ", drifted" : "")],
  ["Version", "That its newest update started from", (c) => count(c.version)],
  ["Behind", "Versions since the one that its newest update started from", (c) => count(c.behind)],
  ["Staleness", "Versions that its newest folded update was behind", (c) => count(c.staleness)],
  ["Admitted", "Updates folded", (c) => count(c.admitted ?? 0)],
  ["Refused", "Replies that were not used, and updates clipped or dropped", refused],
  ["Error", "Newest reconstruction error on rows held out", (c) => number(c.error)],
  ["Direction", "Cosine of its updates with the fleet's direction; a liar's is below the others'", (c) => fixed(c.cosine, 2)],
  ["Distance", "Of its scores from the fleet's, 0 to 1; a broken sensor's is near 1", (c) => fixed(c.distance, 2)],
  ["Update", "Mean time from task to update", (c) => seconds(c.mean_s)],
  ["Up", "HTTP on its sockets", (c) => bytes(c.sent_bytes)],
  ["Down", "HTTP on its sockets", (c) => bytes(c.received_bytes)],
];

/** The section of clients. */
export class Clients {
  constructor() {
    this.rows = new Map();
    this.chosen = null;
    this.clients = {};
    this.table = byId("client-table");
    this.body = this.table.tBodies[0];
    this.table.tHead.rows[0].append(
      ...COLUMNS.map(([title, help]) => make("th", { scope: "col", role: "columnheader", title: help }, title)));
    this.buttons = new Map([null, ...STATES].map((state) => [state, this.button(state)]));
    byId("filters").append(...this.buttons.values());
  }

  set(clients) {
    this.clients = clients;
    const names = Object.keys(clients);
    show(byId("clients-none"), !names.length);
    show(this.table, names.length > 0);
    for (const name of this.rows.keys()) if (!(name in clients)) this.rows.delete(name);
    for (const name of names) {
      if (!this.rows.has(name)) this.rows.set(name, row());
      fill(this.rows.get(name), name, clients[name]);
    }
    this.filter();
  }

  filter() {
    const counts = new Map(STATES.map((state) => [state, 0]));
    const all = Object.entries(this.clients);
    for (const [, client] of all) counts.set(client.state, (counts.get(client.state) ?? 0) + 1);
    if (this.chosen && !counts.get(this.chosen)) this.chosen = null;
    for (const [state, button] of this.buttons) {
      const found = state === null ? all.length : counts.get(state);
      show(button, found > 0);
      say(button, `${state ?? "all"} ${count(found)}`);
      button.setAttribute("aria-pressed", String(state === this.chosen));
    }
    const shown = all.filter(([, client]) => this.chosen === null || client.state === this.chosen);
    shown.sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
    arrange(this.body, shown.map(([name]) => this.rows.get(name)));
  }

  button(state) {
    const made = make("button", { type: "button", "aria-pressed": "false" });
    made.addEventListener("click", () => {
      this.chosen = state;
      this.filter();
    });
    return made;
  }
}

function row() {
  const cells = COLUMNS.map(([title], i) => {
    const value = make("span", { class: "value" });
    const attributes = { role: i ? "cell" : "rowheader", "data-title": title };
    return make(i ? "td" : "th", i ? attributes : { ...attributes, scope: "row" }, value);
  });
  cells[1].append(make("span", { class: "why" }));
  return make("tr", { role: "row" }, ...cells);
}

function fill(row, name, client) {
  row.dataset.state = client.state;
  COLUMNS.forEach(([, , text], i) => say(row.cells[i].firstChild, text(client, name)));
  say(row.cells[1].lastChild, brief(client.why ?? "", 200));
}

function refused(client) {
  const reasons = Object.entries(client.refused ?? {}).map(([reason, n]) => `${count(n)} ${brief(reason, 40)}`);
  const others = ["clipped", "dropped"].filter((key) => client[key]).map((key) => `${count(client[key])} ${key}`);
  return [...reasons, ...others].join(", ") || "0";
}
