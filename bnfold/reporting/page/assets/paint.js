// Draws the part of a layout that is in view: operators as elements while they are few, else as rectangles on a canvas beneath.
const MOST_NODES = 400, MOST_EDGES = 1200, BEYOND = 120, FAR = 0.3, PRINTED = 3000;

// Rectangles in one array, four numbers each: left, top, right, bottom.
function bounds(things, rectangle) {
  const all = new Float64Array(4 * things.length);
  things.forEach((thing, at) => all.set(rectangle(thing), 4 * at));
  return all;
}

function within(all, [left, top, right, bottom]) {
  const found = [];
  for (let at = 0; at < all.length; at += 4) {
    if (all[at] <= right && all[at + 2] >= left && all[at + 1] <= bottom && all[at + 3] >= top) found.push(at / 4);
  }
  return found;
}

// What the worker laid out: items (operators and closed groups), open boxes and edges, by their numbers there.
class Scene {
  constructor(result, items, boxes) {
    Object.assign(this, { items, boxes, size: [result.width, result.height], spots: result.nodes, frames: result.boxes, paths: result.edges });
    this.nodeBounds = bounds(this.spots, ([x, y]) => [x - WIDTH / 2, y - HEIGHT / 2, x + WIDTH / 2, y + HEIGHT / 2]);
    this.boxBounds = bounds(this.frames, ([x, y, width, height]) => [x - width / 2, y - height / 2, x + width / 2, y + height / 2]);
    this.edgeBounds = bounds(this.paths, (points) => {
      const x = points.map((point) => point[0]), y = points.map((point) => point[1]);
      return [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y)];
    });
  }
}

// Elements by number, in the order of their numbers; one that has the focus is kept.
class Layer {
  constructor(make) {
    this.make = make;
    this.group = svg("g");
    this.drawn = new Map();
  }

  show(wanted) {
    const kept = new Set(wanted), focus = document.activeElement;
    for (const [number, element] of this.drawn) {
      if (kept.has(number) || (focus && element.contains(focus))) continue;
      element.remove();
      this.drawn.delete(number);
    }
    let next = null;
    for (let at = wanted.length - 1; at >= 0; at -= 1) {
      let element = this.drawn.get(wanted[at]);
      if (!element) {
        element = this.make(wanted[at]);
        this.drawn.set(wanted[at], element);
        this.group.insertBefore(element, next);
      }
      next = element;
    }
  }

  clear() {
    this.group.replaceChildren();
    this.drawn.clear();
  }
}

// The colours of the page as they are now, for the canvas.
function colours() {
  const root = getComputedStyle(document.documentElement), found = { states: new Map() };
  for (const name of ["page", "panel", "plain", "edge", "finding", "accent", "caution", "soft"]) found[name] = root.getPropertyValue("--" + name).trim();
  for (const mark of document.querySelector(".legend").querySelectorAll("[data-state]")) {
    const style = getComputedStyle(mark);
    found.states.set(mark.dataset.state, [style.backgroundColor, style.borderTopColor]);
  }
  return found;
}

// The numbers `shown` of a scene on a canvas; `place` is [x, y, scale].
function paint(canvas, scene, shown, [x, y, scale], ratio, marks) {
  const pen = canvas.getContext("2d"), colour = colours();
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
  const thin = 1 / scale;
  pen.lineWidth = thin;
  pen.strokeStyle = pen.fillStyle = colour.plain;
  for (const box of shown.boxes) {
    const [middle, centre, width, height] = scene.frames[box];
    pen.globalAlpha = 0.05;
    pen.fillRect(middle - width / 2, centre - height / 2, width, height);
    pen.globalAlpha = 1;
    pen.strokeRect(middle - width / 2, centre - height / 2, width, height);
  }
  paintEdges(pen, scene, shown.edges, colour, thin);
  for (const node of shown.nodes) {
    const item = scene.items[node], [fill, line] = colour.states.get(item.state) || [item.group === null ? colour.page : colour.panel, colour.plain];
    const [left, top] = [scene.spots[node][0] - WIDTH / 2, scene.spots[node][1] - HEIGHT / 2];
    pen.fillStyle = HEIGHT * scale < 4 ? line : fill;
    pen.fillRect(left, top, Math.max(WIDTH, 2 * thin), Math.max(HEIGHT, thin));
    if (HEIGHT * scale < 4 && !item.findings) continue;
    pen.strokeStyle = item.findings ? colour.finding : line;
    pen.strokeRect(left, top, WIDTH, HEIGHT);
  }
  pen.lineWidth = 3 * thin;
  for (const [numbers, line] of [[marks.refusing, colour.caution], [marks.selected, colour.accent]]) {
    pen.strokeStyle = line;
    for (const node of numbers) {
      const [middle, centre] = scene.spots[node], width = Math.max(WIDTH + 8, 8 * thin), height = Math.max(HEIGHT + 8, 8 * thin);
      pen.strokeRect(middle - width / 2, centre - height / 2, width, height);
    }
  }
}

function paintEdges(pen, scene, edges, colour, thin) {
  pen.strokeStyle = colour.edge;
  let drawn = 0;
  pen.beginPath();
  for (const edge of edges) {
    const points = scene.paths[edge], all = scene.edgeBounds, at = 4 * edge;
    if (all[at + 2] - all[at] < thin && all[at + 3] - all[at + 1] < thin) continue;
    pen.moveTo(...points[0]);
    for (let place = 1; place < points.length; place += 1) {
      const [a, b] = points[place - 1], [c, d] = points[place];
      pen.bezierCurveTo(a, (b + d) / 2, c, (b + d) / 2, c, d);
    }
    drawn += 1;
    if (drawn % 100 === 0) { pen.stroke(); pen.beginPath(); }  // one long path would take many times longer
  }
  pen.stroke();
}

// The SVG of a pane and the canvas beneath it, as they show a scene.
class Painter {
  constructor(label, makers) {
    this.element = html("div", { class: "drawing" });
    this.under = html("canvas", { "aria-hidden": "true" });
    this.frame = svg("svg", { tabindex: "0", role: "group", "aria-label": label });
    this.stage = svg("g");
    this.layers = { boxes: new Layer(makers.box), edges: new Layer((edge) => drawEdge(this.scene.paths[edge])), nodes: new Layer(makers.node) };
    for (const layer of Object.values(this.layers)) this.stage.append(layer.group);
    this.frame.append(this.stage);
    this.element.append(this.under, this.frame);
    this.marks = { selected: new Set(), refusing: new Set() };
    this.waiting = 0;
    new ResizeObserver(() => this.later()).observe(this.element);
  }

  // A new scene, or null for none.
  take(scene) {
    this.scene = scene;
    Object.values(this.layers).forEach((layer) => layer.clear());
  }

  move(view) {
    this.view = view;
    this.stage.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.scale})`);
    this.later();
  }

  later() {
    this.waiting ||= requestAnimationFrame(() => this.now());
  }

  now() {
    cancelAnimationFrame(this.waiting);
    this.waiting = 0;
    if (!this.view) return;
    const { x, y, scale } = this.view, { width, height } = this.element.getBoundingClientRect();
    const rest = this.elements(this.part(this.view, BEYOND));
    const ratio = window.devicePixelRatio || 1;
    this.under.hidden = !rest;
    if (!rest) return;
    this.size(Math.round(width * ratio), Math.round(height * ratio));
    paint(this.under, this.scene, rest, [x, y, scale], ratio, this.marks);
  }

  // What of the layout lies in view, and so many pixels beyond.
  part({ x, y, scale }, beyond) {
    const { width, height } = this.element.getBoundingClientRect();
    return [(-x - beyond) / scale, (-y - beyond) / scale, (width - x + beyond) / scale, (height - y + beyond) / scale];
  }

  sees(view) { return within(this.scene.nodeBounds, this.part(view, 0)).length > 0; }

  // Elements for what is in a rectangle; what is too much for that is returned, or null.
  elements(seen) {
    const found = { boxes: [], edges: [], nodes: [] };
    if (this.scene) {
      for (const [kind, all] of [["boxes", this.scene.boxBounds], ["edges", this.scene.edgeBounds], ["nodes", this.scene.nodeBounds]]) found[kind] = within(all, seen);
    }
    const crowd = found.nodes.length + found.boxes.length > MOST_NODES, tangle = crowd || found.edges.length > MOST_EDGES;
    this.layers.boxes.show(crowd ? [] : found.boxes);
    this.layers.nodes.show(crowd ? [] : found.nodes);
    this.layers.edges.show(tangle ? [] : found.edges);
    this.stage.classList.toggle("far", this.view.scale < FAR);
    this.crowd = crowd;
    if (!tangle) return null;
    return { boxes: crowd ? found.boxes : [], nodes: crowd ? found.nodes : [], edges: found.edges };
  }

  size(width, height) {
    if (this.under.width !== width || this.under.height !== height) Object.assign(this.under, { width, height });
  }

  // All of it, in whatever size the paper gives it.
  print() {
    if (!this.scene) return;
    const [width, height] = this.scene.size, rest = this.elements([0, 0, width, height]);
    this.frame.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.stage.removeAttribute("transform");
    this.under.hidden = !rest;
    if (!rest) return;
    const scale = Math.min(1, PRINTED / Math.max(width, height));
    this.size(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
    const root = document.documentElement, { theme = "" } = root.dataset;
    root.dataset.theme = "light";  // paper is
    paint(this.under, this.scene, rest, [0, 0, scale], 1, this.marks);
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  printed() {
    this.frame.removeAttribute("viewBox");
    if (this.view) { this.move(this.view); this.now(); }
  }

  // The item at a place of the window, where it is drawn on the canvas.
  itemAt(clientX, clientY) {
    if (!this.crowd) return null;
    const { left, top } = this.element.getBoundingClientRect(), { x, y, scale } = this.view;
    const place = [(clientX - left - x) / scale, (clientY - top - y) / scale], near = 3 / scale;
    const found = within(this.scene.nodeBounds, [place[0] - near, place[1] - near, place[0] + near, place[1] + near]);
    return found.length ? found[0] : null;
  }
}
