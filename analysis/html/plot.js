// The plot: scales, lines, error bars, the Pareto front and the points, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const NUM_COLOURS = 8;
const MAX_POINTS = 2000;
const MAX_SERIES = 80;
const MAX_BARS = 400;
const MAX_LABELS = 150;
const MAX_ENTRIES = 16;
const DASHES = ["", "8 4", "2 3", "9 3 2 3", "14 4", "5 2", "1 5", "12 3 2 3 2 3"];
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

// Colour and dash tell lines apart, each without the other; the mark does where a size varies.
function colourOf({ lines }, colour) {
  if (lines.colours.length <= NUM_COLOURS) return `var(--c${colour})`;
  return `hsl(${Math.round((colour * 360) / lines.colours.length)} 60% 50%)`;
}

function dashOf({ lines }, colour, rest) {
  return DASHES[(colour * lines.rests.length + rest) % DASHES.length];
}

function markOf({ lines }, colour, mark) {
  return MARKS[(lines.marks.length > 1 ? mark : colour) % MARKS.length];
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
  const height = Math.round(Math.min(520, Math.max(320, width * 0.66)));
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
  const shown = samplePoints(points, front).map((point) => ({ ...point, left: scaleX.place(point.x), top: scaleY.place(point.y) }));
  const lines = groupLines(view, shown);
  drawSeries(root, view, lines);
  const bars = drawBars(root, view, shown, scaleX, scaleY);
  const steps = front.flatMap((p, i) => [...(i ? [[p.x, front[i - 1].y]] : []), [p.x, p.y]]);
  const others = [steps, ...published.map((line) => line.rfid.map((x, i) => [x, line.gfid[i]]))]
    .map((line) => line.map(([x, y]) => ({ left: scaleX.place(x), top: scaleY.place(y) })));
  drawLabels(root, view, lines, [...bars, ...others], { left: edge.left, right: width - edge.right, top: edge.top, bottom: height - edge.bottom });
  root.append(draw("g", { class: "points" }, ...shown.map((point) => drawPoint(view, point, on))));
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

// The points of each line in their order; without means every point stands alone.
function groupLines(view, points) {
  const { set, mode } = view;
  const series = new Map();
  for (const point of points) {
    const i = point.index;
    const key = mode === "means" && set.along[i] !== null ? [set.colour[i], set.mark[i], set.rest[i]].join() : `point ${i}`;
    if (!series.has(key)) series.set(key, []);
    series.get(key).push(point);
  }
  return [...series.values()].map((line) => line.sort((a, b) => set.along[a.index] - set.along[b.index]));
}

function drawSeries(root, view, lines) {
  const { protocol, set } = view;
  const long = lines.filter((line) => line.length > 1);
  if (long.length > MAX_SERIES) return;
  for (const line of long) {
    const first = line[0].index;
    const places = line.map((p) => `${p.left} ${p.top}`);
    const path = draw("path", { class: "series", d: `M${places.join("L")}`, "stroke-dasharray": dashOf(protocol, set.colour[first], set.rest[first]) });
    path.style.stroke = colourOf(protocol, set.colour[first]);
    root.append(path);
  }
}

// Error bars; returns the ends of each.
function drawBars(root, view, points, scaleX, scaleY) {
  const bars = [];
  if (points.length > MAX_BARS) return bars;
  for (const { index, x, y, left, top } of points) {
    for (const [metric, value, along] of [[view.x, x, "x"], [view.y, y, "y"]]) {
      const error = view.set.errors[metric.name]?.[index];
      const isLog = along === "x" ? view.logX : view.logY;
      if (!error || (isLog && value - error <= 0)) continue;
      const scale = along === "x" ? scaleX : scaleY;
      const [low, high] = [scale.place(value - error), scale.place(value + error)];
      const [start, end] = along === "x" ? [{ left: low, top }, { left: high, top }] : [{ left, top: low }, { left, top: high }];
      const bar = draw("line", { class: "bar", x1: start.left, x2: end.left, y1: start.top, y2: end.top });
      bars.push([start, end]);
      bar.style.stroke = colourOf(view.protocol, view.set.colour[index]);
      root.append(bar);
    }
  }
  return bars;
}

// Names beside points: a line's best point has the line's name, the others their place along it.
// A name goes where it covers no mark, no line and no other name, near its point or at the end of a
// leader; a shorter name is tried where the whole one has no room, and none is drawn where that has none.
function drawLabels(root, view, lines, others, frame) {
  const sign = view.y.better === "higher" ? -1 : 1;
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = LABEL_FONT;
  const taken = lines.flat().map((p) => ({ left: p.left - 6, right: p.left + 6, top: p.top - 6, bottom: p.top + 6 }));
  const inked = [...lines, ...others].flatMap(traceLine);
  const wanted = lines.map((line) => [...line].sort((a, b) => sign * (a.y - b.y)));
  const asked = [
    ...wanted.map(([best]) => [best, [nameOf(view, best.index), placeOf(view, best.index)]]),
    ...wanted.flatMap(([, ...rest]) => rest.map((point) => [point, [placeOf(view, point.index)]])),
  ];
  for (const [point, texts] of asked.slice(0, MAX_LABELS)) {
    const found = texts.filter(Boolean).map((text) => [text, findRoom(point, ruler.measureText(text).width, frame, taken, inked)]).find(([, box]) => box);
    if (!found) continue;
    const [text, box] = found;
    taken.push(box);
    if (box.leader) {
      inked.push(...traceLine(box.leader));
      const [start, end] = box.leader;
      root.append(draw("line", { class: "leader", x1: start.left, y1: start.top, x2: end.left, y2: end.top }));
    }
    root.append(draw("text", { class: "label", x: box.left, y: box.bottom - 3, "aria-hidden": "true" }, text));
  }
}

const LABEL_FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const LEADERS = [0, 12, 24, 38];

function findRoom(point, width, frame, taken, inked) {
  const [w, h] = [width + 2, 13];
  const isIn = (box, [x, y]) => x > box.left && x < box.right && y > box.top && y < box.bottom;
  for (const far of LEADERS) {
    const places = [[9 + far, -h / 2], [-9 - far - w, -h / 2], [7 + far, -h - 4 - far], [7 + far, 4 + far], [-7 - far - w, -h - 4 - far], [-7 - far - w, 4 + far], [-w / 2, -h - 8 - far], [-w / 2, 8 + far]];
    for (const [x, y] of places) {
      const box = { left: point.left + x, right: point.left + x + w, top: point.top + y, bottom: point.top + y + h };
      if (box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom) continue;
      if (taken.some((other) => box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom)) continue;
      if (inked.some((place) => isIn(box, place))) continue;
      if (!far) return box;
      const [across, up] = [Math.min(Math.max(point.left, box.left), box.right) - point.left, Math.min(Math.max(point.top, box.top), box.bottom) - point.top];
      const length = Math.hypot(across, up);
      // It begins beyond the mark and ends before the name.
      const leader = [9, length - 3].map((at) => ({ left: point.left + (across * at) / length, top: point.top + (up * at) / length }));
      const crosses = traceLine(leader).some((place) => taken.some((other) => isIn(other, place)));
      if (!crosses) return { ...box, leader };
    }
  }
  return null;
}

// Places along a line, close enough that none lies between two under a name.
function traceLine(line) {
  return line.slice(1).flatMap((end, i) => {
    const start = line[i];
    const count = Math.ceil(Math.hypot(end.left - start.left, end.top - start.top) / 5);
    return Array.from({ length: count }, (_, k) => [start.left + ((end.left - start.left) * k) / count, start.top + ((end.top - start.top) * k) / count]);
  });
}

function drawPoint(view, point, on) {
  const { protocol, set } = view;
  const { index, left, top } = point;
  const mark = draw("path", { class: "mark", d: markOf(protocol, set.colour[index], set.mark[index]) });
  mark.style.fill = colourOf(protocol, set.colour[index]);
  const label = `${nameOf(view, index)}: ${view.x.short} ${formatNumber(point.x)}, ${view.y.short} ${formatNumber(point.y)}`;
  return draw(
    "g",
    {
      class: "point", transform: `translate(${left} ${top})`,
      tabindex: -1, role: "img", "aria-label": label, "data-index": index,
      onpointerenter: (event) => event.pointerType === "mouse" && on.hover(index),
      onpointerleave: (event) => event.pointerType === "mouse" && on.leave(),
      onfocus: () => on.focus(index),
      onclick: () => on.keep(index),
    },
    draw("circle", { class: "hit", r: 12 }), draw("circle", { class: "ring", r: 10 }), mark,
  );
}

function nameOf(view, index) {
  return view.protocol.lines.names[view.set.name[index]] || "all rows";
}

function placeOf(view, index) {
  const value = view.set.along[index];
  return value === null ? "" : `${view.protocol.lines.prefix}${value}`;
}

function drawLegend(root, view) {
  const { protocol, set } = view;
  const { lines } = protocol;
  const symbol = (...shapes) => draw("svg", { viewBox: "-14 -8 28 16", "aria-hidden": "true" }, ...shapes);
  const kinds = new Map(set.colour.map((colour, i) => [`${colour} ${set.rest[i]}`, [colour, set.rest[i]]]));
  const entries = [...kinds.values()].map(([colour, rest]) => {
    const stroke = draw("line", { x1: -14, x2: 14, y1: 0, y2: 0, "stroke-width": 2, "stroke-dasharray": dashOf(protocol, colour, rest) });
    const mark = draw("path", { d: lines.marks.length > 1 ? MARKS[0] : markOf(protocol, colour, 0), transform: "scale(0.8)" });
    stroke.style.stroke = mark.style.fill = colourOf(protocol, colour);
    return [symbol(stroke, mark), [lines.colours[colour], lines.rests[rest]].filter(Boolean).join(", ")];
  });
  for (const [index, name] of lines.marks.entries()) {
    const mark = draw("path", { d: markOf(protocol, 0, index) });
    mark.style.fill = "var(--soft)";
    if (lines.marks.length > 1) entries.push([symbol(mark), name]);
  }
  const named = entries.filter(([, name]) => name);
  const shown = named.slice(0, MAX_ENTRIES);
  const front = draw("line", { x1: -14, x2: 14, y1: 0, y2: 0, "stroke-width": 6 });
  front.style.stroke = "var(--front)";
  shown.push([symbol(front), "Pareto front"]);
  if (view.published.length) {
    const ring = draw("circle", { r: 4, fill: "none" });
    ring.style.stroke = "var(--soft)";
    shown.push([symbol(ring), "published"]);
  }
  root.replaceChildren(...shown.map(([sign, name]) => make("span", {}, sign, name)));
  if (named.length > MAX_ENTRIES) root.append(make("span", {}, `and ${named.length - MAX_ENTRIES} more`));
}
