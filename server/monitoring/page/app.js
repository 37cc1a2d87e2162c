// Polls the server every second, updates the page, and reports when the server does not answer.

import { Chart } from "./chart.js";
import { Clients } from "./clients.js";
import { byId, make, setText, setVisible } from "./dom.js";
import { bytes, count, number, seconds, timestamp } from "./format.js";
import { Incidents } from "./incidents.js";

const POLL_MS = 1000, TIMEOUT_MS = 8000, SILENT_S = 10, MAX_ROUNDS = 2000;

const chart = new Chart(byId("chart"), byId("readout"));
const clients = new Clients();
const incidents = new Incidents();
const figures = new Map();
let rounds = [], newestRound = 0, lastAnswerAt = null, incidentsTag = "", openIncidents = 0;
chart.set(rounds);

async function request(path) {
  const response = await fetch(path, { cache: "no-cache", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Error((await response.text()).trim().slice(0, 300) || `${path}: ${response.status}`);
  return response;
}

async function refresh() {
  let status;
  try {
    status = await (await request("status")).json();
  } catch (error) {
    return showDisconnected(error);
  }
  lastAnswerAt = Date.now();
  setVisible(byId("disconnected"), false);
  document.body.classList.remove("disconnected");
  setText(byId("updated"), `live · ${timestamp(lastAnswerAt / 1000)}`);
  const results = await Promise.allSettled([readRounds(), readIncidents()]);
  const problems = results.filter((r) => r.reason).map((r) => `The history cannot be read: ${r.reason.message}`);
  showStatus(status, [...new Set(problems)]);
}

async function readRounds() {
  const answer = await (await request(`rounds?after=${newestRound}`)).json();
  if (answer.newest < newestRound) {  // the database was replaced or emptied
    rounds = [];
    newestRound = 0;
    chart.set(rounds);
    return readRounds();
  }
  if (!answer.rounds.length) return;
  rounds = [...rounds, ...answer.rounds].slice(-MAX_ROUNDS);
  newestRound = rounds.at(-1).rowid;
  chart.set(rounds);
}

async function readIncidents() {
  const response = await request("incidents");
  const tag = response.headers.get("ETag");
  if (tag === incidentsTag) return;
  openIncidents = incidents.set(await response.json());
  incidentsTag = tag;
}

function showStatus(status, problems) {
  const all = Object.values(status.clients);
  const connected = all.filter((c) => !["gone", "refused", "enrolled"].includes(c.state)).length;
  const total = (key) => all.reduce((sum, client) => sum + (client[key] ?? 0), 0);
  const round = rounds.filter((r) => r.kind === "train").at(-1);
  setFigure("Model version", count(status.version), status.held && status.buffer ? `${status.held} of ${status.buffer} updates for the next` : "");
  setFigure("Error", number(status.error), typeof status.best_error === "number" ? `best ${number(status.best_error)}` : "");
  setFigure("Clients", `${connected}`, `of ${all.length} known`);
  setFigure("Last round", seconds(round?.wall_s), round ? `${round.answered} of ${round.sampled} answered` : "");
  const up = total("sent_bytes"), down = total("received_bytes");
  setFigure("Traffic", bytes(up + down), `${bytes(up)} up, ${bytes(down)} down`);
  setFigure("Open incidents", count(openIncidents), "");
  figures.get("Open incidents").dataset.alarm = openIncidents > 0;
  setText(byId("run"), status.mode ? `${status.mode} · ${status.strategy}` : "starting");
  setText(byId("waiting"), status.waiting ? `Waiting: ${status.waiting}` : "");
  showWarnings([
    ...(status.stopped ? [`The run has ended: ${status.stopped}.`] : status.ending ? [`The run is ending: ${status.ending}.`] : []),
    ...(status.superlink === "up" ? [] : ["SuperLink is down, so clients cannot connect. The server is restarting it."]),
    ...(status.silent_s > SILENT_S && !status.stopped ? [`The ServerApp has not written its status for ${seconds(status.silent_s)}; the values below may be out of date.`] : []),
    ...problems,
  ]);
  clients.set(status.clients);
  document.title = `${openIncidents ? `(${openIncidents}) ` : ""}version ${count(status.version)} · flockwatch`;
}

function setFigure(title, value, details) {
  if (!figures.has(title)) {
    const element = make("div", {}, make("dt", {}, title), make("dd"), make("dd", { class: "more" }));
    figures.set(title, element);
    byId("figures").append(element);
  }
  const [, valueElement, detailsElement] = figures.get(title).children;
  setText(valueElement, value);
  setText(detailsElement, details);
}

function showWarnings(texts) {
  const list = byId("warnings");
  if (JSON.stringify(texts) === list.dataset.texts) return;
  list.dataset.texts = JSON.stringify(texts);
  list.replaceChildren(...texts.map((text) => make("li", {}, text)));
}

function showDisconnected(error) {
  const age = lastAnswerAt ? `The values below are from ${timestamp(lastAnswerAt / 1000)}.` : "";
  setText(byId("disconnected"), `The server does not answer (${error.message}). ${age} Retrying every second.`);
  setVisible(byId("disconnected"), true);
  setText(byId("updated"), "not live");
  document.body.classList.add("disconnected");
}

async function poll() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}

poll();
