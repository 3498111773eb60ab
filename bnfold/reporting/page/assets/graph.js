// The whole graph: two panes, before and after, with boxes that open, and what is selected in one shown in the other.
const ON_DEMAND = 1500, AT_ONCE = 120, PIECE = 400;

class Pane {
  constructor(graph, title, chosen) {
    this.graph = neighbours(graph);
    this.chosen = chosen;
    this.open = new Set();
    this.selected = new Set();
    this.places = new Map();
    this.element = html("div", { class: "pane" });
    this.element.append(html("h4", {}, title));
    this.status = html("div", { class: "status" });
    this.canvas = svg("svg", { tabindex: "0", role: "group", "aria-label": title + ": drag or arrow keys move, + and − zoom, 0 shows all" });
    this.stage = svg("g");
    this.canvas.append(this.stage);
    this.element.append(this.status, this.canvas);
    this.depth = graph.groups.map(([, parent]) => parent);
    this.view = { x: 0, y: 0, scale: 1 };
    this.controls();
    while (this.count() < AT_ONCE && this.openLevel(AT_ONCE));
  }

  // The outermost closed group around a node; null if it is drawn itself.
  closedAround(number) {
    let found = null;
    for (let group = this.graph.nodes[number][GROUP]; group !== null; group = this.graph.groups[group][1]) {
      if (!this.open.has(group)) found = group;
    }
    return found;
  }

  count() { return new Set(this.graph.nodes.map((_, number) => { const group = this.closedAround(number); return group === null ? number : -1 - group; })).size; }

  // Opens every group that can be seen, if no more than so many boxes come of it.
  openLevel(most) {
    const opened = [];
    this.graph.groups.forEach(([, parent], group) => {
      if (!this.open.has(group) && (parent === null || (this.open.has(parent) && !opened.includes(parent)))) opened.push(group);
    });
    opened.forEach((group) => this.open.add(group));
    if (!opened.length || this.count() <= most) return opened.length > 0;
    opened.forEach((group) => this.open.delete(group));
    return false;
  }

  async draw(force = false) {
    const shown = new Map(), nodes = [], boxes = [], boxAt = new Map();
    const boxFor = (group) => {
      if (group === null) return -1;
      if (!boxAt.has(group)) {
        const around = boxFor(this.graph.groups[group][1]);
        boxAt.set(group, boxes.length);
        boxes.push({ group, around });
      }
      return boxAt.get(group);
    };
    this.graph.nodes.forEach((node, number) => {
      const group = this.closedAround(number), id = group === null ? number : -1 - group;
      if (!shown.has(id)) {
        shown.set(id, nodes.length);
        nodes.push({ id, group, members: [], box: boxFor(group === null ? node[GROUP] : this.graph.groups[group][1]) });
      }
      nodes[shown.get(id)].members.push(number);
    });
    if (nodes.length > ON_DEMAND && !force) {
      const button = html("button", { type: "button" }, `Draw ${nodes.length.toLocaleString("en")} operators`);
      button.onclick = () => this.draw(true);
      this.status.replaceChildren(button);
      this.stage.replaceChildren();
      this.element.dataset.ready = "asks";
      return;
    }
    this.status.textContent = nodes.length > 300 ? "drawing…" : "";
    this.element.dataset.ready = "";
    const at = new Map();
    nodes.forEach((item, place) => item.members.forEach((number) => at.set(number, place)));
    const edges = new Map();
    for (const [from, to] of this.graph.edges) {
      const a = at.get(from), b = at.get(to);
      if (a !== b) edges.set(`${a} ${b}`, [a, b]);
    }
    const turn = this.turn = (this.turn || 0) + 1;
    const result = await layout({ nodes: nodes.map((item) => [WIDTH, HEIGHT, item.box]), edges: [...edges.values()], boxes: boxes.map((box) => box.around) });
    if (turn !== this.turn) return;
    this.size = [result.width, result.height];
    this.stage.replaceChildren();
    this.places.clear();
    const parts = [
      ...boxes.map((box, place) => () => this.drawBox(box.group, result.boxes[place])),
      ...result.edges.map((points) => () => drawEdge(points)),
      ...nodes.map((item, place) => () => this.drawItem(item, result.nodes[place], nodes.length)),
    ];
    // A large graph comes in pieces, between which the page answers.
    for (let at = 0; at < parts.length; at += PIECE) {
      const layer = document.createDocumentFragment();
      parts.slice(at, at + PIECE).forEach((part) => layer.append(part()));
      this.stage.append(layer);
      if (at + PIECE < parts.length) await new Promise((resolve) => setTimeout(resolve, 0));
      if (turn !== this.turn) return;
    }
    this.status.textContent = "";
    if (!this.drawn) { this.drawn = true; this.begin(); }
    this.mark();
    this.element.dataset.ready = "yes";
  }

  drawItem(item, spot, count) {
    const element = drawNode(item.group === null ? boxOf(this.graph.nodes[item.id]) : this.closedBox(item), spot);
    element.setAttribute("role", "button");
    element.setAttribute("tabindex", count > 400 ? "-1" : "0");
    const act = () => item.group === null ? this.chosen(this, item.id) : this.toggle(item.group);
    element.addEventListener("click", (event) => { if (!this.moved) act(); event.stopPropagation(); });
    element.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); act(); } });
    item.members.forEach((number) => this.places.set(number, { element, spot }));
    return element;
  }

  closedBox(item) {
    const states = new Map();
    let findings = 0;
    for (const number of item.members) {
      const node = this.graph.nodes[number];
      if (node[STATE]) states.set(node[STATE], (states.get(node[STATE]) || 0) + 1);
      findings += node[MESSAGES].length;
    }
    const told = [...states].map(([state, count]) => `${count} ${state}`);
    const label = this.graph.groups[item.group][0], count = `${item.members.length} operators`;
    const data = { group: item.group };
    if (findings) data.finding = findings;
    const state = states.has("stays") ? "stays" : [...states].sort((a, b) => b[1] - a[1]).map(([one]) => one)[0];
    if (state) data.state = state;
    return { type: label, label: "▸ " + count, title: [label, count, ...told, findings ? `${findings} findings` : ""].filter(Boolean).join("\n"), count: item.members.length, data };
  }

  drawBox(group, [x, y, width, height]) {
    const element = svg("g", { class: "box", "data-box": group });
    element.append(svg("title", {}, this.graph.groups[group][0] + "\nclose"));
    element.append(svg("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 8 }));
    const text = svg("text", { x: x - width / 2 + 8, y: y - height / 2 + 13, role: "button", tabindex: "0" }, "▾ " + cut(this.graph.groups[group][0], Math.max(12, Math.floor(width / 7))));
    text.addEventListener("click", (event) => { event.stopPropagation(); this.toggle(group); });
    text.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); this.toggle(group); } });
    element.append(text);
    return element;
  }

  toggle(group) {
    if (!this.open.delete(group)) this.open.add(group);
    return this.draw();
  }

  async reveal(numbers) {
    let changed = false;
    for (const number of numbers) {
      for (let group = this.graph.nodes[number][GROUP]; group !== null; group = this.graph.groups[group][1]) {
        if (!this.open.has(group)) { this.open.add(group); changed = true; }
      }
    }
    if (changed || !this.drawn) await this.draw();
    this.selected = new Set(numbers);
    this.mark();
    const first = this.places.get(numbers[0]);
    if (first) this.centre(first.spot);
  }

  mark() {
    const refusing = new Set(), selected = new Set();
    for (const number of this.selected) if (this.places.has(number)) selected.add(this.places.get(number).element);
    this.graph.nodes.forEach((node, number) => {
      if (node[BLOCKS].length && node[BLOCKS].some((one) => this.selected.has(one)) && this.places.has(number)) refusing.add(this.places.get(number).element);
    });
    for (const { element } of this.places.values()) {
      element.toggleAttribute("data-selected", selected.has(element));
      element.toggleAttribute("data-refuses", refusing.has(element));
    }
  }

  // -- moving about ---------------------------------------------------------------------------------------

  controls() {
    const pointers = new Map();
    let spread = 0;
    this.canvas.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, [event.clientX, event.clientY]); this.moved = false; spread = 0; });
    this.canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY];
      pointers.set(event.pointerId, now);
      if (pointers.size === 2) {
        const [a, b] = [...pointers.values()], wide = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (spread) this.zoom(wide / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
        spread = wide;
        this.moved = true;
        return;
      }
      const far = Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (far > 2 && !this.moved) { this.moved = true; this.canvas.setPointerCapture(event.pointerId); }
      this.view.x += now[0] - before[0];
      this.view.y += now[1] - before[1];
      this.place();
    });
    const end = (event) => pointers.delete(event.pointerId);
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
    this.canvas.addEventListener("pointerleave", end);
    this.canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && !this.canvas.matches(":focus, :focus-within")) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (event.key in steps) { this.view.x += steps[event.key][0]; this.view.y += steps[event.key][1]; this.place(); }
      else if (event.key === "+" || event.key === "=") this.zoom(1.25);
      else if (event.key === "-" || event.key === "−") this.zoom(0.8);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    });
  }

  place() {
    this.stage.setAttribute("transform", `translate(${this.view.x},${this.view.y}) scale(${this.view.scale})`);
  }

  zoom(factor, clientX = null, clientY = null) {
    const frame = this.canvas.getBoundingClientRect();
    const x = clientX === null ? frame.width / 2 : clientX - frame.left, y = clientY === null ? frame.height / 2 : clientY - frame.top;
    const scale = Math.min(4, Math.max(0.01, this.view.scale * factor)), real = scale / this.view.scale;
    this.view = { x: x - (x - this.view.x) * real, y: y - (y - this.view.y) * real, scale };
    this.place();
  }

  fit() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!this.size || !width) return;
    const scale = Math.min(1, width / this.size[0], height / this.size[1]);
    this.view = { x: (width - this.size[0] * scale) / 2, y: (height - this.size[1] * scale) / 2, scale };
    this.place();
  }

  // At first the beginning of the graph, in a size that can be read.
  begin() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!this.size) return;
    const scale = Math.min(1, Math.max(0.55, Math.min(width / this.size[0], height / this.size[1])));
    const first = this.places.size ? [...this.places.values()][0].spot[0] : 0;
    const x = this.size[0] * scale <= width ? (width - this.size[0] * scale) / 2 : width / 2 - first * scale;
    this.view = { x, y: 0, scale };
    this.place();
  }

  centre([x, y]) {
    const { width, height } = this.canvas.getBoundingClientRect();
    this.view.scale = Math.max(this.view.scale, 0.8);
    this.view.x = width / 2 - x * this.view.scale;
    this.view.y = height / 2 - y * this.view.scale;
    this.place();
  }
}

function graphView(holder, data) {
  const about = html("p", { class: "about", "aria-live": "polite" });
  const tell = (pane, number) => {
    const node = pane.graph.nodes[number];
    const told = [node[SHAPE], node[STATE], node[FATE], ...node[MESSAGES]].filter(Boolean);
    about.replaceChildren(html("b", {}, cut(nameOf(node), 400)), ` ${node[TYPE]}. ${cut(told.join(". "), 1500)}`);
  };
  const choose = async (pane, number) => {
    pane.selected = new Set([number]);
    pane.mark();
    tell(pane, number);
    const there = pane === before ? links(data, number) : backLinks(data, number);
    const other = pane === before ? after : before;
    if (there.length) await other.reveal(there);
    else { other.selected = new Set(); other.mark(); }
  };
  const before = new Pane(data.before, "before", choose), after = new Pane(data.after, "after", choose);
  const both = (action) => () => { action(before); action(after); };
  const tools = html("div", { class: "tools" });
  const search = html("input", { type: "search", placeholder: "Search by name or type", "aria-label": "Search the graph" });
  const matches = html("ul", { class: "matches", "aria-live": "polite" });
  search.addEventListener("input", () => {
    const text = search.value.trim().toLowerCase(), found = [];
    for (let number = 0; text && number < data.before.nodes.length && found.length < 12; number += 1) {
      const node = data.before.nodes[number];
      if (nameOf(node).toLowerCase().includes(text) || node[TYPE].toLowerCase().includes(text)) found.push(number);
    }
    matches.replaceChildren(...found.map((number) => {
      const item = html("li"), button = html("button", { type: "button" }, cut(nameOf(data.before.nodes[number]), 60));
      button.onclick = async () => { await before.reveal([number]); await choose(before, number); };
      item.append(button);
      return item;
    }));
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && matches.firstChild) { event.preventDefault(); matches.querySelector("button").click(); }
  });
  const button = (text, action) => { const element = html("button", { type: "button" }, text); element.onclick = action; tools.append(element); };
  tools.append(search);
  button("Open all", both((pane) => { pane.graph.groups.forEach((_, group) => pane.open.add(group)); pane.draw(); }));
  button("Close all", both((pane) => { pane.open.clear(); pane.draw(); }));
  button("+", both((pane) => pane.zoom(1.25)));
  button("−", both((pane) => pane.zoom(0.8)));
  button("Show all", both((pane) => pane.fit()));
  const panes = html("div", { class: "panes" });
  panes.append(before.element, after.element);
  holder.append(tools, matches, panes, about);
  before.draw();
  after.draw();
  window.addEventListener("beforeprint", both((pane) => pane.fit()));
  holder.select = async (number) => { await before.reveal([number]); await choose(before, number); };
  return { before, after };
}
