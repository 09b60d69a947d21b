// The result table: axes and chosen columns, sorted by its headings, a page at a time.

const ROWS_A_PAGE = 50;
const NUM_CHOSEN = 6;
const CHOSEN_FIRST = ["gfid", "rfid", "psnr", "label_accuracy", "ssim", "lpips"];

function listColumns(view) {
  const { protocol, set } = view;
  const text = (key, label, values, rest = {}) => ({ key, label, of: (i) => values[i], ...rest });
  const count = (key, label, values) => text(key, label, values, { isNumber: true, show: (i) => values[i]?.toLocaleString("en") ?? "-" });
  const columns = listAxes(view).map((axis) => {
    const show = (i) => valueOf(view, axis, i);
    // Values of an axis stand in their order, so that their places sort numbers and words alike.
    return { key: axis.name, label: axis.label, of: (i) => set.axes[axis.name][i], show, csv: show, isAxis: !axis.follows, isNumber: axis.isNumeric, isPlace: true };
  });
  if (view.mode === "means") columns.push({ ...count("seeds", "seeds", set.seeds), isAxis: true });
  else columns.push(text("repetition", "repetition", set.repetition), count("images", "images", set.images), text("trial", "trial", set.trial), text("row", "row", set.rowId));
  const first = CHOSEN_FIRST.flatMap((name) => protocol.metrics.filter((metric) => metric.name === name));
  for (const metric of new Set([...first, ...protocol.metrics])) {
    columns.push({
      key: metric.name, label: metric.short, isNumber: true, metric, of: (i) => set.metrics[metric.name][i],
      show: (i) => formatWithError(set.metrics[metric.name][i], set.errors[metric.name]?.[i]),
    });
  }
  return columns;
}

function chooseColumns(protocol) {
  const names = protocol.metrics.map((metric) => metric.name);
  return [...new Set([...CHOSEN_FIRST.filter((name) => names.includes(name)), ...names])].slice(0, NUM_CHOSEN);
}

function listShown(view) {
  const chosen = view.columns ?? chooseColumns(view.protocol);
  return listColumns(view).filter((column) => column.isAxis || chosen.includes(column.key));
}

// Best first where there is a better way, else from the smallest up; a second press turns it.
function directionOf(view, column) {
  return (column.metric?.better === "higher" ? -1 : 1) * (view.sort.isTurned ? -1 : 1);
}

function sortIndices(view, indices) {
  const column = listColumns(view).find((each) => each.key === view.sort.key);
  if (!column) return indices;
  const direction = directionOf(view, column);
  return [...indices].sort((a, b) => {
    const [first, second] = [column.of(a), column.of(b)];
    if (first === null || second === null) return (first === null) - (second === null) || a - b;
    const order = column.isNumber || column.isPlace ? first - second : first.localeCompare(second, "en", { numeric: true });
    return direction * order || a - b;
  });
}

function drawTable(table, more, view, indices, on) {
  const columns = listShown(view);
  const kept = new Set(findKept(view));
  const heads = columns.map((each) => {
    const isSorted = each.key === view.sort.key;
    const isUp = isSorted && directionOf(view, each) > 0;
    const state = isSorted ? { "aria-sort": isUp ? "ascending" : "descending" } : {};
    const title = each.metric ? `${each.metric.label}: ${each.metric.better} is better` : each.label;
    return make("th", { scope: "col", class: each.isNumber ? "number" : "", ...state },
      make("button", { type: "button", "data-key": each.key, title, onclick: () => on.sort(each.key) },
        each.label, make("span", { class: "arrow", "aria-hidden": "true" }, isSorted ? (isUp ? " ▲" : " ▼") : "")));
  });
  const lines = indices.slice(0, view.numShown).map((index) => make(
    "tr", { onclick: () => on.keep(index), "data-index": index, class: kept.has(index) ? "kept" : "" },
    ...columns.map((each, place) => drawCell(view, each, index, place, kept.has(index))),
  ));
  table.replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines));
  const rest = indices.length - lines.length;
  more.hidden = rest <= 0;
  more.textContent = `Show ${Math.min(rest, ROWS_A_PAGE * 4)} of ${rest.toLocaleString("en")} more`;
}

function showValue(column, index) {
  return column.show ? column.show(index) : String(column.of(index) ?? "-");
}

// The first cell is a button, so that a row is reached and kept with the keyboard too.
function drawCell(view, column, index, place, isKept) {
  const text = showValue(column, index);
  if (place) return make("td", { class: column.isNumber ? "number" : "" }, text);
  const dot = make("span", { class: "swatch", "aria-hidden": "true" });
  dot.style.background = colourOf(view.protocol, view.set.colour[index]);
  return make("td", {}, make("button", { type: "button", class: "keep", "aria-pressed": String(isKept), "aria-label": `keep ${nameOf(view, index)}` }, dot, text));
}

function drawColumnChoice(root, view, onChange) {
  const chosen = view.columns ?? chooseColumns(view.protocol);
  root.replaceChildren(...listColumns(view).filter((column) => !column.isAxis).map((column) =>
    makeChip(column.label, chosen.includes(column.key), (isOn) => {
      const now = view.columns ?? chooseColumns(view.protocol);
      view.columns = isOn ? [...now, column.key] : now.filter((key) => key !== column.key);
      onChange();
    }, { "data-column": column.key })));
}

// All columns of the given points, numbers unrounded but for what the page holds.
function writeCsv(view, indices) {
  const quote = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const columns = listColumns(view).flatMap((column) => {
    const errors = column.metric && view.set.errors[column.key];
    return [[column.key, column.csv ?? column.of], ...(errors ? [[`${column.key}_se`, (i) => errors[i]]] : [])];
  });
  const lines = [columns.map(([key]) => key), ...indices.map((i) => columns.map(([, of]) => String(of(i) ?? "")))];
  return `${lines.map((line) => line.map(quote).join(",")).join("\n")}\n`;
}
