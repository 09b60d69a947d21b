// One point beside the plot, and above the table the one or two that are kept.

const MAX_KEPT = 2;

function showDetails(root, view, index) {
  if (index === null) {
    root.replaceChildren(
      make("h3", {}, "A point"),
      make("p", { class: "note" }, "Point at one, tap it, or press Tab and the arrow keys: its configuration, its metrics and samples of its trials appear here. A click or Enter keeps it, a second one is set beside it."),
    );
    return;
  }
  const isKept = view.kept.includes(idOf(view, index));
  const note = isKept ? make("p", { class: "note" }, "Kept; press it again or Escape to let go.") : "";
  root.replaceChildren(make("h3", {}, nameOf(view, index)), drawFacts(view, [index]), note, drawShots(view, index));
}

function showKept(root, view, letGo) {
  const indices = findKept(view);
  root.hidden = !indices.length;
  if (root.hidden) return root.replaceChildren();
  const hint = indices.length === 1 ? "Press a second row or point to set it beside this one." : "What differs comes first, in bold.";
  const cards = indices.map((index) => make("div", { class: "card" },
    make("h3", {}, nameOf(view, index)),
    drawShots(view, index),
  ));
  return root.replaceChildren(
    make("div", { class: "bar" }, make("h3", {}, indices.length > 1 ? "Side by side" : "Kept"), make("span", { class: "note" }, hint),
      make("button", { type: "button", onclick: letGo }, "Let go")),
    make("div", { class: `cards-${indices.length}` }, ...cards),
    drawFacts(view, indices),
  );
}

// A point is known by its row, or by the first of its rows, in every mode and in the page's address.
function idOf(view, index) {
  const row = view.mode === "means" ? view.set.members[index][0] : index;
  return view.protocol.rows.rowId[row];
}

function findKept(view) {
  const { protocol, set, mode } = view;
  return view.kept.map((id) => {
    const row = protocol.rows.rowId.indexOf(id);
    if (row < 0 || mode === "rows") return row;
    return set.members.findIndex((members) => members.includes(row));
  }).filter((index, place, all) => index >= 0 && all.indexOf(index) === place);
}

function listFacts(view, index) {
  const { set, protocol } = view;
  const facts = listAxes(view).map((axis) => [axis.label, valueOf(view, axis, index)]);
  if (view.mode === "means") {
    const [seeds, tokenizers] = [set.seeds[index], set.tokenizers[index]];
    facts.push(["seeds", seeds === tokenizers ? `${seeds}` : `${seeds} (tokenizers: ${tokenizers})`]);
  } else {
    facts.push(["row", set.rowId[index]], ["repetition", set.repetition[index]]);
  }
  for (const metric of protocol.metrics) {
    facts.push([metric.short, formatWithError(set.metrics[metric.name][index], set.errors[metric.name]?.[index])]);
  }
  return facts;
}

// One column a point; of several points that in which they differ comes first.
function drawFacts(view, indices) {
  const columns = indices.map((index) => listFacts(view, index));
  const facts = columns[0].map(([name], place) => ({ name, values: columns.map((column) => column[place][1]) }))
    .filter(({ values }) => values.some((value) => value !== "-" && value !== "none"));
  const differ = ({ values }) => new Set(values).size > 1;
  const lines = [...facts.filter(differ), ...facts.filter((fact) => !differ(fact))].map((fact) => make(
    "tr", { class: differ(fact) ? "differs" : "" },
    make("th", { scope: "row" }, fact.name), ...fact.values.map((value) => make("td", {}, value)),
  ));
  return make("table", { class: "facts-table" }, make("tbody", {}, ...lines));
}

// Pictures of the point's trials, one trial at a time, copied from the section of pictures.
function drawShots(view, index) {
  const { rows } = view.protocol;
  const members = view.mode === "means" ? view.set.members[index] : [index];
  const trials = members.filter((row, place) => picturesOf(rows.trial[row]).length && members.findIndex((each) => rows.trial[each] === rows.trial[row]) === place);
  if (!trials.length) return make("p", { class: "note" }, "No pictures of its trials are in this page.");
  const shots = make("div", { class: "pair" });
  const tabs = make("div", { class: "tabs" });
  const show = (chosen) => {
    const mine = picturesOf(rows.trial[chosen]).filter((figure) => ["", rows.rowId[chosen]].includes(figure.dataset.row));
    shots.replaceChildren(...mine.map((figure) => figure.cloneNode(true)));
    [...tabs.children].forEach((tab, i) => tab.setAttribute("aria-pressed", String(trials[i] === chosen)));
  };
  if (trials.length > 1) {
    tabs.append(...trials.slice(0, 8).map((row) =>
      make("button", { type: "button", onclick: () => show(row) }, rows.repetition[row])));
  }
  show(trials[0]);
  return make("div", { class: "shots" }, tabs, shots);
}

function picturesOf(trial) {
  return trial === "" ? [] : [...document.querySelectorAll(`#pictures figure[data-trial="${CSS.escape(trial)}"]`)];
}

// Any picture of a trial, as large as the window.
function enlarge(dialog, figure) {
  const image = figure.querySelector("img");
  dialog.querySelector("img").replaceWith(make("img", { src: image.src, alt: image.alt }));
  dialog.querySelector("p").textContent = image.alt;
  dialog.showModal();
}
