// The page of an agent: what it is told, and how it is drawn.

import { drawCharts } from "./charts.js";
import { asking, start, unlocked } from "./hands.js";
import { button, byId, clock, element, plain, redraw, share, size } from "./pieces.js";

const TAIL = 200_000; // characters of a log that are kept on the page
const EVENTS = 200; // events that are kept on the page

const UNDER_WAY = { running: 0, booting: 1, queued: 2 }; // phases of a run that has not ended, in the order of the queue

const state = { agent: {}, items: new Map(), held: [], errors: [], waiting: [], usage: {}, open: null, log: null };

const keyOf = (item) => `${item.kind}/${item.name}`;

function kindOf(item) {
  const is = (type) => item.conditions.some((one) => one.type === type && one.status);
  if (is("Stalled")) return "bad";
  return is("Ready") ? "good" : "wait";
}

// The table of names

function row(item) {
  const made = document.createElement("tr");
  const use = state.usage[item.uid] ?? {};
  const commit = item.source?.commit?.slice(0, 8) ?? "–";
  made.dataset.key = keyOf(item);
  made.tabIndex = -1;
  made.append(
    element("td", item.name),
    element("td", item.phase, kindOf(item)),
    element("td", share(use.cpu), "number"),
    element("td", size(use.resident_bytes), "number"),
    element("td", item.message ? `${item.reason}: ${item.message}` : item.reason),
    element("td", commit),
  );
  made.firstChild.title = item.kind;
  return made;
}

function shown() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (item) => {
    const text = `${item.name} ${item.kind} ${item.phase} ${item.reason} ${item.message}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
  return [...state.items.values()].filter(fits).sort((a, b) => keyOf(a).localeCompare(keyOf(b)));
}

function drawNames() {
  const items = shown();
  const body = byId("names").tBodies[0];
  redraw(body, items.map(row));
  const rows = [...body.rows];
  for (const one of rows) one.setAttribute("aria-selected", String(one.dataset.key === state.open));
  // One of them is reached by Tab, the others from there.
  const reached = rows.find((one) => one === document.activeElement) ?? rows[0];
  if (reached) reached.tabIndex = 0;
  byId("names-count").textContent = `${items.length} of ${state.items.size}`;
  byId("none").hidden = state.items.size > 0;
}

// What is beside it

function drawHeader() {
  const source = state.agent.source ?? {};
  const commit = source.commit ? ` at ${source.commit.slice(0, 12)}` : "";
  const fetched = source.fetched_at ? `, fetched ${clock(source.fetched_at)}` : "";
  const still = state.agent.suspended_at ? " – suspended: nothing is done" : "";
  byId("source").textContent = `${source.location ?? "no source yet"}${commit}${fetched}${still}`;
  byId("host").textContent = location.host;
  redraw(byId("asks"), !unlocked() ? [] : [
    asking("Look now", "reconcile"),
    state.agent.suspended_at ? asking("Resume", "resume") : asking("Suspend", "suspend"),
  ]);
}

function drawJobs() {
  const jobs = [...state.items.values()].filter((one) => one.kind === "job");
  const rank = (job) => UNDER_WAY[job.phase] ?? 3;
  jobs.sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
  redraw(byId("jobs"), jobs.map((job) => {
    const line = element("li");
    line.append(button(job.name, keyOf(job), () => choose(keyOf(job))), element("span", job.phase, kindOf(job)), element("small", ` ${job.message}`));
    return line;
  }));
  const live = jobs.filter((job) => job.phase in UNDER_WAY).length;
  byId("jobs-count").textContent = `${live} under way or waiting`;
}

// What waits for a person's approval: each id, and what is said of it by the agent itself. What documents make it say
// has their file, or another reason.
function approvable() {
  const said = [
    ...state.waiting.filter((one) => one.reason === "ApprovalNeeded"),
    ...state.errors.filter((one) => !one.file),
  ];
  return new Map(said.flatMap(({ message }) => {
    const id = /\(`holdfast approve ([0-9a-f]+)` lets it pass\)$/.exec(message)?.[1];
    return id ? [[id, message]] : [];
  }));
}

function drawHeld() {
  const place = (one) => (one.file ? `${one.file}${one.line ? `:${one.line}:${one.column ?? 1}` : ""}` : "");
  const line = (one, kind) => {
    const made = element("li", "", "");
    made.append(element("strong", one.name ?? ""), element("code", ` ${place(one)} `), element("span", one.message, kind));
    return made;
  };
  const told = new Set([...state.errors, ...state.held].map((one) => one.name));
  const known = (one) => !told.has(one.name);
  const approvals = [...(unlocked() ? approvable() : [])].map(([id, message]) => {
    const made = element("li");
    made.append(asking(`Approve ${id}`, "approve", { query: { id }, question: `${message}\n\nApprove?` }));
    return made;
  });
  const lines = [
    ...state.errors.map((one) => line(one, "bad")),
    ...state.held.map((one) => line(one, "bad")),
    ...state.waiting.filter(known).map((one) => line({ ...one, message: `${one.reason}: ${one.message}` }, "wait")),
  ];
  redraw(byId("held"), [...approvals, ...lines]);
  byId("held-count").textContent = String(lines.length);
}

function addEvent(event) {
  const line = element("li");
  const at = element("time", clock(event.at));
  at.dateTime = event.at;
  line.append(at, element("strong", `${event.name ?? ""} ${event.reason} `), element("span", event.message));
  byId("events").prepend(line);
  while (byId("events").childElementCount > EVENTS) byId("events").lastChild.remove();
}

// One name

function choose(key) {
  state.open = key;
  state.log = null;
  byId("detail").hidden = key === null;
  drawNames();
  if (key === null) return;
  drawDetail();
  const item = state.items.get(key);
  showLog(item?.kind === "job" ? "log" : "console");
  drawUse();
  byId("detail").scrollIntoView({ block: "nearest" });
}

function drawDetail() {
  const item = state.items.get(state.open);
  if (!item) return choose(null);
  byId("detail-title").textContent = `${item.kind} ${item.name}`;
  byId("detail-message").textContent = `${item.reason}${item.message ? `: ${item.message}` : ""}`;
  byId("detail-message").className = kindOf(item);
  const ready = item.conditions.find((one) => one.type === "Ready");
  const facts = {
    phase: item.phase,
    since: clock(ready?.since),
    image: item.image,
    pid: item.pid,
    ssh: item.ssh ? `${item.ssh.user}@${item.ssh.host}:${item.ssh.port}` : null,
    ports: (item.ports ?? []).map((one) => `${one.address}:${one.host} → ${one.guest}`).join(", "),
    restarts: item.restarts,
    "exit code": item.exit_code,
    document: item.source ? `${item.source.file}:${item.source.line}` : null,
    commit: item.source?.commit,
  };
  const pairs = Object.entries(facts).filter(([, value]) => value != null && value !== "");
  byId("facts").replaceChildren(...pairs.flatMap(([name, value]) => [element("dt", name), element("dd", String(value))]));
  redraw(byId("job-asks"), item.kind === "job" && unlocked() ? jobAsks(item) : []);
  redraw(byId("logs"), (item.kind === "job" ? ["log", "console"] : ["console", "qemu"]).map((log) => {
    const tab = button(log, log, () => showLog(log));
    tab.setAttribute("aria-pressed", String(state.log?.log === log));
    return tab;
  }));
}

function jobAsks(job) {
  const of = `jobs/${encodeURIComponent(job.name)}`;
  if (job.phase in UNDER_WAY) return [asking("Cancel", `${of}/cancel`, { question: `End the run of ${job.name}?` })];
  return [asking("Run again", `${of}/rerun`)];
}

function drawUse() {
  const key = state.open;
  const item = state.items.get(key);
  if (item) drawCharts(item.name, () => state.open === key);
}

// Logs

function showLog(log) {
  state.log = { log, file: "", offset: 0 };
  byId("log").textContent = "";
  drawDetail();
  readLog();
}

async function readLog() {
  const item = state.items.get(state.open);
  const reading = state.log;
  if (!item || !reading || reading.busy) return;
  reading.busy = true;
  try {
    const asked = new URLSearchParams({ log: reading.log, file: reading.file, offset: String(reading.offset) });
    const answer = await fetch(`/api/v1/logs/${encodeURIComponent(item.name)}?${asked}`);
    const told = await answer.json();
    if (state.log !== reading || !answer.ok) return;
    const view = byId("log");
    if (told.file !== reading.file) view.textContent = "";
    if (told.text) {
      const atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 40;
      view.textContent = (view.textContent + plain(told.text)).slice(-TAIL);
      if (atEnd) view.scrollTop = view.scrollHeight;
    }
    Object.assign(reading, { file: told.file, offset: told.offset });
  } finally {
    reading.busy = false;
  }
}

async function readUsage() {
  const answer = await fetch("/api/v1/usage");
  if (!answer.ok) return;
  state.usage = (await answer.json()).usage;
  drawNames();
  if (state.open) drawUse();
}

// What comes from the agent

function take(part) {
  for (const name of ["agent", "held", "errors", "waiting"]) if (name in part) state[name] = part[name];
  for (const [kind, name] of part.gone ?? []) state.items.delete(`${kind}/${name}`);
  for (const item of part.items ?? []) state.items.set(keyOf(item), item);
  draw();
}

function draw() {
  drawHeader();
  drawNames();
  drawJobs();
  drawHeld();
  if (state.open) drawDetail();
}

function listen() {
  const stream = new EventSource("/api/v1/stream");
  const say = (text, kind) => { byId("link").textContent = text; byId("link").className = kind; };
  stream.addEventListener("open", () => say("live", "good"));
  stream.addEventListener("error", () => {
    say("the agent does not answer; trying again …", "bad");
    // A browser connects again by itself, but not once it was answered with anything but a stream.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
  stream.addEventListener("status", (message) => { state.items.clear(); take(JSON.parse(message.data)); });
  stream.addEventListener("change", (message) => take(JSON.parse(message.data)));
  stream.addEventListener("event", (message) => addEvent(JSON.parse(message.data)));
}

// Hands

byId("filter").addEventListener("input", drawNames);
byId("close").addEventListener("click", () => choose(null));
byId("names").tBodies[0].addEventListener("click", (event) => {
  const key = event.target.closest("tr")?.dataset.key;
  if (key) choose(key);
});
document.addEventListener("keydown", (event) => {
  const rows = [...byId("names").tBodies[0].rows];
  const at = rows.indexOf(document.activeElement);
  if (event.key === "/" && document.activeElement !== byId("filter")) {
    event.preventDefault();
    byId("filter").focus();
  } else if (event.key === "Escape") {
    choose(null);
  } else if (event.key === "Enter" && at >= 0) {
    choose(rows[at].dataset.key);
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && (at >= 0 || document.activeElement === byId("filter"))) {
    event.preventDefault();
    const to = at + (event.key === "ArrowDown" ? 1 : -1);
    (rows[to] ?? byId("filter")).focus();
  }
});

start(draw);
listen();
readUsage();
setInterval(readUsage, 5000);
setInterval(readLog, 1000);
