// The whole graph: two panes, before and after, with boxes that open, and what is selected in one shown in the other.
const ON_DEMAND = 1500, AT_ONCE = 120;

class Pane {
  constructor(graph, title, chosen) {
    this.graph = neighbours(graph);
    this.chosen = chosen;
    this.open = new Set();
    this.selected = new Set();
    this.at = new Map();
    this.element = html("div", { class: "pane" });
    this.status = html("div", { class: "status", "aria-live": "polite" });
    this.painter = new Painter(title + ": drag or arrow keys move, + and − zoom, 0 shows all", { node: (node) => this.drawItem(node), box: (box) => this.drawBox(box) });
    this.frame = this.painter.frame;
    this.element.append(html("h4", {}, title), this.status, this.painter.element);
    this.view = { x: 0, y: 0, scale: 1 };
    this.controls();
    while (this.count() < AT_ONCE && this.openLevel(AT_ONCE));
  }

  // What shows each node: its own number, or -1 - the outermost closed group around it. Outer groups come first.
  shown() {
    const closed = [];
    this.graph.groups.forEach(([, parent], group) => closed.push(parent !== null && closed[parent] !== null ? closed[parent] : this.open.has(group) ? null : group));
    return this.graph.nodes.map((node, number) => node[GROUP] === null || closed[node[GROUP]] === null ? number : -1 - closed[node[GROUP]]);
  }

  count() { return new Set(this.shown()).size; }

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

  // What is to be drawn with these groups open: items, open boxes with the box around each, and edges between items.
  contents() {
    const numbers = new Map(), items = [], boxes = [], boxAt = new Map();
    const boxFor = (group) => {
      if (group === null) return -1;
      if (!boxAt.has(group)) {
        const around = boxFor(this.graph.groups[group][1]);
        boxAt.set(group, boxes.length);
        boxes.push({ group, around });
      }
      return boxAt.get(group);
    };
    this.shown().forEach((id, number) => {
      if (!numbers.has(id)) {
        const group = id < 0 ? -1 - id : null;
        numbers.set(id, items.length);
        items.push({ id, group, members: [], box: boxFor(group === null ? this.graph.nodes[number][GROUP] : this.graph.groups[group][1]) });
      }
      items[numbers.get(id)].members.push(number);
    });
    const at = new Map(), edges = new Map();
    items.forEach((item, place) => {
      item.members.forEach((number) => at.set(number, place));
      Object.assign(item, this.summary(item.members));
    });
    for (const [from, to] of this.graph.edges) {
      const a = at.get(from), b = at.get(to);
      if (a !== b) edges.set(a * items.length + b, [a, b]);
    }
    return { items, boxes, at, edges: [...edges.values()] };
  }

  // The state that operators share, or the worst of them, how many have which, and the number of their findings.
  summary(members) {
    const states = new Map();
    let findings = 0;
    for (const number of members) {
      const node = this.graph.nodes[number];
      if (node[STATE]) states.set(node[STATE], (states.get(node[STATE]) || 0) + 1);
      findings += node[MESSAGES].length;
    }
    const state = states.has("stays") ? "stays" : [...states].sort((a, b) => b[1] - a[1]).map(([one]) => one)[0] || "";
    return { state, states, findings };
  }

  async draw(force = false) {
    const { items, boxes, at, edges } = this.contents();
    this.agreed ||= force;
    if (items.length > ON_DEMAND && !this.agreed) {
      const button = html("button", { type: "button" }, `Draw ${items.length.toLocaleString("en")} operators`);
      button.onclick = () => this.draw(true);
      this.status.replaceChildren(button);
      this.painter.take(null);
      this.painter.now();
      this.element.dataset.ready = "asks";
      return;
    }
    this.status.textContent = items.length > 300 ? "drawing…" : "";
    this.element.dataset.ready = "";
    const turn = this.turn = (this.turn || 0) + 1;
    // Until the worker has answered, what was drawn before can be moved and clicked.
    const result = await layout({ nodes: items.map((item) => [WIDTH, HEIGHT, item.box]), edges, boxes: boxes.map((box) => box.around) });
    if (turn !== this.turn) return;
    this.at = at;
    this.scene = new Scene(result, items, boxes);
    this.painter.take(this.scene);
    this.status.textContent = "";
    this.mark();
    if (this.painter.sees(this.view) && this.drawn) this.place();
    else this.begin();
    this.drawn = true;
    this.painter.now();
    this.element.dataset.ready = "yes";
  }

  drawItem(place) {
    const item = this.scene.items[place];
    const element = drawNode(item.group === null ? boxOf(this.graph.nodes[item.id]) : this.closedBox(item), this.scene.spots[place]);
    for (const [key, value] of [["role", "button"], ["tabindex", "0"], ["data-item", place]]) element.setAttribute(key, value);
    this.markElement(element, place);
    return element;
  }

  closedBox(item) {
    const told = [...item.states].map(([state, count]) => `${count} ${state}`);
    const label = this.graph.groups[item.group][0], count = `${item.members.length} operators`;
    const data = { group: item.group };
    if (item.findings) data.finding = item.findings;
    if (item.state) data.state = item.state;
    return { type: label, label: "▸ " + count, title: [label, count, ...told, item.findings ? `${item.findings} findings` : ""].filter(Boolean).join("\n"), count: item.members.length, data };
  }

  drawBox(place) {
    const { group } = this.scene.boxes[place], [x, y, width, height] = this.scene.frames[place], label = this.graph.groups[group][0];
    const element = svg("g", { class: "box", "data-box": group });
    element.append(svg("title", {}, label + "\nclose"));
    element.append(svg("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 8 }));
    element.append(svg("text", { x: x - width / 2 + 8, y: y - height / 2 + 13, role: "button", tabindex: "0" }, "▾ " + cut(label, Math.max(12, Math.floor(width / 7)))));
    return element;
  }

  // What a click or a key on an element does: an operator is chosen, a group opens or closes.
  act(target) {
    const node = target.closest("[data-item]"), box = target.closest(".box > text");
    if (node) return this.choose(Number(node.dataset.item));
    return box ? this.toggle(Number(box.parentNode.dataset.box)) : null;
  }

  choose(place) {
    const item = this.scene.items[place];
    return item.group === null ? this.chosen(this, item.id) : this.toggle(item.group);
  }

  // Opens or closes a group, whose corner stays where it is, and the focus with it.
  async toggle(group) {
    const focused = this.frame.contains(document.activeElement), before = this.corner(group), { x, y, scale } = this.view;
    if (!this.open.delete(group)) this.open.add(group);
    await this.draw();
    const after = this.corner(group);
    if (before && after) {
      this.view = { x: x + (before[0] - after[0]) * scale, y: y + (before[1] - after[1]) * scale, scale };
      this.place();
      this.painter.now();
    }
    const element = this.frame.querySelector(`[data-group="${group}"], [data-box="${group}"] > text`);
    if (focused && element) element.focus({ preventScroll: true });
  }

  corner(group) {
    if (!this.scene) return null;
    const node = this.scene.items.findIndex((item) => item.group === group), box = this.scene.boxes.findIndex((one) => one.group === group);
    const { nodeBounds, boxBounds } = this.scene;
    return node >= 0 ? nodeBounds.slice(4 * node, 4 * node + 2) : box >= 0 ? boxBounds.slice(4 * box, 4 * box + 2) : null;
  }

  async reveal(numbers) {
    let changed = false;
    for (const number of numbers) {
      for (let group = this.graph.nodes[number][GROUP]; group !== null; group = this.graph.groups[group][1]) {
        if (!this.open.has(group)) { this.open.add(group); changed = true; }
      }
    }
    if (changed || !this.painter.scene) await this.draw(true);
    this.select(numbers);
    const first = this.at.get(numbers[0]);
    if (first !== undefined) this.centre(this.scene.spots[first]);
    this.painter.now();
  }

  select(numbers) {
    this.selected = new Set(numbers);
    this.mark();
    this.painter.later();
  }

  mark() {
    const items = (numbers) => new Set(numbers.map((number) => this.at.get(number)).filter((place) => place !== undefined));
    const refusing = this.selected.size ? this.graph.nodes.flatMap((node, number) => node[BLOCKS].some((one) => this.selected.has(one)) ? [number] : []) : [];
    this.painter.marks = { selected: items([...this.selected]), refusing: items(refusing) };
    this.painter.layers.nodes.drawn.forEach((element, place) => this.markElement(element, place));
  }

  markElement(element, place) {
    element.toggleAttribute("data-selected", this.painter.marks.selected.has(place));
    element.toggleAttribute("data-refuses", this.painter.marks.refusing.has(place));
  }

  // -- moving about ---------------------------------------------------------------------------------------

  controls() {
    const pointers = new Map();
    let spread = 0;
    this.frame.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, [event.clientX, event.clientY]); this.moved = false; spread = 0; });
    this.frame.addEventListener("pointermove", (event) => {
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
      if (far > 2 && !this.moved) { this.moved = true; this.frame.setPointerCapture(event.pointerId); }
      this.view.x += now[0] - before[0];
      this.view.y += now[1] - before[1];
      this.place();
    });
    const end = (event) => pointers.delete(event.pointerId);
    this.frame.addEventListener("pointerup", end);
    this.frame.addEventListener("pointercancel", end);
    this.frame.addEventListener("pointerleave", end);
    this.frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && !this.frame.matches(":focus, :focus-within")) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
    }, { passive: false });
    this.frame.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (event.key in steps) { this.view.x += steps[event.key][0]; this.view.y += steps[event.key][1]; this.place(); }
      else if (event.key === "+" || event.key === "=") this.zoom(1.25);
      else if (event.key === "-" || event.key === "−") this.zoom(0.8);
      else if (event.key === "0") this.fit();
      else if (event.key === "Enter" || event.key === " ") { if (event.target === this.frame) return; this.act(event.target); }
      else return;
      event.preventDefault();
    });
    this.frame.addEventListener("click", (event) => {
      if (this.moved) { this.moved = false; return; }
      const place = this.painter.itemAt(event.clientX, event.clientY);
      if (place === null) this.act(event.target);
      else this.choose(place);
    });
    // By Tab one comes to operators that lie just outside.
    this.frame.addEventListener("focusin", (event) => {
      const node = event.target.closest("[data-item]");
      if (node && node.matches(":focus-visible") && !this.inside(node)) this.centre(this.scene.spots[node.dataset.item]);
    });
  }

  inside(element) {
    const one = element.getBoundingClientRect(), all = this.painter.element.getBoundingClientRect();
    return one.left >= all.left && one.right <= all.right && one.top >= all.top && one.bottom <= all.bottom;
  }

  place() { this.painter.move(this.view); }

  zoom(factor, clientX = null, clientY = null) {
    const frame = this.frame.getBoundingClientRect();
    const x = clientX === null ? frame.width / 2 : clientX - frame.left, y = clientY === null ? frame.height / 2 : clientY - frame.top;
    const scale = Math.min(4, Math.max(Math.min(0.01, this.view.scale), this.view.scale * factor)), real = scale / this.view.scale;
    this.view = { x: x - (x - this.view.x) * real, y: y - (y - this.view.y) * real, scale };
    this.place();
  }

  fit() {
    const { width, height } = this.frame.getBoundingClientRect();
    if (!this.scene || !width) return;
    const scale = Math.min(1, width / this.scene.size[0], height / this.scene.size[1]);
    this.view = { x: (width - this.scene.size[0] * scale) / 2, y: (height - this.scene.size[1] * scale) / 2, scale };
    this.place();
  }

  // At first the beginning of the graph, in a size that can be read.
  begin() {
    const { width, height } = this.frame.getBoundingClientRect();
    const scale = Math.min(1, Math.max(0.55, Math.min(width / this.scene.size[0], height / this.scene.size[1])));
    const first = this.scene.spots.length ? this.scene.spots[0][0] : 0;
    const x = this.scene.size[0] * scale <= width ? (width - this.scene.size[0] * scale) / 2 : width / 2 - first * scale;
    this.view = { x, y: 0, scale };
    this.place();
  }

  centre([x, y]) {
    const { width, height } = this.frame.getBoundingClientRect();
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
    pane.select([number]);
    tell(pane, number);
    const there = pane === before ? links(data, number) : backLinks(data, number);
    const other = pane === before ? after : before;
    if (there.length) await other.reveal(there);
    else other.select([]);
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
  button("Close all", both((pane) => { pane.open.clear(); pane.agreed = false; pane.draw(); }));
  button("+", both((pane) => pane.zoom(1.25)));
  button("−", both((pane) => pane.zoom(0.8)));
  button("Show all", both((pane) => pane.fit()));
  const panes = html("div", { class: "panes" });
  panes.append(before.element, after.element);
  holder.append(tools, matches, panes, about);
  before.draw();
  after.draw();
  window.addEventListener("beforeprint", both((pane) => pane.painter.print()));
  window.addEventListener("afterprint", both((pane) => pane.painter.printed()));
  window.addEventListener("theme", both((pane) => pane.painter.later()));
  holder.select = async (number) => { await before.reveal([number]); await choose(before, number); };
  return { before, after };
}
