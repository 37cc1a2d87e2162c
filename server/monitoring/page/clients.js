// The table of clients, with buttons that filter it by state. Rows are updated in place.

import { arrange, byId, make, setText, setVisible } from "./dom.js";
import { bytes, count, fixed, number, seconds, truncate } from "./format.js";

const STATES = {
  working: "Works on a task",
  late: "Has not answered its task in time",
  idle: "Is ready and has no task",
  resting: "Is ready; its next task is not due yet",
  learning: "Gathers events until it has enough to train on",
  asked: "Is connected and has not described itself yet",
  refused: "Is connected and cannot take part",
  enrolled: "Is registered and has never connected",
  gone: "Is not connected",
};
const COLUMNS = [
  ["Client", "Name of the client", (c, name) => truncate(name)],
  ["State", "What the client is doing", (c) => c.state + (c.drifted ? ", drifted" : "")],
  ["Version", "Model version that its newest reply is about", (c) => count(c.version)],
  ["Behind", "Number of model versions made since the version that its newest reply is about", (c) => count(c.behind)],
  ["Staleness", "Versions that its newest aggregated update was behind", (c) => count(c.staleness)],
  ["Admitted", "Updates aggregated", (c) => count(c.admitted ?? 0)],
  ["Rejected", "Replies rejected, by reason; updates clipped; updates dropped as stale or with a failed round", rejected],
  ["Error", "Newest reconstruction error on held-out rows", (c) => number(c.error)],
  ["Direction", "Cosine of its updates with the fleet's mean direction; lower than the others' for a client that sends something other than it learned", (c) => fixed(c.cosine, 2)],
  ["Distance", "Distance of its scores from the fleet's, 0 to 1; near 1 for a broken sensor", (c) => fixed(c.distance, 2)],
  ["Update", "Mean time from a task to its update", (c) => seconds(c.mean_s)],
  ["Up", "HTTP bytes that it sent", (c) => bytes(c.sent_bytes)],
  ["Down", "HTTP bytes that it received", (c) => bytes(c.received_bytes)],
];

/** The section with the table of clients. */
export class Clients {
  constructor() {
    this.rows = new Map();
    this.selected = null;  // state to filter by; null for all
    this.clients = {};
    this.table = byId("client-table");
    this.body = this.table.tBodies[0];
    this.table.tHead.rows[0].append(
      ...COLUMNS.map(([title, help]) => make("th", { scope: "col", role: "columnheader", title: help }, title)));
    this.buttons = new Map([null, ...Object.keys(STATES)].map((state) => [state, this.button(state)]));
    byId("filters").append(...this.buttons.values());
  }

  set(clients) {
    this.clients = clients;
    const names = Object.keys(clients);
    setVisible(byId("clients-none"), !names.length);
    setVisible(this.table, names.length > 0);
    for (const name of this.rows.keys()) if (!(name in clients)) this.rows.delete(name);
    for (const name of names) {
      if (!this.rows.has(name)) this.rows.set(name, row());
      fill(this.rows.get(name), name, clients[name]);
    }
    this.filter();
  }

  filter() {
    const counts = new Map(Object.keys(STATES).map((state) => [state, 0]));
    const all = Object.entries(this.clients);
    for (const [, client] of all) counts.set(client.state, (counts.get(client.state) ?? 0) + 1);
    if (this.selected && !counts.get(this.selected)) this.selected = null;
    for (const [state, button] of this.buttons) {
      const matching = state === null ? all.length : counts.get(state);
      setVisible(button, matching > 0);
      setText(button, `${state ?? "all"} ${count(matching)}`);
      button.setAttribute("aria-pressed", String(state === this.selected));
    }
    const visible = all.filter(([, client]) => this.selected === null || client.state === this.selected);
    visible.sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
    arrange(this.body, visible.map(([name]) => this.rows.get(name)));
  }

  button(state) {
    const button = make("button", { type: "button", "aria-pressed": "false", title: STATES[state] ?? "" });
    button.addEventListener("click", () => {
      this.selected = state;
      this.filter();
    });
    return button;
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
  COLUMNS.forEach(([, , text], i) => setText(row.cells[i].firstChild, text(client, name)));
  row.cells[1].title = STATES[client.state] ?? "";
  setText(row.cells[1].lastChild, truncate(client.why ?? "", 200));
}

function rejected(client) {
  const reasons = Object.entries(client.refused ?? {}).map(([reason, n]) => `${count(n)} ${truncate(reason, 40)}`);
  const others = ["clipped", "dropped"].filter((key) => client[key]).map((key) => `${count(client[key])} ${key}`);
  return [...reasons, ...others].join(", ") || "0";
}
