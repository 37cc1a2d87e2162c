// Incidents, newest first: each opens to what explains it.

import { arrange, byId, make, say, show } from "./dom.js";
import { brief, count, moment, number, percent, seconds } from "./format.js";

/** The section of incidents. */
export class Incidents {
  constructor() {
    this.items = new Map();
    this.opened = false;
  }

  set({ incidents, taken }) {
    const none = byId("incidents-none");
    say(none, taken ? "No edge has told of an incident." :
      "This server takes no alerts: server.alerts_token is not set. The edges tell their own sinks.");
    show(none, !incidents.length);
    const wanted = [...incidents].sort((a, b) => b.open - a.open || b.heard_at - a.heard_at);
    const kept = new Map();
    for (const incident of wanted) {
      const key = JSON.stringify([incident.client, incident.id]), said = JSON.stringify(incident);
      const item = this.items.get(key) ?? { element: make("details") };
      if (item.said !== said) fill(item.element, incident);
      kept.set(key, { ...item, said });
    }
    this.items = kept;
    const elements = [...kept.values()].map((item) => item.element);
    if (!this.opened && elements.length) {
      elements[0].open = this.opened = true;
    }
    arrange(byId("incident-list"), elements);
    return incidents.filter((incident) => incident.open).length;
  }
}

function fill(element, incident) {
  const { alert } = incident;
  const [first] = alert.causes;
  const ratio = alert.threshold > 0 ? `${number(alert.score / alert.threshold, 3)} times the threshold` : "";
  element.dataset.open = incident.open;
  element.replaceChildren(
    make("summary", {},
      make("span", { class: "chip" }, incident.open ? "open" : "ended"),
      make("strong", {}, brief(incident.client, 64)),
      make("span", { class: "cause" }, first ? `${brief(first.feature, 60)} ${percent(first.share)}` : "no cause named"),
      make("time", {}, moment(incident.received_at))),
    make("p", { class: "facts" }, [
      ratio, `score ${number(alert.score)}, threshold ${number(alert.threshold)}`, `version ${count(alert.version)}`,
      `${count(incident.events)} ${incident.events === 1 ? "event" : "events"}`, span(incident),
    ].filter(Boolean).join(" · ")),
    make("table", {},
      make("thead", {}, make("tr", {}, ...["Feature", "Share", "Seen", "Expected"].map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, ...alert.causes.map(cause))));
}

function cause({ feature, share, value, expected }) {
  return make("tr", {},
    make("th", { scope: "row" }, brief(feature)),
    make("td", { class: "share" }, make("meter", { min: 0, max: 1, value: share ?? 0, "aria-hidden": "true" }), make("span", {}, percent(share))),
    make("td", {}, number(value)), make("td", {}, number(expected)));
}

function span({ open, started, ended }) {
  if (open) return `since ${moment(started)} of the stream`;
  return `${moment(started)} of the stream, lasted ${seconds(Math.max(0, ended - started))}`;
}
