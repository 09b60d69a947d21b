// What the reader chose, in the page's address: only what is not as it comes.

function readAddress() {
  const params = new URLSearchParams(location.hash.slice(1));
  const hidden = new Map();
  for (const pair of params.getAll("hide")) {
    const [axis, value] = [pair.slice(0, pair.indexOf("~")), pair.slice(pair.indexOf("~") + 1)];
    hidden.set(axis, (hidden.get(axis) ?? new Set()).add(value));
  }
  return { params, hidden, kept: params.getAll("keep").slice(0, MAX_KEPT) };
}

function writeAddress(view, fields) {
  const params = new URLSearchParams();
  for (const [name, [value, usual]] of Object.entries(fields)) {
    if (String(value) !== String(usual)) params.append(name, value);
  }
  for (const [axis, values] of view.hidden) for (const value of values) params.append("hide", `${axis}~${value}`);
  for (const id of view.kept) params.append("keep", id);
  const text = params.toString();
  if (text === location.hash.slice(1)) return;
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}
