// The page of an agent. Whatever it shows of documents and guests it sets as text, and never as a part of the page.

const TAIL = 200_000; // characters of a log that are kept on the page
const EVENTS = 200; // events that are kept on the page
const byId = (id) => document.getElementById(id);

const state = { agent: {}, items: new Map(), held: [], errors: [], waiting: [], usage: {}, open: null, log: null };

// Pieces

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

const keyOf = (item) => `${item.kind}/${item.name}`;
const size = (bytes) => {
  if (bytes == null) return "–";
  for (const [unit, one] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (bytes >= one) return `${(bytes / one).toFixed(bytes < 10 * one ? 1 : 0)} ${unit}`;
  }
  return `${Math.round(bytes)} B`;
};
const share = (cores) => (cores == null ? "–" : `${Math.round(100 * cores)}%`);
const clock = (at) => (at ? new Date(at).toLocaleString() : "–");

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
  const focused = document.activeElement?.dataset?.key;
  body.replaceChildren(...items.map(row));
  for (const one of body.rows) {
    one.setAttribute("aria-selected", String(one.dataset.key === state.open));
    if (one.dataset.key === focused) one.focus();
  }
  if (body.rows.length && !focused) body.rows[0].tabIndex = 0;
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
}

function drawJobs() {
  const jobs = [...state.items.values()].filter((one) => one.kind === "job");
  const rank = { running: 0, booting: 1, queued: 2 };
  jobs.sort((a, b) => (rank[a.phase] ?? 3) - (rank[b.phase] ?? 3) || a.name.localeCompare(b.name));
  byId("jobs").replaceChildren(...jobs.map((job) => {
    const line = element("li");
    const open = element("button", job.name);
    open.type = "button";
    open.addEventListener("click", () => choose(keyOf(job)));
    line.append(open, element("span", job.phase, kindOf(job)), element("small", ` ${job.message}`));
    return line;
  }));
  const live = jobs.filter((job) => job.phase in rank).length;
  byId("jobs-count").textContent = `${live} under way or waiting`;
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
  const lines = [
    ...state.errors.map((one) => line(one, "bad")),
    ...state.held.map((one) => line(one, "bad")),
    ...state.waiting.filter(known).map((one) => line({ ...one, message: `${one.reason}: ${one.message}` }, "wait")),
  ];
  byId("held").replaceChildren(...lines);
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
  drawCharts();
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
  byId("logs").replaceChildren(...(item.kind === "job" ? ["log", "console"] : ["console", "qemu"]).map((log) => {
    const tab = element("button", log);
    tab.type = "button";
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(state.log?.log === log));
    tab.addEventListener("click", () => showLog(log));
    return tab;
  }));
}

async function drawCharts() {
  const item = state.items.get(state.open);
  if (!item) return;
  const key = state.open;
  const answer = await fetch(`/api/v1/metrics/${encodeURIComponent(item.name)}?since=1h`);
  if (!answer.ok || state.open !== key) return;
  const { samples } = await answer.json();
  const charts = [
    ["CPU", "cpu", share],
    ["Memory", "resident_bytes", size],
    ["Free in the guest", "guest_available_bytes", size],
    ["Disk", "allocated_bytes", size],
    ["Written", "written_bytes", (value) => `${size(value)}/s`],
    ["Read", "read_bytes", (value) => `${size(value)}/s`],
  ];
  byId("charts").replaceChildren(...charts.flatMap(([title, field, say]) => {
    const points = samples.filter((one) => one[field] != null).map((one) => [Date.parse(one.at), one[field]]);
    return points.length < 2 ? [] : [chart(title, points, say)];
  }));
}

function chart(title, points, say) {
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const top = Math.max(...points.map(([, value]) => value)) || 1;
  const x = (at) => (100 * (at - first) / Math.max(1, last - first)).toFixed(2);
  const y = (value) => (38 - 36 * value / top).toFixed(2);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ${say(points.at(-1)[1])} now, ${say(top)} at most`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", points.map(([at, value], n) => `${n ? "L" : "M"}${x(at)} ${y(value)}`).join(""));
  svg.append(path);
  const made = element("figure");
  const caption = element("figcaption");
  caption.append(element("span", title), element("span", `${say(points.at(-1)[1])} (most ${say(top)})`));
  made.append(caption, svg);
  return made;
}

// Logs

function showLog(log) {
  state.log = { log, file: "", offset: 0 };
  byId("log").textContent = "";
  drawDetail();
  readLog();
}

// Escape sequences are for terminals; of what else is no text, its number is shown.
const plain = (text) => text
  .replace(/\r\n/g, "\n")
  .replace(/\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])/g, "")
  .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

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
  if (state.open) drawCharts();
}

// What comes from the agent

function take(part) {
  for (const name of ["agent", "held", "errors", "waiting"]) if (name in part) state[name] = part[name];
  for (const [kind, name] of part.gone ?? []) state.items.delete(`${kind}/${name}`);
  for (const item of part.items ?? []) state.items.set(keyOf(item), item);
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
  stream.addEventListener("error", () => say("the agent does not answer; trying again …", "bad"));
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

listen();
readUsage();
setInterval(readUsage, 5000);
setInterval(readLog, 1000);
