// The table of BatchNormalizations: sorting, filters that stand in the URL, and the neighbourhood of each row.
const FILTERS = ["q", "placement", "fold", "finding"];

function readState(number) {
  const all = new URLSearchParams(location.hash.slice(1)), found = {};
  for (const name of [...FILTERS, "sort"]) found[name] = all.get(`m${number}.${name}`) || "";
  return found;
}

function writeState(number, state) {
  const all = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  for (const [name, value] of Object.entries(state)) {
    if (value) all.set(`m${number}.${name}`, value);
    else all.delete(`m${number}.${name}`);
  }
  const text = all.toString();
  history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
}

function bnTable(section, number, data) {
  const table = section.querySelector("table.bns"), form = section.querySelector("form.filters:not(.grid > form)");
  if (!table) return;
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells], output = form.querySelector("output");
  const original = new Map(rows.map((row, at) => [row, at]));
  const state = readState(number);
  heads.forEach((head, at) => head.classList.toggle("number", rows.length > 0 && rows[0].cells[at].classList.contains("number")));

  function show() {
    let count = 0;
    const text = state.q.toLowerCase();
    for (const row of rows) {
      const name = data.names ? data.names[row.dataset.bn] : row.cells[0].textContent;
      const fits = (!text || name.toLowerCase().includes(text)) && (!state.placement || row.dataset.placement === state.placement)
        && (!state.fold || row.dataset.fold === state.fold) && (!state.finding || row.dataset.finding.split(" ").includes(state.finding));
      row.hidden = !fits;
      if (row.near) row.near.hidden = !fits;
      count += fits;
    }
    output.textContent = count === rows.length ? `${count} BN` : `${count} of ${rows.length} BN`;
  }

  function sort() {
    const column = state.sort ? Math.abs(parseInt(state.sort, 10)) - 1 : -1, down = state.sort.startsWith("-");
    heads.forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const value = (row) => row.cells[column].textContent.trim();
    const compare = (a, b) => value(a).localeCompare(value(b), "en", { numeric: true }) * (down ? -1 : 1) || original.get(a) - original.get(b);
    const order = [...rows].sort(column < 0 ? (a, b) => original.get(a) - original.get(b) : compare);
    for (const row of order) { body.append(row); if (row.near) body.append(row.near); }
  }

  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    state.sort = state.sort === `${at + 1}` ? `-${at + 1}` : state.sort === `-${at + 1}` ? "" : `${at + 1}`;
    sort();
    writeState(number, state);
  }));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    for (const name of FILTERS) state[name] = form.elements[name].value;
    show();
    writeState(number, state);
  });
  const take = () => {
    Object.assign(state, readState(number));
    for (const name of FILTERS) form.elements[name].value = state[name];
    sort();
    show();
  };
  window.addEventListener("hashchange", take);
  take();

  for (const row of rows) {
    const button = row.querySelector("button.open");
    if (!button) continue;
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) { row.near.remove(); row.near = null; return; }
      row.near = nearRow(section, data, Number(row.dataset.bn), row.cells.length);
      row.after(row.near);
    });
  }
}

// Within two operators to each side, and the way to those that stand in its way.
function around(graph, centres, also) {
  neighbours(graph);
  const kept = new Set(centres);
  for (const next of [graph.ahead, graph.behind]) {
    let rim = [...centres];
    for (let step = 0; step < 2; step += 1) {
      rim = rim.flatMap((one) => next[one]).filter((one, at, all) => all.indexOf(one) === at);
      rim.forEach((one) => kept.add(one));
    }
    const from = new Map(centres.map((one) => [one, null])), queue = [...centres];
    for (let at = 0; at < queue.length && at < 400; at += 1) {
      for (const one of next[queue[at]]) if (!from.has(one)) { from.set(one, queue[at]); queue.push(one); }
    }
    for (const goal of also) for (let one = goal; from.has(one) && one !== null; one = from.get(one)) kept.add(one);
  }
  return [...kept].sort((a, b) => a - b).slice(0, 60);
}

async function drawNear(pane, graph, numbers, marks) {
  const at = new Map(numbers.map((number, place) => [number, place]));
  const edges = new Map();
  for (const number of numbers) for (const to of neighbours(graph).ahead[number]) if (at.has(to)) edges.set(`${number} ${to}`, [at.get(number), at.get(to)]);
  const result = await layout({ nodes: numbers.map(() => [WIDTH, HEIGHT, -1]), edges: [...edges.values()], boxes: [] });
  const canvas = svg("svg", { viewBox: `0 0 ${result.width} ${result.height}`, role: "img", "aria-label": numbers.map((one) => cut(nameOf(graph.nodes[one]), 60)).join(", ") });
  canvas.style.maxWidth = `${result.width}px`;
  canvas.style.margin = "0 auto";
  result.edges.forEach((points) => canvas.append(drawEdge(points)));
  numbers.forEach((number, place) => canvas.append(drawNode(boxOf(graph.nodes[number], marks(number)), result.nodes[place])));
  pane.append(canvas);
  pane.dataset.ready = "yes";
}

function nearRow(section, data, index, columns) {
  const row = html("tr", { class: "near" }), cell = html("td", { colspan: columns }), panes = html("div", { class: "panes" });
  row.append(cell);
  const centre = data.bns[index];
  if (centre < 0) { cell.textContent = "not in the graph"; return row; }
  const before = neighbours(data.before), node = before.nodes[centre];
  const blockers = before.nodes.map((one, at) => one[BLOCKS].includes(centre) ? at : -1).filter((one) => one >= 0);
  const shown = around(before, [centre], blockers);
  let there = links(data, centre);
  if (!there.length) there = shown.filter((one) => one !== centre && (before.ahead[centre].includes(one) || before.behind[centre].includes(one))).flatMap((one) => links(data, one));
  const left = html("div", { class: "pane" }), right = html("div", { class: "pane" });
  left.append(html("h4", {}, "before"));
  right.append(html("h4", {}, "after"));
  panes.append(left, right);
  const text = html("p", {}, cut([node[FATE], ...node[MESSAGES]].filter(Boolean).join(" · "), 1200));
  const jump = html("button", { type: "button" }, "Show in the whole graph");
  jump.onclick = () => { const graph = section.querySelector(".graph"); graph.scrollIntoView(); graph.select(centre); };
  cell.append(text, panes, jump);
  drawNear(left, before, shown, (one) => ({ ...(one === centre ? { center: "" } : {}), ...(blockers.includes(one) ? { refuses: "" } : {}) }));
  if (there.length) drawNear(right, data.after, around(data.after, [...new Set(there)], []), () => ({}));
  else right.append(html("p", { class: "status" }, "nothing of it is left"));
  const profile = data.profiles[index];
  if (profile && profile.before.length) cell.append(rangesPlot(profile));
  return row;
}
