// What a chart says under the pointer: every shown line's value there, read back from its points.
const said = document.getElementById("said");
const short = (value) => {
  for (const [prefix, scale] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]])
    if (Math.abs(value) >= scale) return Number((value / scale).toPrecision(4)) + prefix;
  return String(Number(value.toPrecision(4)));
};

function say(event) {
  const chart = event.currentTarget, box = chart.getBoundingClientRect();
  const [left, right, top, bottom] = chart.dataset.area.split(" ").map(Number);
  const [x0, x1, y0, y1] = chart.dataset.edges.split(" ").map(Number);
  const across = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
  const value = (up) => {
    const share = (bottom - up) / (bottom - top);
    return chart.dataset.logarithmic ? y0 * (y1 / y0) ** share : y0 + share * (y1 - y0);
  };
  said.replaceChildren();
  let place = null;
  for (const line of chart.querySelectorAll("polyline:not(.faint)")) {
    if (getComputedStyle(line).display === "none") continue;
    let near = null;
    for (const point of line.points)
      if (near === null || Math.abs(point.x - across) < Math.abs(near.x - across)) near = point;
    if (Math.abs(near.x - across) > 20) continue;
    if (place === null || Math.abs(near.x - across) < Math.abs(place - across)) place = near.x;
    const row = document.createElement("div"), colour = document.createElement("i");
    row.className = line.getAttribute("class");
    row.append(colour, ` ${short(value(near.y))}${chart.dataset.unit}  ${line.dataset.name}`);
    said.append(row);
  }
  const rule = chart.querySelector(".rule");
  if (place === null) return hush(event);
  rule.setAttribute("x1", place);
  rule.setAttribute("x2", place);
  rule.style.visibility = "visible";
  const head = document.createElement("strong");
  head.textContent = `${short(x0 + (place - left) / (right - left) * (x1 - x0))} ${chart.dataset.axis}`;
  said.prepend(head);
  said.hidden = false;
  const width = said.offsetWidth, room = document.documentElement.clientWidth;
  said.style.left = `${Math.max(4, Math.min(event.clientX + 14, room - width - 8))}px`;
  said.style.top = `${Math.max(4, event.clientY - said.offsetHeight - 14)}px`;
}

function hush(event) {
  said.hidden = true;
  event.currentTarget.querySelector(".rule").style.visibility = "hidden";
}

for (const chart of document.querySelectorAll("svg.chart")) {
  chart.addEventListener("pointermove", say);
  chart.addEventListener("pointerleave", hush);
}
