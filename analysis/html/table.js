// The result table: sorted by its headings, a page at a time.

const ROWS_A_PAGE = 50;

function listColumns(view) {
  const { protocol, set } = view;
  const columns = [
    { key: "alignment", label: "alignment", of: (i) => set.alignment[i] },
    { key: "size", label: "generator", of: (i) => set.size[i] },
    { key: "dim", label: "latent dim", of: (i) => set.dim[i], isNumber: true, show: (i) => String(set.dim[i] ?? "-") },
  ];
  if (view.mode === "means") {
    columns.push({ key: "seeds", label: "seeds", of: (i) => set.seeds[i], isNumber: true, show: (i) => String(set.seeds[i]) });
  } else {
    columns.push(
      { key: "repetition", label: "repetition", of: (i) => set.repetition[i] },
      { key: "images", label: "images", of: (i) => set.images[i], isNumber: true, show: (i) => set.images[i]?.toLocaleString("en") ?? "-" },
      { key: "trial", label: "trial", of: (i) => set.trial[i] },
    );
  }
  for (const metric of protocol.metrics) {
    columns.push({
      key: metric.name, label: `${metric.short} ${metric.better === "lower" ? "↓" : "↑"}`, isNumber: true,
      of: (i) => set.metrics[metric.name][i],
      show: (i) => formatWithError(set.metrics[metric.name][i], set.errors[metric.name]?.[i]),
    });
  }
  return columns;
}

function sortIndices(indices, column, direction) {
  return [...indices].sort((a, b) => {
    const [first, second] = [column.of(a), column.of(b)];
    if (first === null || second === null) return (first === null) - (second === null);
    const order = column.isNumber ? first - second : String(first).localeCompare(String(second), "en", { numeric: true });
    return direction * order || a - b;
  });
}

function drawTable(table, more, view, indices, on) {
  const columns = listColumns(view);
  const column = columns.find((each) => each.key === view.sort.key);
  const sorted = column ? sortIndices(indices, column, view.sort.direction) : indices;
  const heads = columns.map((each) => {
    const isSorted = each === column;
    const state = isSorted ? { "aria-sort": view.sort.direction > 0 ? "ascending" : "descending" } : {};
    return make("th", { scope: "col", class: each.isNumber ? "number" : "", ...state },
      make("button", { type: "button", "data-key": each.key, onclick: () => on.sort(each.key) }, each.label));
  });
  const lines = sorted.slice(0, view.numShown).map((index) => make(
    "tr", { onclick: () => on.pin(index), "data-index": index },
    ...columns.map((each, position) => drawCell(view, each, index, position)),
  ));
  table.replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines));
  const rest = sorted.length - lines.length;
  more.hidden = rest <= 0;
  more.textContent = `Show ${Math.min(rest, ROWS_A_PAGE * 4)} of ${rest.toLocaleString("en")} more`;
}

function drawCell(view, column, index, position) {
  const text = column.show ? column.show(index) : String(column.of(index) ?? "-");
  if (position) return make("td", { class: column.isNumber ? "number" : "" }, text);
  const dot = make("span", { class: "swatch", "aria-hidden": "true" });
  dot.style.background = colourOf(view.protocol, view.set.alignment[index]);
  return make("td", {}, dot, text);
}
