// What the reader chose, and everything drawn anew from it.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const protocols = data.protocols.filter((protocol) => protocol.rows.alignment.length);
const view = { sort: { key: "", direction: 1 }, numShown: ROWS_A_PAGE, hidden: new Map(), pinned: null, active: null };

function choose(select, entries, value) {
  select.replaceChildren(...entries.map(([key, label]) => make("option", { value: key }, label)));
  select.value = value;
}

function chooseProtocol(position) {
  const protocol = protocols[position];
  const names = protocol.metrics.map((metric) => metric.name);
  const prefer = (wanted) => wanted.find((name) => names.includes(name)) ?? names[0];
  const hasMeans = protocol.means.alignment.length > 0;
  Object.assign(view, { protocol, hidden: new Map() });
  const entries = protocol.metrics.map((metric) => [metric.name, metric.label]);
  choose(byId("metric-x"), entries, prefer(["rfid", "psnr"]));
  choose(byId("metric-y"), entries, prefer(["gfid"]));
  byId("mode").querySelector("[value=means]").disabled = !hasMeans;
  byId("mode").value = hasMeans ? "means" : "rows";
  chooseMode();
}

function chooseMode() {
  view.mode = byId("mode").value;
  view.set = view.protocol[view.mode];
  view.sort = { key: view.protocol.metrics.some((m) => m.name === "gfid") ? "gfid" : "", direction: 1 };
  Object.assign(view, { pinned: null, active: null, numShown: ROWS_A_PAGE });
  drawFilters(byId("filters"), view, filter);
  chooseMetrics();
}

function chooseMetrics() {
  const find = (name) => view.protocol.metrics.find((metric) => metric.name === name);
  view.x = find(byId("metric-x").value);
  view.y = find(byId("metric-y").value);
  byId("log-x").checked = view.x.log;
  byId("log-y").checked = view.y.log;
  redraw();
}

function filter() {
  Object.assign(view, { pinned: null, active: null, numShown: ROWS_A_PAGE });
  redraw();
}

function redraw() {
  view.logX = byId("log-x").checked;
  view.logY = byId("log-y").checked;
  const isFrontier = view.x.name === "rfid" && view.y.name === "gfid";
  view.published = isFrontier ? view.protocol.published : [];
  const passing = listPassing(view);
  const points = [];
  for (const index of passing) {
    const [x, y] = [view.set.metrics[view.x.name][index], view.set.metrics[view.y.name][index]];
    if (x === null || y === null || (view.logX && x <= 0) || (view.logY && y <= 0)) continue;
    points.push({ index, x, y });
  }
  const shown = drawPlot(byId("plot"), view, points, { hover: activate, leave: release, focus: activate, pin });
  drawLegend(byId("legend"), view);
  view.order = [...shown].sort((a, b) => a.x - b.x || a.y - b.y).map((point) => point.index);
  const first = byId("plot").querySelector(`[data-index="${view.order[0]}"]`);
  if (first) first.setAttribute("tabindex", 0);
  byId("filter-count").textContent = `(${passing.length.toLocaleString("en")} of ${view.set.alignment.length.toLocaleString("en")} points)`;
  byId("explore-note").textContent = describe(passing.length, points.length, shown.length);
  drawResults(passing);
  activate(view.pinned);
}

function describe(numPassing, numPlaced, numShown) {
  const { protocol } = view;
  const notes = [`${protocol.setting.dataset}, guidance ${protocol.setting.guidance}; distances: ${protocol.distance}; bars are standard errors.`];
  if (protocols.length > 1) notes.push("Protocols are never mixed on one axis: choose one at a time.");
  if (numPassing > numPlaced) notes.push(`${numPassing - numPlaced} points lack one of the two numbers, or have no logarithm.`);
  if (numPlaced > numShown) notes.push(`${numShown} of ${numPlaced} points are drawn: the front and an even sample.`);
  return notes.join(" ");
}

function drawResults(passing) {
  drawTable(byId("table"), byId("more"), view, passing, { sort: sortBy, pin: pinAndShow });
}

function sortBy(key) {
  const isSame = view.sort.key === key;
  view.sort = { key, direction: isSame ? -view.sort.direction : 1 };
  drawResults(listPassing(view));
  byId("table").querySelector(`[data-key="${key}"]`).focus();
}

function activate(index) {
  byId("plot").querySelectorAll(".point.active").forEach((each) => each.classList.remove("active"));
  const mark = index === null ? null : byId("plot").querySelector(`[data-index="${index}"]`);
  if (mark) {
    mark.classList.add("active");
    byId("plot").querySelectorAll('[tabindex="0"]').forEach((each) => each.setAttribute("tabindex", -1));
    mark.setAttribute("tabindex", 0);
  }
  if (view.active !== index || index === view.pinned) showDetails(byId("details"), byId("shots"), view, index);
  view.active = index;
}

// A point stays shown until another one is, so that the way to its samples does not end it.
function release() {
  if (view.pinned !== null) activate(view.pinned);
}

function pin(index) {
  view.pinned = view.pinned === index ? null : index;
  view.active = null;
  activate(index);
}

function pinAndShow(index) {
  view.pinned = index;
  activate(index);
  byId("explore").scrollIntoView();
}

function move(event) {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  if (step) {
    const now = view.order.indexOf(view.active);
    const next = view.order[Math.min(view.order.length - 1, Math.max(0, now + step))];
    byId("plot").querySelector(`[data-index="${next}"]`)?.focus();
  } else if (event.key === "Enter" || event.key === " ") {
    if (view.active !== null) pin(view.active);
  } else if (event.key === "Escape") {
    view.pinned = null;
    activate(null);
  } else {
    return;
  }
  event.preventDefault();
}

function start() {
  const label = (protocol) => protocol.name || `${protocol.setting.dataset}, guidance ${protocol.setting.guidance}`;
  choose(byId("protocol"), protocols.map((protocol, i) => [i, label(protocol)]), 0);
  byId("protocol").addEventListener("change", (event) => chooseProtocol(Number(event.target.value)));
  byId("mode").addEventListener("change", chooseMode);
  for (const id of ["metric-x", "metric-y"]) byId(id).addEventListener("change", chooseMetrics);
  for (const id of ["log-x", "log-y"]) byId(id).addEventListener("change", redraw);
  byId("reset").addEventListener("click", () => {
    view.hidden = new Map();
    drawFilters(byId("filters"), view, filter);
    filter();
  });
  byId("more").addEventListener("click", () => {
    view.numShown += ROWS_A_PAGE * 4;
    drawResults(listPassing(view));
  });
  byId("plot").addEventListener("keydown", move);
  byId("explore-body").hidden = false;
  if (isNarrow) byId("filter-box").open = false;
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.round(entry.contentRect.width) === width) return;
    width = Math.round(entry.contentRect.width);
    redraw();
  }).observe(byId("plot"));
  chooseProtocol(0);
}

const isNarrow = matchMedia("(max-width: 860px)").matches;
if (isNarrow) document.querySelectorAll(".cards details").forEach((each) => { each.open = false; });
if (protocols.length) {
  start();
} else {
  byId("explore-note").textContent = "No row of the table has a measured number: there is nothing to plot.";
  byId("results").hidden = true;
}
