// Filters: a set of chips for every axis in which the rows differ.

const MAX_CHIPS = 60;

function listAxes(view) {
  return view.mode === "rows" ? [...view.protocol.axes, ...view.protocol.rowAxes] : view.protocol.axes;
}

function passes(view, index) {
  for (const axis of listAxes(view)) {
    const hidden = view.hidden.get(axis.name);
    if (hidden && hidden.has(view.set.axes[axis.name][index])) return false;
  }
  return true;
}

function listPassing(view) {
  const passing = [];
  for (let index = 0; index < view.set.alignment.length; index += 1) {
    if (passes(view, index)) passing.push(index);
  }
  return passing;
}

function drawFilters(root, view, onChange) {
  const axes = listAxes(view).filter((axis) => !axis.follows);
  const followers = listAxes(view).filter((axis) => axis.follows);
  root.replaceChildren(...axes.map((axis) => drawAxis(axis, view, onChange)));
  if (followers.length) {
    const leaders = [...new Set(followers.map((axis) => axis.follows))];
    const words = leaders.map((leader) => {
      const names = followers.filter((axis) => axis.follows === leader).map((axis) => axis.label);
      return `${leader} (${names.join(", ")})`;
    });
    root.append(make("p", { class: "note" }, `One filter serves what differs together: ${words.join("; ")}.`));
  }
  if (!axes.length) root.append(make("p", { class: "note" }, "All rows are of one configuration."));
}

function drawAxis(axis, view, onChange) {
  const hidden = view.hidden.get(axis.name) ?? new Set();
  view.hidden.set(axis.name, hidden);
  const chips = axis.values.slice(0, MAX_CHIPS).map((value, index) => {
    const box = make("input", {
      type: "checkbox", "data-axis": axis.name, "data-value": value,
      onchange: (event) => {
        if (event.target.checked) hidden.delete(index);
        else hidden.add(index);
        onChange();
      },
    });
    box.checked = !hidden.has(index);
    return make("label", { class: "chip" }, box, make("span", {}, value));
  });
  const rest = axis.values.length - chips.length;
  if (rest > 0) chips.push(make("span", { class: "note" }, `and ${rest} more values, always shown`));
  const many = axis.values.length > 24 ? "chips-long" : "";
  return make("fieldset", { class: many }, make("legend", {}, axis.label), ...chips);
}
