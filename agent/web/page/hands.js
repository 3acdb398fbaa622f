// What a person with the agent's token can change. The token goes with each change in a header of its own, which no
// browser adds by itself, and is kept for this tab alone, until that is closed.

import { button, byId } from "./pieces.js";

const KEPT = "token";
let token = null;
let changed = () => {};

export const unlocked = () => token !== null;

// A button that asks the agent for a change, after a `question` if there is one.
export function asking(text, path, { query = {}, question = "" } = {}) {
  return button(text, `ask/${path}`, async () => {
    if (question && !confirm(question)) return;
    tell(`${text} …`);
    const answer = await ask(path, query);
    if (answer) tell(answer.ok ? `${text}: done` : answer.why, answer.ok ? "good" : "bad");
  });
}

async function ask(path, query = {}, said = token) {
  try {
    const answer = await fetch(`/api/v1/${path}?${new URLSearchParams(query)}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${said}` },
    });
    const told = await answer.json();
    if (answer.status === 401) lock();
    return { ok: answer.ok, why: told.hint ? `${told.error} (${told.hint})` : told.error };
  } catch (error) {
    return { ok: false, why: `the agent was not asked: ${error.message}` };
  }
}

function tell(text, kind = "") {
  byId("said").textContent = text;
  byId("said").className = kind;
}

function lock() {
  token = null;
  sessionStorage.removeItem(KEPT);
  show();
}

async function unlock(said) {
  const answer = await ask("token", {}, said);
  if (!answer.ok) return tell(answer.why, "bad");
  token = said;
  sessionStorage.setItem(KEPT, said);
  tell("unlocked", "good");
  show();
}

function show() {
  byId("unlock").hidden = unlocked();
  byId("hands").hidden = !unlocked();
  changed();
}

export function start(redraw) {
  changed = redraw;
  byId("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    const said = byId("token").value.trim();
    byId("token").value = "";
    if (said) unlock(said);
  });
  byId("lock").addEventListener("click", () => { lock(); tell(""); byId("token").focus(); });
  const kept = sessionStorage.getItem(KEPT);
  if (kept) unlock(kept);
}
