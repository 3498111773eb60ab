"use strict";
// What all parts of the page share: the data, SVG elements, the worker, and drawing what it laid out.
const DATA = JSON.parse(document.getElementById("data").textContent);
const [KEY, LABEL, TYPE, KIND, STATE, GROUP, SHAPE, MESSAGES, FATE, BLOCKS] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const WIDTH = 152, HEIGHT = 36;

function svg(name, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

function html(name, attributes = {}, text = null) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

// Names differ at their ends: of a long one the middle goes.
function cut(text, length) {
  const letters = Array.from(text);
  if (letters.length <= length) return text;
  const head = Math.floor((length - 1) / 2);
  return letters.slice(0, head).join("") + "…" + letters.slice(letters.length - (length - 1 - head)).join("");
}

// A name for a small box: its end, without the operator's type, as most names are paths that begin alike.
function shortName(name, type, length) {
  const parts = name.split("/");
  const path = parts.length > 2 && parts[parts.length - 1].startsWith(type) ? parts.slice(0, -1).join("/") : name;
  const letters = Array.from(path);
  return letters.length <= length || !path.includes("/") ? cut(path, length) : "…" + letters.slice(letters.length - length + 1).join("");
}

const nameOf = (node) => node[LABEL] === 0 ? node[KEY] : node[LABEL];

const layout = (() => {
  const waiting = new Map();
  let worker = null, last = 0;
  return (task) => new Promise((resolve) => {
    if (!worker) {
      const source = document.getElementById("worker").textContent;
      worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      worker.onmessage = ({ data }) => { waiting.get(data.id)(data); waiting.delete(data.id); };
    }
    last += 1;
    waiting.set(last, resolve);
    worker.postMessage({ ...task, id: last });
  });
})();

// Does something once an element comes near the part of the page that is seen, or the page is printed.
function whenNear(element, action) {
  let done = false;
  const once = () => { if (!done) { done = true; watcher.disconnect(); action(); } };
  const watcher = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) once(); }, { rootMargin: "300px" });
  watcher.observe(element);
  window.addEventListener("beforeprint", once);
  return once;
}

function neighbours(graph) {
  if (!graph.ahead) {
    graph.ahead = graph.nodes.map(() => []);
    graph.behind = graph.nodes.map(() => []);
    for (const [from, to] of graph.edges) { graph.ahead[from].push(to); graph.behind[to].push(from); }
  }
  return graph;
}

function links(data, number) {
  const found = data.links[number];
  if (found) return found;
  if (!data.sameKey) data.sameKey = new Map(data.after.nodes.map((node, at) => [node[KEY], at]));
  const same = data.sameKey.get(data.before.nodes[number][KEY]);
  return same === undefined ? [] : [same];
}

function backLinks(data, number) {
  if (!data.back) {
    data.back = data.after.nodes.map(() => []);
    data.before.nodes.forEach((_, at) => links(data, at).forEach((to) => data.back[to].push(at)));
  }
  return data.back[number];
}

// One box of a drawing: an operator, or a group that is closed.
function drawNode(box, place) {
  const group = svg("g", { class: "node", transform: `translate(${place[0] - WIDTH / 2},${place[1] - HEIGHT / 2})` });
  group.append(svg("title", {}, box.title));
  group.append(svg("rect", { class: "ring", x: -4, y: -4, width: WIDTH + 8, height: HEIGHT + 8, rx: 9 }));
  if (box.count) group.append(svg("rect", { x: 3, y: 3, width: WIDTH, height: HEIGHT, rx: 6 }));
  group.append(svg("rect", { width: WIDTH, height: HEIGHT, rx: box.round ? 17 : 6 }));
  group.append(svg("text", { class: "type", x: WIDTH / 2, y: 15, "text-anchor": "middle" }, cut(box.type, 22)));
  group.append(svg("text", { class: "label", x: WIDTH / 2, y: 28, "text-anchor": "middle" }, shortName(box.label, box.type, 29)));
  for (const [key, value] of Object.entries(box.data)) group.setAttribute("data-" + key, value);
  return group;
}

// From the bottom of one box to the top of another, by the points between, as a smooth line.
function drawEdge(points) {
  const group = svg("g"), [x, y] = points[points.length - 1];
  let path = `M${points[0].map(Math.round)}`;
  for (let at = 1; at < points.length; at += 1) {
    const [a, b] = points[at - 1], [c, d] = points[at], half = Math.round((b + d) / 2);
    path += `C${Math.round(a)},${half} ${Math.round(c)},${half} ${Math.round(c)},${Math.round(d)}`;
  }
  group.append(svg("path", { class: "edge", d: path }));
  const up = points[points.length - 2][1] > y;
  group.append(svg("path", { class: "tip", d: up ? "M0,0L-3.2,7L3.2,7Z" : "M0,0L-3.2,-7L3.2,-7Z", transform: `translate(${x},${y})` }));
  return group;
}

function boxOf(node, marks = {}) {
  const data = { state: node[STATE], ...marks };
  if (node[MESSAGES].length) data.finding = node[MESSAGES].length;
  const told = [`${nameOf(node)} (${node[TYPE]})`, node[SHAPE], node[FATE], ...node[MESSAGES]].filter(Boolean);
  return { type: node[TYPE], label: nameOf(node), title: told.join("\n"), round: node[KIND] !== "operator", data };
}
