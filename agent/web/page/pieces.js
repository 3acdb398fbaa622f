// What every part of the page is made of. Whatever is shown of documents and guests is set as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// A button that keeps the focus when what it stands in is drawn anew.
export function button(text, key, act) {
  const made = element("button", text);
  made.type = "button";
  made.dataset.key = key;
  made.addEventListener("click", act);
  return made;
}

export function redraw(container, children) {
  const focused = container.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  container.replaceChildren(...children);
  if (focused) [...container.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused)?.focus();
}

export const size = (bytes) => {
  if (bytes == null) return "–";
  for (const [unit, one] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (bytes >= one) return `${(bytes / one).toFixed(bytes < 10 * one ? 1 : 0)} ${unit}`;
  }
  return `${Math.round(bytes)} B`;
};

export const share = (cores) => (cores == null ? "–" : `${Math.round(100 * cores)}%`);

export const clock = (at) => (at ? new Date(at).toLocaleString() : "–");

// Escape sequences are for terminals; of what else is no text, its number is shown.
export const plain = (text) => text
  .replace(/\r\n/g, "\n")
  .replace(/\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])/g, "")
  .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
