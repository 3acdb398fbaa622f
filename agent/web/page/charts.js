// The courses of what one name has used in the last hour.

import { byId, element, share, size } from "./pieces.js";

const CHARTS = [
  ["CPU", "cpu", share],
  ["Memory", "resident_bytes", size],
  ["Free in the guest", "guest_available_bytes", size],
  ["Disk", "allocated_bytes", size],
  ["Written", "written_bytes", (value) => `${size(value)}/s`],
  ["Read", "read_bytes", (value) => `${size(value)}/s`],
];
const SVG = "http://www.w3.org/2000/svg";

// `still` tells whether they are still wanted once the figures have come.
export async function drawCharts(name, still) {
  const answer = await fetch(`/api/v1/metrics/${encodeURIComponent(name)}?since=1h`);
  if (!answer.ok || !still()) return;
  const { samples } = await answer.json();
  byId("charts").replaceChildren(...CHARTS.flatMap(([title, field, say]) => {
    const points = samples.filter((one) => one[field] != null).map((one) => [Date.parse(one.at), one[field]]);
    return points.length < 2 ? [] : [chart(title, points, say)];
  }));
}

function chart(title, points, say) {
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const top = Math.max(...points.map(([, value]) => value)) || 1;
  const x = (at) => (100 * (at - first) / Math.max(1, last - first)).toFixed(2);
  const y = (value) => (38 - 36 * value / top).toFixed(2);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ${say(points.at(-1)[1])} now, ${say(top)} at most`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", points.map(([at, value], n) => `${n ? "L" : "M"}${x(at)} ${y(value)}`).join(""));
  svg.append(path);
  const made = element("figure");
  const caption = element("figcaption");
  caption.append(element("span", title), element("span", `${say(points.at(-1)[1])} (most ${say(top)})`));
  made.append(caption, svg);
  return made;
}
