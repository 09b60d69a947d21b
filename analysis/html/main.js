// What the reader chose, and everything drawn anew from it.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const protocols = data.protocols.filter((protocol) => protocol.rows.colour.length);
const again = byId("reload");
const RELOAD_MS = 60_000;
const view = { sort: {}, numShown: ROWS_A_PAGE, hidden: new Map(), kept: [], columns: null, active: null };

function choose(select, entries, value) {
  select.replaceChildren(...entries.map(([key, label]) => make("option", { value: key }, label)));
  select.value = value;
}

function usualMetrics(protocol) {
  const names = protocol.metrics.map((metric) => metric.name);
  const prefer = (wanted) => wanted.find((name) => names.includes(name)) ?? names[0];
  return { x: prefer(["rfid", "psnr"]), y: prefer(["gfid", "psnr"]) };
}

function usualMode(protocol) {
  return protocol.means.colour.length ? "means" : "rows";
}

// Takes everything from the address, so that a view that somebody sent looks as it did there.
function restore() {
  const { params, hidden, kept } = readAddress();
  const protocol = protocols[Number(params.get("protocol") ?? 0)] ?? protocols[0];
  const named = (name) => protocol.metrics.some((metric) => metric.name === name);
  Object.assign(view, { hidden, kept, columns: params.get("columns")?.split(",").filter(Boolean) ?? null });
  byId("protocol").value = protocols.indexOf(protocol);
  const usual = usualMetrics(protocol);
  chooseProtocol({
    mode: params.get("points") === "rows" ? "rows" : usualMode(protocol),
    x: named(params.get("x")) ? params.get("x") : usual.x,
    y: named(params.get("y")) ? params.get("y") : usual.y,
  });
  if (params.has("logx")) byId("log-x").checked = params.get("logx") === "true";
  if (params.has("logy")) byId("log-y").checked = params.get("logy") === "true";
  if (params.has("sort")) view.sort = { key: params.get("sort"), isTurned: params.get("turned") === "true" };
  redraw();
}

function chooseProtocol({ mode, x, y } = {}) {
  const protocol = protocols[Number(byId("protocol").value)];
  view.protocol = protocol;
  const usual = usualMetrics(protocol);
  const entries = protocol.metrics.map((metric) => [metric.name, metric.label]);
  choose(byId("metric-x"), entries, x ?? usual.x);
  choose(byId("metric-y"), entries, y ?? usual.y);
  byId("mode").querySelector("[value=means]").disabled = usualMode(protocol) !== "means";
  byId("mode").value = mode ?? usualMode(protocol);
  view.sort = { key: usual.y, isTurned: false };
  chooseMode();
  chooseMetrics();
}

function chooseMode() {
  view.mode = byId("mode").value;
  view.set = view.protocol[view.mode];
  Object.assign(view, { active: null, numShown: ROWS_A_PAGE });
  drawFilters(byId("filters"), view, filter);
  drawColumnChoice(byId("columns"), view, redraw);
}

function chooseMetrics() {
  const find = (name) => view.protocol.metrics.find((metric) => metric.name === name);
  view.x = find(byId("metric-x").value);
  view.y = find(byId("metric-y").value);
  byId("log-x").checked = view.x.log;
  byId("log-y").checked = view.y.log;
}

function filter() {
  view.numShown = ROWS_A_PAGE;
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
  const shown = drawPlot(byId("plot"), view, points, { hover: activate, leave: release, focus: activate, keep });
  drawLegend(byId("legend"), view);
  view.order = [...shown].sort((a, b) => a.x - b.x || a.y - b.y).map((point) => point.index);
  byId("plot").querySelector(`[data-index="${view.order[0]}"]`)?.setAttribute("tabindex", 0);
  byId("filter-count").textContent = `(${passing.length.toLocaleString("en")} of ${view.set.colour.length.toLocaleString("en")} points)`;
  byId("explore-note").textContent = describe(passing.length, points.length, shown.length);
  drawKept();
}

function describe(numPassing, numPlaced, numShown) {
  const { protocol } = view;
  const notes = [`${protocol.setting.dataset}, guidance ${protocol.setting.guidance}; distances: ${protocol.distance}; bars are standard errors.`];
  if (protocols.length > 1) notes.push("Protocols are never mixed on one axis: choose one at a time.");
  if (numPassing > numPlaced) notes.push(`${numPassing - numPlaced} points lack one of the two numbers, or have no logarithm.`);
  if (numPlaced > numShown) notes.push(`${numShown} of ${numPlaced} points are drawn: the front and an even sample.`);
  return notes.join(" ");
}

// All that depends on the sorting and on what is kept.
function drawKept() {
  const { protocol, x, y, logX, logY, sort, columns } = view;
  const kept = new Set(findKept(view));
  byId("plot").querySelectorAll(".point").forEach((each) => each.classList.toggle("kept", kept.has(Number(each.dataset.index))));
  showKept(byId("kept"), view, letGo);
  drawTable(byId("table"), byId("more"), view, sortIndices(view, listPassing(view)), { sort: sortBy, keep });
  activate(view.active ?? [...kept].at(-1) ?? null);
  const usual = usualMetrics(protocol);
  writeAddress(view, {
    protocol: [protocols.indexOf(protocol), 0], points: [view.mode, usualMode(protocol)],
    x: [x.name, usual.x], y: [y.name, usual.y], logx: [logX, x.log], logy: [logY, y.log],
    sort: [sort.key, usual.y], turned: [sort.isTurned, false],
    columns: [columns ?? chooseColumns(protocol), chooseColumns(protocol)],
    reload: [again?.checked ?? false, false],
  });
}

function sortBy(key) {
  view.sort = { key, isTurned: view.sort.key === key && !view.sort.isTurned };
  drawKept();
  byId("table").querySelector(`[data-key="${CSS.escape(key)}"]`).focus();
}

function activate(index) {
  byId("plot").querySelectorAll(".point.active").forEach((each) => each.classList.remove("active"));
  const mark = index === null ? null : byId("plot").querySelector(`[data-index="${index}"]`);
  if (mark) {
    mark.classList.add("active");
    byId("plot").querySelectorAll('[tabindex="0"]').forEach((each) => each.setAttribute("tabindex", -1));
    mark.setAttribute("tabindex", 0);
  }
  showDetails(byId("details"), view, index);
  view.active = index;
}

// A point stays shown until another one is, so that the way to its samples does not end it.
function release() {
  const kept = findKept(view);
  if (kept.length) activate(kept.at(-1));
}

// Keeps a point beside the last one kept, or lets it go.
function keep(index) {
  const mine = findKept(view);
  const isKept = mine.includes(index);
  const left = mine.filter((each) => each !== index).slice(isKept ? 0 : 1 - MAX_KEPT);
  view.kept = [...left, ...(isKept ? [] : [index])].map((each) => idOf(view, each));
  const focused = document.activeElement?.closest("#table tr")?.dataset.index;
  view.active = isKept ? null : index;
  drawKept();
  if (focused) byId("table").querySelector(`tr[data-index="${focused}"] .keep`)?.focus({ preventScroll: true });
}

function letGo() {
  Object.assign(view, { kept: [], active: null });
  drawKept();
}

function move(event) {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  if (step) {
    const now = view.order.indexOf(view.active);
    const next = view.order[Math.min(view.order.length - 1, Math.max(0, now + step))];
    byId("plot").querySelector(`[data-index="${next}"]`)?.focus();
  } else if (event.key === "Enter" || event.key === " ") {
    if (view.active !== null) keep(view.active);
  } else {
    return;
  }
  event.preventDefault();
}

function download() {
  const text = writeCsv(view, sortIndices(view, listPassing(view)));
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: `${data.title}.csv` });
  link.click();
  URL.revokeObjectURL(link.href);
}

function start() {
  const label = (protocol) => protocol.name || `${protocol.setting.dataset}, guidance ${protocol.setting.guidance}`;
  choose(byId("protocol"), protocols.map((protocol, i) => [i, label(protocol)]), 0);
  const then = (...steps) => () => { steps.forEach((step) => step()); redraw(); };
  byId("protocol").addEventListener("change", then(() => chooseProtocol()));
  byId("mode").addEventListener("change", then(chooseMode));
  for (const id of ["metric-x", "metric-y"]) byId(id).addEventListener("change", then(chooseMetrics));
  for (const id of ["log-x", "log-y"]) byId(id).addEventListener("change", redraw);
  byId("reset").addEventListener("click", () => {
    view.hidden = new Map();
    drawFilters(byId("filters"), view, filter);
    filter();
  });
  byId("more").addEventListener("click", () => {
    view.numShown += ROWS_A_PAGE * 4;
    drawKept();
  });
  byId("csv").addEventListener("click", download);
  byId("plot").addEventListener("keydown", move);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("enlarged").open) letGo();
  });
  addEventListener("hashchange", restore);
  byId("explore-body").hidden = false;
  restore();
  let width = byId("plot").clientWidth;
  new ResizeObserver(([entry]) => {
    if (Math.round(entry.contentRect.width) === width) return;
    width = Math.round(entry.contentRect.width);
    redraw();
  }).observe(byId("plot"));
}

// The address holds the view, so that links within the page leave it alone.
document.addEventListener("click", (event) => {
  const target = event.target.closest('a[href^="#"]');
  const figure = event.target.closest("figure[data-trial]");
  if (target) {
    event.preventDefault();
    const section = document.querySelector(target.getAttribute("href"));
    section.scrollIntoView();
    section.querySelector("h2").focus({ preventScroll: true });
  } else if (figure) {
    enlarge(byId("enlarged"), figure);
  } else if (event.target.closest("#enlarged")) {
    byId("enlarged").close();
  }
});
if (matchMedia("(max-width: 860px)").matches) document.querySelectorAll(".cards details").forEach((each) => { each.open = false; });
// The page of a sweep that still runs is written anew by it.
if (again) {
  again.checked = readAddress().params.has("reload");
  again.addEventListener("change", () => {
    if (protocols.length) drawKept();
    else history.replaceState(null, "", again.checked ? "#reload=true" : location.pathname);
  });
  setInterval(() => { if (again.checked) location.reload(); }, RELOAD_MS);
}
if (protocols.length) {
  start();
} else {
  byId("explore-note").textContent = "No row is finished: there is nothing to plot.";
  byId("results").hidden = true;
}
