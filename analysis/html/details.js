// The panel beside the plot: configuration, metrics and samples of one point.

function showDetails(root, shots, view, index) {
  shots.replaceChildren();
  if (index === null) {
    root.replaceChildren(
      make("h3", {}, "A point"),
      make("p", { class: "note" }, "Point at one, tap it, or press Tab and the arrow keys: its configuration, its metrics and samples of its trials appear here. A click or Enter keeps it."),
    );
    return;
  }
  const { set, protocol } = view;
  const pinned = view.pinned === index ? make("p", { class: "note" }, "Kept; press Escape or the point to let go.") : "";
  root.replaceChildren(
    make("h3", {}, nameOf(set, index)),
    drawFacts(view, index),
    pinned,
  );
  shots.append(drawShots(protocol, view.mode === "means" ? set.members[index] : [index]));
}

function drawFacts(view, index) {
  const { set, protocol } = view;
  const facts = [];
  for (const axis of listAxes(view)) {
    const value = axis.values[set.axes[axis.name][index]];
    if (!axis.follows || value !== "none") facts.push([axis.label, value]);
  }
  if (view.mode === "means") {
    const [seeds, tokenizers] = [set.seeds[index], set.tokenizers[index]];
    facts.push(["seeds", seeds === tokenizers ? `${seeds}` : `${seeds} (tokenizers: ${tokenizers})`]);
  } else {
    facts.push(["row", set.rowId[index]], ["repetition", set.repetition[index]]);
  }
  for (const metric of protocol.metrics) {
    const value = set.metrics[metric.name][index];
    if (value !== null) facts.push([metric.short, formatWithError(value, set.errors[metric.name]?.[index])]);
  }
  const lines = facts.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
  return make("table", {}, make("tbody", {}, ...lines));
}

// Pictures of the point's trials, one trial at a time, copied from the section of pictures.
function drawShots(protocol, members) {
  const trials = [...new Set(members)].filter((row) => picturesOf(protocol.rows.trial[row]).length);
  if (!trials.length) return make("p", { class: "note" }, "No pictures of its trials are in this page.");
  const shots = make("div", { class: "pair" });
  const tabs = make("div", { class: "tabs" });
  const show = (chosen) => {
    shots.replaceChildren(...picturesOf(protocol.rows.trial[chosen]).map((image) =>
      make("figure", {},
        make("img", { src: image.src, alt: image.alt, width: image.getAttribute("width"), height: image.getAttribute("height") }),
        make("figcaption", {}, image.dataset.kind)),
    ));
    [...tabs.children].forEach((tab, i) => tab.setAttribute("aria-pressed", String(trials[i] === chosen)));
  };
  if (trials.length > 1) {
    tabs.append(...trials.slice(0, 8).map((row) =>
      make("button", { type: "button", onclick: () => show(row) }, protocol.rows.repetition[row])));
  }
  show(trials[0]);
  return make("div", {}, tabs, shots);
}

function picturesOf(trial) {
  const found = document.querySelectorAll(`#pictures img[data-trial="${CSS.escape(trial)}"]`);
  return trial === "" ? [] : [...found];
}
