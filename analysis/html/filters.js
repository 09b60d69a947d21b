// Filters: a set of chips for every axis in which the rows differ.

const MAX_CHIPS = 60;

function listAxes(view) {
  return view.mode === "rows" ? [...view.protocol.axes, ...view.protocol.rowAxes] : view.protocol.axes;
}

function valueOf(view, axis, index) {
  return axis.values[view.set.axes[axis.name][index]];
}

// What is hidden is kept by value, so that it means the same in every protocol.
function listPassing(view) {
  const axes = listAxes(view).filter((axis) => view.hidden.get(axis.name)?.size);
  const passing = [];
  for (let index = 0; index < view.set.colour.length; index += 1) {
    if (axes.every((axis) => !view.hidden.get(axis.name).has(valueOf(view, axis, index)))) passing.push(index);
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
  if (!view.hidden.has(axis.name)) view.hidden.set(axis.name, new Set());
  const hidden = view.hidden.get(axis.name);
  const chips = axis.values.slice(0, MAX_CHIPS).map((value) => makeChip(value, !hidden.has(value), (isOn) => {
    if (isOn) hidden.delete(value);
    else hidden.add(value);
    onChange();
  }, { "data-axis": axis.name, "data-value": value }));
  const rest = axis.values.length - chips.length;
  if (rest > 0) chips.push(make("span", { class: "note" }, `and ${rest} more values, always shown`));
  const many = axis.values.length > 24 ? "chips-long" : "";
  return make("fieldset", { class: many }, make("legend", {}, axis.label), ...chips);
}

function makeChip(text, isOn, onChange, attributes) {
  const box = make("input", { type: "checkbox", ...attributes, onchange: (event) => onChange(event.target.checked) });
  box.checked = isOn;
  return make("label", { class: "chip" }, box, make("span", {}, text));
}
