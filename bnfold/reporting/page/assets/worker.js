
// Lays a graph out, box by box from the innermost: a box is one node of the graph around it, as large as what is in it.
// In: {id, nodes: [[width, height, box or -1]], edges: [[from, to]], boxes: [box around it or -1], outer ones first}.
// Out: {id, nodes: [[x, y]], boxes: [[x, y, width, height]], edges: [[[x, y], ...]], width, height}.
const LARGEST = 500, SIDE = 10, TOP = 22, BETWEEN = [16, 26];

function layOut(task) {
  const { nodes, boxes, edges } = task, inside = new Map([[-1, []]]);
  boxes.forEach((around, box) => { inside.set(box, []); inside.get(around).push("b" + box); });
  nodes.forEach(([, , box], node) => inside.get(box).push("n" + node));
  const parent = (item) => item[0] === "b" ? boxes[item.slice(1)] : nodes[item.slice(1)][2];
  const way = (node) => { const all = ["n" + node]; for (let box = parent(all[0]); box >= 0; box = boxes[box]) all.unshift("b" + box); return all; };
  const levels = new Map([...inside.keys()].map((box) => [box, new Map()])), pairs = [];
  for (const [from, to] of edges) {
    const a = way(from), b = way(to);
    let at = 0;
    while (a[at] === b[at]) at += 1;
    const pair = `${a[at]} ${b[at]}`;
    levels.get(at ? Number(a[at - 1].slice(1)) : -1).set(pair, null);
    pairs.push([at ? Number(a[at - 1].slice(1)) : -1, pair]);
  }
  const size = new Map(nodes.map(([width, height], node) => ["n" + node, [width, height]])), spot = new Map();
  let whole = [0, 0];
  for (let box = boxes.length - 1; box >= -1; box -= 1) {
    const children = inside.get(box), wanted = [...levels.get(box).keys()].map((pair) => pair.split(" "));
    const place = new Map(children.map((child, at) => [child, at])), sizes = children.map((child) => size.get(child));
    const done = alike(sizes, wanted.map(([from, to]) => [place.get(from), place.get(to)]));
    children.forEach((child, at) => spot.set(child, done.spots[at]));
    wanted.forEach((pair, at) => levels.get(box).set(pair.join(" "), done.points[at]));
    if (box < 0) whole = done.size;
    else size.set("b" + box, [done.size[0] + 2 * SIDE, done.size[1] + TOP + SIDE]);
  }
  const corner = new Map([[-1, [SIDE, SIDE]]]), places = (item, [x, y]) => [x + spot.get(item)[0], y + spot.get(item)[1]];
  const drawn = boxes.map((around, box) => {
    const [x, y] = places("b" + box, corner.get(around)), [width, height] = size.get("b" + box);
    corner.set(box, [x - width / 2 + SIDE, y - height / 2 + TOP]);
    return [x, y, width, height];
  });
  const centres = nodes.map(([, , box], node) => places("n" + node, corner.get(box)));
  return {
    id: task.id, nodes: centres, boxes: drawn, width: whole[0] + 2 * SIDE, height: whole[1] + 2 * SIDE,
    edges: edges.map(([from, to], at) => {
      const [box, pair] = pairs[at], [x, y] = corner.get(box), back = centres[to][1] < centres[from][1];
      const middle = levels.get(box).get(pair).map(([a, b]) => [a + x, b + y]);
      const half = (node) => (back ? -1 : 1) * nodes[node][1] / 2;
      return [[centres[from][0], centres[from][1] + half(from)], ...middle, [centres[to][0], centres[to][1] - half(to)]];
    }),
  };
}

// Blocks that repeat are laid out once. Children are numbers here, pairs are pairs of them; `sizes` is [width, height] of each.
const known = new Map();

function alike(sizes, pairs) {
  const key = `${sizes.join(";")}|${pairs.join(";")}`;
  if (!known.has(key)) known.set(key, (sizes.length > LARGEST ? rows : ranked)(sizes, pairs));
  return known.get(key);
}

function ranked(sizes, pairs) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: BETWEEN[0], ranksep: BETWEEN[1], edgesep: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  sizes.forEach(([width, height], child) => graph.setNode(String(child), { width, height }));
  pairs.forEach(([from, to]) => graph.setEdge(String(from), String(to)));
  dagre.layout(graph);
  const { width, height } = graph.graph();
  return {
    spots: sizes.map((_, child) => graph.node(String(child))).map(({ x, y }) => [x, y]),
    points: pairs.map(([from, to]) => graph.edge(String(from), String(to)).points.slice(1, -1).map(({ x, y }) => [x, y])),
    size: [Math.max(0, width), Math.max(0, height)],
  };
}

// Where dagre would take long: by the longest way from an input; nothing is done about crossings.
function rows(sizes, pairs) {
  const degree = sizes.map(() => 0), ahead = sizes.map(() => []), rank = sizes.map(() => 0);
  for (const [from, to] of pairs) { ahead[from].push(to); degree[to] += 1; }
  const ready = [...sizes.keys()].filter((child) => !degree[child]);
  for (let at = 0; at < ready.length; at += 1) {
    for (const to of ahead[ready[at]]) {
      rank[to] = Math.max(rank[to], rank[ready[at]] + 1);
      degree[to] -= 1;
      if (!degree[to]) ready.push(to);
    }
  }
  const lines = [];
  rank.forEach((line, child) => (lines[line] ||= []).push(child));
  const wide = lines.map((line) => line.reduce((sum, child) => sum + sizes[child][0] + BETWEEN[0], -BETWEEN[0])), width = wide.reduce((a, b) => Math.max(a, b), 0);
  const spots = [];
  let y = 0;
  lines.forEach((line, at) => {
    const tall = line.reduce((most, child) => Math.max(most, sizes[child][1]), 0);
    let x = (width - wide[at]) / 2;
    for (const child of line) { spots[child] = [x + sizes[child][0] / 2, y + tall / 2]; x += sizes[child][0] + BETWEEN[0]; }
    y += tall + BETWEEN[1];
  });
  return { spots, points: pairs.map(() => []), size: [width, Math.max(0, y - BETWEEN[1])] };
}

self.onmessage = ({ data }) => self.postMessage(layOut(data));
