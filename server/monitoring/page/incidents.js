// Incidents, newest first; each expands to the features that explain it.

import { arrange, byId, make, setText, setVisible } from "./dom.js";
import { count, number, percent, seconds, timestamp, truncate } from "./format.js";

/** The section with the incidents. */
export class Incidents {
  constructor() {
    this.items = new Map();
    this.expanded = false;  // whether an incident was ever expanded automatically
  }

  /** Show the incidents of an answer of `/incidents`; return how many are open. */
  set({ incidents, accepts_notices: acceptsNotices }) {
    const none = byId("incidents-none");
    setText(none, acceptsNotices ? "No incident has been reported." :
      "This server accepts no notices, because server.alerts_token is not set. Clients send them to their other sinks.");
    setVisible(none, !incidents.length);
    const sorted = [...incidents].sort((a, b) => b.open - a.open || b.updated_at - a.updated_at);
    const items = new Map();
    for (const incident of sorted) {
      const key = JSON.stringify([incident.client, incident.id]), content = JSON.stringify(incident);
      const item = this.items.get(key) ?? { element: make("details") };
      if (item.content !== content) fill(item.element, incident);
      items.set(key, { ...item, content });
    }
    this.items = items;
    const elements = [...items.values()].map((item) => item.element);
    if (!this.expanded && elements.length) {
      elements[0].open = this.expanded = true;
    }
    arrange(byId("incident-list"), elements);
    return incidents.filter((incident) => incident.open).length;
  }
}

// What a notice of each kind is called; a kind that is not here is shown by its own name.
const CHIPS = {
  incident_started: "open", incident_ended: "ended", regime_changed: "open: new level", adapted: "adapted",
  flapping: "flapping", sensor_silent: "sensor silent", sensor_stuck: "sensor stuck",
  stream_silent: "stream silent", events_refused: "events refused",
};

function fill(element, incident) {
  const { alert, text } = incident;
  const first = alert?.causes[0];
  const what = first ? `${truncate(first.feature, 60)} ${percent(first.share)}` : alert ? "no cause" : truncate(text ?? "", 80);
  element.dataset.open = incident.open;
  element.replaceChildren(
    make("summary", {},
      make("span", { class: "chip" }, CHIPS[incident.kind] ?? incident.kind),
      make("strong", {}, truncate(incident.client, 64)),
      make("span", { class: "cause" }, what),
      make("time", {}, timestamp(incident.received_at))),
    ...(text ? [make("p", { class: "text" }, text)] : []),
    make("p", { class: "facts" }, [...(alert ? scores(incident) : []), duration(incident)].filter(Boolean).join(" · ")),
    ...(alert ? [make("table", {},
      make("thead", {}, make("tr", {}, ...["Feature", "Share of error", "Value", "Expected"].map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, ...alert.causes.map(cause)))] : []));
}

function scores({ alert, events }) {
  return [
    alert.threshold > 0 ? `${number(alert.score / alert.threshold, 3)} times the threshold` : "",
    `score ${number(alert.score)}, threshold ${number(alert.threshold)}`, `version ${count(alert.version)}`,
    `${count(events)} ${events === 1 ? "alert" : "alerts"}`,
  ];
}

function cause({ feature, share, value, expected }) {
  return make("tr", {},
    make("th", { scope: "row" }, truncate(feature)),
    make("td", { class: "share" }, make("meter", { min: 0, max: 1, value: share ?? 0, "aria-hidden": "true" }), make("span", {}, percent(share))),
    make("td", {}, number(value)), make("td", {}, number(expected)));
}

function duration({ open, started, ended }) {
  if (open || ended === null) return `since ${timestamp(started)} in the stream's time`;
  return `${timestamp(started)} in the stream's time, lasted ${seconds(Math.max(0, ended - started))}`;
}
