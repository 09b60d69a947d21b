// The plot: scales, lines, error bars, the Pareto front and the points, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const NUM_COLOURS = 7;
const MAX_POINTS = 2000;
const MAX_SERIES = 80;
const MAX_BARS = 400;
const MARKS = [
  "M0-5A5 5 0 1 1 0 5A5 5 0 1 1 0-5Z",
  "M-4.5-4.5H4.5V4.5H-4.5Z",
  "M0-6L5.5 4.5H-5.5Z",
  "M0-6.2L6.2 0L0 6.2L-6.2 0Z",
  "M0 6L5.5-4.5H-5.5Z",
  "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
  "M0-6L1.8-1.9L6-1.8L2.7 1.2L3.8 5.5L0 3L-3.8 5.5L-2.7 1.2L-6-1.8L-1.8-1.9Z",
];

// Makes an element; text is set as text, never parsed.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  return fill(element, attributes, children);
}

function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function colourOf(protocol, name) {
  const index = protocol.lines.alignments.indexOf(name);
  if (protocol.lines.alignments.length <= NUM_COLOURS) return `var(--c${index})`;
  return `hsl(${Math.round((index * 360) / protocol.lines.alignments.length)} 60% 50%)`;
}

function markOf(protocol, name) {
  return MARKS[protocol.lines.sizes.indexOf(name) % MARKS.length];
}

function formatNumber(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2);
  return value.toFixed(decimalsOf(size));
}

function decimalsOf(size) {
  if (size === 0) return 0;
  return Math.min(5, Math.max(0, 3 - Math.floor(Math.log10(size))));
}

function formatWithError(value, error) {
  if (value === null || value === undefined) return "-";
  if (error === null || error === undefined) return formatNumber(value);
  const size = Math.abs(value);
  const plain = size < 1e6 && size >= 1e-3;
  return `${formatNumber(value)} ± ${plain ? error.toFixed(decimalsOf(size)) : error.toExponential(1)}`;
}

// A scale from values to pixels, with its ticks; `low` and `high` may lie either way round.
function makeScale(values, isLog, low, high, numTicks) {
  const convert = isLog ? Math.log10 : (value) => value;
  let least = Infinity;
  let most = -Infinity;
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  let [start, end] = [convert(least), convert(most)];
  const room = (end - start || Math.abs(start) * 0.2 || 1) * 0.07;
  [start, end] = [start - room, end + room];
  const place = (value) => low + ((convert(value) - start) / (end - start)) * (high - low);
  const ticks = isLog ? logTicks(start, end, numTicks) : plainTicks(start, end, numTicks);
  return { place, ticks };
}

function plainTicks(start, end, numTicks) {
  const rough = (end - start) / numTicks;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const ticks = [];
  for (let index = Math.ceil(start / step); index * step <= end; index += 1) {
    ticks.push(Number((index * step).toPrecision(10)));
  }
  return ticks;
}

function logTicks(start, end, numTicks) {
  for (const factors of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(start); power <= Math.ceil(end); power += 1) {
      for (const factor of factors) {
        const value = Number((factor * 10 ** power).toPrecision(6));
        if (Math.log10(value) >= start && Math.log10(value) <= end) ticks.push(value);
      }
    }
    if (ticks.length <= numTicks + 2 && ticks.length >= 2) return ticks;
  }
  const values = plainTicks(10 ** start, 10 ** end, numTicks).filter((value) => value > 0);
  if (values.length && values.length <= numTicks + 3 && end - start < 1) return values;
  const first = Math.ceil(start);
  const stride = Math.max(1, Math.ceil((end - first) / numTicks));
  const decades = [];
  for (let power = first; power <= end; power += stride) decades.push(Number(`1e${power}`));
  return decades;
}

// The points that no other point beats in both metrics, from the best across on.
function findFront(points, better) {
  const sign = (name) => (name === "higher" ? -1 : 1);
  const [signX, signY] = [sign(better[0]), sign(better[1])];
  const ordered = [...points].sort(
    (a, b) => signX * (a.x - b.x) || signY * (a.y - b.y),
  );
  const front = [];
  for (const point of ordered) {
    const last = front[front.length - 1];
    if (!last || signY * point.y < signY * last.y) front.push(point);
  }
  return front;
}

// Keeps the front and an even sample of the rest where there are too many points.
function samplePoints(points, front) {
  if (points.length <= MAX_POINTS) return points;
  const kept = new Set(front);
  const step = points.length / (MAX_POINTS - Math.min(front.length, MAX_POINTS / 2));
  for (let index = 0; index < points.length; index += step) kept.add(points[Math.floor(index)]);
  return points.filter((point) => kept.has(point));
}

// Draws everything; `points` are {index, x, y}, `view` says which metrics and scales.
function drawPlot(root, view, points, on) {
  const width = Math.max(280, root.clientWidth || 600);
  const height = Math.round(Math.min(540, Math.max(340, width * 0.68)));
  const edge = { left: 58, right: 16, top: 14, bottom: 50 };
  root.replaceChildren();
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.style.height = `${height}px`;
  if (!points.length) {
    root.append(draw("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No point passes the filters."));
    return [];
  }
  const published = view.published;
  const scaleX = makeScale(
    [...reach(view, points, "x", view.logX), ...published.flatMap((line) => line.rfid)],
    view.logX, edge.left, width - edge.right, width < 480 ? 4 : 7,
  );
  const scaleY = makeScale(
    [...reach(view, points, "y", view.logY), ...published.flatMap((line) => line.gfid)],
    view.logY, height - edge.bottom, edge.top, 6,
  );
  drawAxes(root, view, scaleX, scaleY, width, height, edge);
  const front = findFront(points, [view.x.better, view.y.better]);
  const corners = front.map((p, i) => {
    const [x, y] = [scaleX.place(p.x), scaleY.place(p.y)];
    return i ? `H${x}V${y}` : `M${x} ${y}`;
  });
  root.append(draw("path", { class: "front", d: corners.join("") || "M0 0" }));
  drawPublished(root, published, scaleX, scaleY);
  const shown = samplePoints(points, front);
  drawSeries(root, view, shown, scaleX, scaleY);
  const marks = shown.map((point) => drawPoint(view, point, scaleX, scaleY, on));
  root.append(draw("g", { class: "points" }, ...marks));
  return shown;
}

// Values along one axis with the ends of their error bars, as far as these are drawn.
function reach(view, points, along, isLog) {
  const values = points.map((point) => point[along]);
  if (points.length > MAX_BARS) return values;
  const errors = view.set.errors[view[along].name] ?? [];
  const ends = points.flatMap((point) => {
    const error = errors[point.index] ?? 0;
    return [point[along] - error, point[along] + error];
  });
  return [...values, ...ends.filter((value) => !isLog || value > 0)];
}

function drawAxes(root, view, scaleX, scaleY, width, height, edge) {
  for (const tick of scaleX.ticks) {
    const x = scaleX.place(tick);
    root.append(draw("line", { class: "grid", x1: x, x2: x, y1: edge.top, y2: height - edge.bottom }));
    root.append(draw("text", { x, y: height - edge.bottom + 17, "text-anchor": "middle" }, tickText(tick)));
  }
  for (const tick of scaleY.ticks) {
    const y = scaleY.place(tick);
    root.append(draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y, y2: y }));
    root.append(draw("text", { x: edge.left - 7, y: y + 4, "text-anchor": "end" }, tickText(tick)));
  }
  const middle = (edge.top + height - edge.bottom) / 2;
  const name = (metric) => (width < 520 ? metric.short : metric.label);
  const arrow = (metric, low, high) => (metric.better === "lower" ? low : high);
  root.append(
    draw("text", { class: "title", x: (edge.left + width - edge.right) / 2, y: height - 10, "text-anchor": "middle" },
      `${name(view.x)} (${arrow(view.x, "← better", "better →")})`),
    draw("text", { class: "title", x: -middle, y: 14, "text-anchor": "middle", transform: "rotate(-90)" },
      `${name(view.y)} (${arrow(view.y, "← better", "better →")})`),
  );
}

function tickText(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(0);
  return String(Number(value.toPrecision(6)));
}

function drawPublished(root, published, scaleX, scaleY) {
  for (const line of published) {
    const places = line.rfid.map((x, i) => `${scaleX.place(x)} ${scaleY.place(line.gfid[i])}`);
    root.append(draw("path", { class: "published", d: `M${places.join("L")}` }));
    line.rfid.forEach((x, i) => {
      const mark = draw("circle", { class: "published-mark", r: 4, cx: scaleX.place(x), cy: scaleY.place(line.gfid[i]) });
      mark.append(draw("title", {}, `${line.name}: ${formatNumber(x)}, ${formatNumber(line.gfid[i])}`));
      root.append(mark);
    });
  }
}

function drawSeries(root, view, points, scaleX, scaleY) {
  const { protocol, set } = view;
  if (view.mode === "means") {
    const series = new Map();
    for (const point of points) {
      const key = JSON.stringify([set.alignment[point.index], set.size[point.index]]);
      if (!series.has(key)) series.set(key, []);
      series.get(key).push(point);
    }
    if (series.size <= MAX_SERIES) {
      for (const line of series.values()) {
        line.sort((a, b) => set.dim[a.index] - set.dim[b.index]);
        const places = line.map((p) => `${scaleX.place(p.x)} ${scaleY.place(p.y)}`);
        const colour = colourOf(protocol, set.alignment[line[0].index]);
        const path = draw("path", { class: "series", d: `M${places.join("L")}` });
        path.style.stroke = colour;
        root.append(path);
      }
    }
  }
  if (points.length > MAX_BARS) return;
  for (const point of points) {
    const colour = colourOf(protocol, set.alignment[point.index]);
    const [x, y] = [scaleX.place(point.x), scaleY.place(point.y)];
    for (const [metric, value, along] of [[view.x, point.x, "x"], [view.y, point.y, "y"]]) {
      const error = set.errors[metric.name]?.[point.index];
      const isLog = along === "x" ? view.logX : view.logY;
      if (!error || (isLog && value - error <= 0)) continue;
      const scale = along === "x" ? scaleX : scaleY;
      const [low, high] = [scale.place(value - error), scale.place(value + error)];
      const ends = along === "x" ? { x1: low, x2: high, y1: y, y2: y } : { x1: x, x2: x, y1: low, y2: high };
      const bar = draw("line", { class: "bar", ...ends });
      bar.style.stroke = colour;
      root.append(bar);
    }
  }
}

function drawPoint(view, point, scaleX, scaleY, on) {
  const { protocol, set } = view;
  const colour = colourOf(protocol, set.alignment[point.index]);
  const mark = draw("path", { class: "mark", d: markOf(protocol, set.size[point.index]) });
  mark.style.fill = colour;
  const label = `${nameOf(set, point.index)}: ${view.x.short} ${formatNumber(point.x)}, ${view.y.short} ${formatNumber(point.y)}`;
  return draw(
    "g",
    {
      class: "point", transform: `translate(${scaleX.place(point.x)} ${scaleY.place(point.y)})`,
      tabindex: -1, role: "img", "aria-label": label, "data-index": point.index,
      onpointerenter: (event) => event.pointerType === "mouse" && on.hover(point.index),
      onpointerleave: (event) => event.pointerType === "mouse" && on.leave(),
      onfocus: () => on.focus(point.index),
      onclick: () => on.pin(point.index),
    },
    draw("circle", { class: "hit", r: 12 }), draw("circle", { class: "ring", r: 10 }), mark,
  );
}

function nameOf(set, index) {
  const dim = set.dim[index] === null ? "" : `, d=${set.dim[index]}`;
  return `${set.alignment[index]}, ${set.size[index]}${dim}`;
}

function drawLegend(root, view) {
  const { protocol } = view;
  const entry = (content, text) => make("span", {}, content, text);
  const symbol = (...shapes) => draw("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, ...shapes);
  const shown = (names) => names.slice(0, 12);
  const colours = shown(protocol.lines.alignments).map((name) => {
    const dot = draw("circle", { r: 6 });
    dot.style.fill = colourOf(protocol, name);
    return entry(symbol(dot), name);
  });
  const sizes = shown(protocol.lines.sizes).map((name) => {
    const mark = draw("path", { d: markOf(protocol, name) });
    mark.style.fill = "var(--soft)";
    return entry(symbol(mark), name);
  });
  const line = draw("line", { x1: -8, x2: 8, y1: 0, y2: 0, "stroke-width": 6 });
  line.style.stroke = "var(--front)";
  const rest = protocol.lines.alignments.length + protocol.lines.sizes.length - colours.length - sizes.length;
  root.replaceChildren(...colours, ...sizes, entry(symbol(line), "Pareto front"));
  if (view.published.length) {
    const ring = draw("circle", { r: 4, fill: "none" });
    ring.style.stroke = "var(--soft)";
    root.append(entry(symbol(ring), "published"));
  }
  if (rest > 0) root.append(make("span", {}, `and ${rest} more`));
}
