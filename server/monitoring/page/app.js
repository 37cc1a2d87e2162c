// Asks the server every second for what is new, and says plainly when it does not answer.

import { Chart } from "./chart.js";
import { Clients } from "./clients.js";
import { byId, make, say, show } from "./dom.js";
import { bytes, count, moment, number, seconds } from "./format.js";
import { Incidents } from "./incidents.js";

const EVERY_MS = 1000, ANSWER_WITHIN_MS = 8000, SILENT_S = 10, MOST_ROUNDS = 2000;

const chart = new Chart(byId("chart"), byId("readout"));
const clients = new Clients();
const incidents = new Incidents();
const figures = new Map();
let rounds = [], newest = 0, heard = null, tag = "", open = 0;
chart.set(rounds);

async function ask(path) {
  const answer = await fetch(path, { cache: "no-cache", signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
  if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 300) || `${path}: ${answer.status}`);
  return answer;
}

async function refresh() {
  let status;
  try {
    status = await (await ask("status")).json();
  } catch (error) {
    return lost(error);
  }
  heard = Date.now();
  show(byId("lost"), false);
  document.body.classList.remove("lost");
  say(byId("updated"), `live · ${moment(heard / 1000)}`);
  const past = await Promise.allSettled([readRounds(), readIncidents()]);
  const troubles = past.filter((p) => p.reason).map((p) => `The history cannot be read: ${p.reason.message}`);
  present(status, [...new Set(troubles)]);
}

async function readRounds() {
  const found = await (await ask(`rounds?after=${newest}`)).json();
  if (found.newest < newest) {  // another database, or an empty one
    rounds = [];
    newest = 0;
    chart.set(rounds);
    return readRounds();
  }
  if (!found.rounds.length) return;
  rounds = [...rounds, ...found.rounds].slice(-MOST_ROUNDS);
  newest = rounds.at(-1).rowid;
  chart.set(rounds);
}

async function readIncidents() {
  const answer = await ask("incidents");
  const now = answer.headers.get("ETag");
  if (now === tag) return;
  open = incidents.set(await answer.json());
  tag = now;
}

function present(status, troubles) {
  const all = Object.values(status.clients);
  const here = all.filter((c) => !["gone", "refused"].includes(c.state)).length;
  const total = (key) => all.reduce((sum, client) => sum + (client[key] ?? 0), 0);
  const round = rounds.filter((r) => r.kind === "train").at(-1);
  figure("Version", count(status.version), status.held && status.buffer ? `${status.held} of ${status.buffer} updates for the next` : "");
  figure("Error", number(status.error), typeof status.best_error === "number" ? `best ${number(status.best_error)}` : "");
  figure("Clients", `${here}`, `of ${all.length} known`);
  figure("Last round", seconds(round?.wall_s), round ? `${round.answered} of ${round.sampled} answered` : "");
  const up = total("sent_bytes"), down = total("received_bytes");
  figure("Traffic", bytes(up + down), `${bytes(up)} up, ${bytes(down)} down`);
  figure("Open incidents", count(open), "");
  figures.get("Open incidents").dataset.alarm = open > 0;
  say(byId("run"), status.mode ? `${status.mode} · ${status.strategy}` : "starting");
  say(byId("waiting"), status.waiting ? `Waiting: ${status.waiting}` : "");
  warn([
    ...(status.stopped ? [`The run has ended: ${status.stopped}.`] : status.ending ? [`The run ends: ${status.ending}.`] : []),
    ...(status.superlink === "up" ? [] : ["SuperLink is down: no client reaches the server. It is started again."]),
    ...(status.silent_s > SILENT_S && !status.stopped ? [`The ServerApp has been silent for ${seconds(status.silent_s)}: states of clients are as old.`] : []),
    ...troubles,
  ]);
  clients.set(status.clients);
  document.title = `${open ? `(${open}) ` : ""}version ${count(status.version)} · flockwatch`;
}

function figure(title, value, more) {
  if (!figures.has(title)) {
    const made = make("div", {}, make("dt", {}, title), make("dd"), make("dd", { class: "more" }));
    figures.set(title, made);
    byId("figures").append(made);
  }
  const [, shown, under] = figures.get(title).children;
  say(shown, value);
  say(under, more);
}

function warn(texts) {
  const list = byId("warnings");
  if (JSON.stringify(texts) === list.dataset.said) return;
  list.dataset.said = JSON.stringify(texts);
  list.replaceChildren(...texts.map((text) => make("li", {}, text)));
}

function lost(error) {
  const since = heard ? `What stands here is of ${moment(heard / 1000)}.` : "";
  say(byId("lost"), `The server cannot be reached (${error.message}). ${since} Trying again every second.`);
  show(byId("lost"), true);
  say(byId("updated"), "not live");
  document.body.classList.add("lost");
}

async function live() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((done) => setTimeout(done, EVERY_MS));
  }
}

live();
