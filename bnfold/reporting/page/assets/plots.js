// Numbers as pictures: distributions by BN, weight ranges in bits, differences by output.
const ROW = 16, LEFT = 150, RIGHT = 108, PLOT = 300, AT_MOST = 300;

function figure(caption, picture) {
  const element = html("figure"), scroll = html("div", { class: "scroll" });
  element.append(html("figcaption", {}, caption), scroll);
  scroll.append(picture);
  return element;
}

function chart(rows, label) {
  return svg("svg", { viewBox: `0 0 ${LEFT + PLOT + RIGHT} ${rows * ROW + 24}`, role: "img", "aria-label": label });
}

function rowName(canvas, name, at) {
  const text = svg("text", { x: LEFT - 6, y: 20 + at * ROW + 11, "text-anchor": "end" }, shortName(name, "BatchNormalization", 24));
  text.append(svg("title", {}, name));
  canvas.append(text);
}

// A row of bins for each BN: the fuller a bin, the stronger its colour.
function distribution(data, what, caption) {
  const [low, high, parts] = data.axis, bins = (high - low) * parts;
  const items = data.profiles.map((profile, at) => [profile, data.names[at]]).filter(([profile]) => profile && profile[what].length);
  if (!items.length) return null;
  const canvas = chart(items.length, caption);
  for (let power = low; power <= high; power += 2) {
    const x = LEFT + (power - low) / (high - low) * PLOT;
    canvas.append(svg("line", { class: "axis", x1: x, x2: x, y1: 16, y2: 20 + items.length * ROW }));
    canvas.append(svg("text", { class: "soft", x, y: 11, "text-anchor": "middle" }, power === 0 ? "1" : `1e${power}`));
  }
  items.forEach(([profile, name], at) => {
    rowName(canvas, name, at);
    const most = Math.max(1, ...profile[what]);
    profile[what].forEach((count, bin) => {
      if (!count) return;
      const cell = svg("rect", { class: "bar", x: (LEFT + bin / bins * PLOT).toFixed(1), y: 20 + at * ROW + 2, width: (PLOT / bins - .4).toFixed(1), height: ROW - 4, "fill-opacity": (0.2 + 0.8 * count / most).toFixed(2) });
      cell.append(svg("title", {}, `${name}: ${count} of ${profile.channels} channels around 1e${(low + (bin + .5) / parts).toFixed(1)}`));
      canvas.append(cell);
    });
    if (what === "variance" && profile.epsilon > 0) {
      const x = LEFT + (Math.log10(profile.epsilon) - low) / (high - low) * PLOT;
      canvas.append(svg("line", { class: "mark", x1: x, x2: x, y1: 20 + at * ROW + 1, y2: 20 + (at + 1) * ROW - 1 }));
    }
    const said = what === "scale" ? [[profile.dead, "dead"], [profile.negative, "negative"]] : [[profile.collapsed, "collapsed"]];
    const words = said.filter(([count]) => count).map(([count, word]) => `${count} ${word}`).join(", ");
    const hot = what === "scale" ? profile.dead : profile.collapsed;
    if (words) canvas.append(svg("text", { class: hot ? "hot" : "soft", x: LEFT + PLOT + 6, y: 20 + at * ROW + 11 }, words));
  });
  return figure(caption, canvas);
}

// How many bits the largest weight range of a layer exceeds the smallest by, before and after.
function spread(data) {
  const items = data.profiles.map((profile, at) => [profile, data.names[at]]).filter(([profile]) => profile && profile.before.length && profile.after.length);
  if (!items.length) return null;
  const bits = (values) => Math.max(0, -Math.min(...values));
  const most = Math.max(4, ...items.map(([profile]) => Math.max(bits(profile.before), bits(profile.after))));
  const canvas = chart(items.length, "spread of weight ranges"), place = (value) => LEFT + value / most * PLOT;
  const step = most > 40 ? 10 : most > 16 ? 4 : most > 8 ? 2 : 1;
  for (let value = 0; value <= most; value += step) {
    canvas.append(svg("line", { class: "axis", x1: place(value), x2: place(value), y1: 16, y2: 20 + items.length * ROW }));
    canvas.append(svg("text", { class: "soft", x: place(value), y: 11, "text-anchor": "middle" }, value));
  }
  items.forEach(([profile, name], at) => {
    rowName(canvas, name, at);
    const y = 20 + at * ROW + ROW / 2, before = bits(profile.before), after = bits(profile.after);
    canvas.append(svg("line", { class: "axis", x1: place(before), x2: place(after), y1: y, y2: y, "stroke-width": 3 }));
    for (const [value, kind] of [[before, "before"], [after, "after"]]) {
      const dot = svg("circle", { class: kind, cx: place(value), cy: y, r: 4 });
      dot.append(svg("title", {}, `${name}: ${value.toFixed(1)} bits ${kind} folding`));
      canvas.append(dot);
    }
    canvas.append(svg("text", { class: "soft", x: LEFT + PLOT + 10, y: y + 4 }, `${before.toFixed(1)} → ${after.toFixed(1)}`));
  });
  return figure("Weight ranges of the layers that BN fold into: bits between the largest and the smallest channel, before (grey) and after (blue) folding. Many bits are bad for 8-bit quantisation by layer (BN305).", canvas);
}

// In an opened row: every channel, sorted.
function rangesPlot(profile) {
  const all = [...profile.before, ...profile.after], low = Math.min(-1, ...all);
  const canvas = svg("svg", { viewBox: "0 0 560 130", role: "img", "aria-label": "weight ranges by channel" });
  for (const kind of ["before", "after"]) {
    const values = profile[kind];
    const points = values.map((value, at) => `${(36 + at / Math.max(1, values.length - 1) * 510).toFixed(1)},${(10 + value / low * 110).toFixed(1)}`);
    canvas.append(svg("path", { class: kind, d: "M" + points.join("L") }));
  }
  canvas.append(svg("text", { class: "soft", x: 2, y: 14 }, "0"), svg("text", { class: "soft", x: 2, y: 124 }, low.toFixed(1)));
  const drawn = figure("Weight range by channel, sorted, in bits below the largest: before (grey) and after (blue) folding.", canvas);
  drawn.style.maxWidth = "640px";
  return drawn;
}

// Differences between outputs, the original's own noise and a fixed tolerance, all as part of the output's range.
function outputsPlot(outputs) {
  const numbers = outputs.flatMap((output) => [output.max_rel, output.noise, output.tolerance]).filter((value) => typeof value === "number" && value > 0);
  if (!numbers.length) return null;
  const low = Math.floor(Math.log10(Math.min(...numbers))), high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...numbers))));
  const canvas = chart(outputs.length, "differences by output"), place = (value) => LEFT + (Math.log10(value) - low) / (high - low) * PLOT;
  const every = Math.ceil((high - low) / 6);
  for (let power = low; power <= high; power += every) {
    const x = place(10 ** power);
    canvas.append(svg("line", { class: "axis", x1: x, x2: x, y1: 16, y2: 20 + outputs.length * ROW }), svg("text", { class: "soft", x, y: 11, "text-anchor": "middle" }, `1e${power}`));
  }
  outputs.forEach((output, at) => {
    rowName(canvas, output.name, at);
    const y = 20 + at * ROW + ROW / 2;
    for (const [key, kind, word] of [["noise", "before", "the original's own rounding noise"], ["max_rel", { true: "within", false: "hot" }[output.ok] ?? "soft", "largest difference"]]) {
      if (!(output[key] > 0)) continue;
      const dot = svg("circle", { class: kind, cx: place(output[key]), cy: y, r: 4.5 });
      dot.append(svg("title", {}, `${output.name}: ${word} ${output[key].toPrecision(3)} of the range`));
      canvas.append(dot);
    }
    if (output.tolerance > 0) canvas.append(svg("line", { class: "mark", x1: place(output.tolerance), x2: place(output.tolerance), y1: y - 6, y2: y + 6 }));
    if (!(output.max_rel > 0)) canvas.append(svg("text", { class: "soft", x: LEFT + PLOT + 6, y: y + 4 }, "equal"));
  });
  const beside = [["noise", "the original's own rounding noise (grey)"], ["tolerance", "the tolerance (red line)"]].filter(([key]) => outputs.some((output) => output[key] > 0)).map(([, word]) => word);
  const drawn = figure(`Largest difference of each output as part of its range (green; red where it is wrong, pale where a tensor before it is)${beside.length ? `, beside ${beside.join(" and ")}` : ""}.`, canvas);
  drawn.style.maxWidth = "640px";
  return drawn;
}

// The first so many BN; the others on request, as the drawing of thousands takes its time.
function shownFirst(data, area) {
  if (data.profiles.length <= AT_MOST) return data;
  const button = html("button", { type: "button" }, `Show all ${data.profiles.length.toLocaleString("en")} BN`);
  button.onclick = () => { area.replaceChildren(); drawPlots(data, area); };
  area.before(button);
  return { ...data, profiles: data.profiles.slice(0, AT_MOST), names: data.names.slice(0, AT_MOST) };
}

// Counts as bars, one a row.
function barsPlot(item) {
  const canvas = chart(item.bars.length, item.title), most = Math.max(1, ...item.bars.map(([, count]) => count));
  item.bars.forEach(([label, count], at) => {
    rowName(canvas, label, at);
    canvas.append(svg("rect", { class: "bar", x: LEFT, y: 20 + at * ROW + 2, width: (count / most * PLOT).toFixed(1), height: ROW - 4 }));
    canvas.append(svg("text", { class: "soft", x: (LEFT + count / most * PLOT + 6).toFixed(1), y: 20 + at * ROW + 12 }, count.toLocaleString("en")));
  });
  return figure(item.title, canvas);
}

function plots(section, data) {
  const rows = section.querySelector(".bars-plot");
  if (rows) rows.append(...data.bars.filter((item) => item.bars.length).map(barsPlot));
  const area = section.querySelector(".plot-area");
  if (area && data.profiles) whenNear(area, () => drawPlots(shownFirst(data, area), area));
  const holder = section.querySelector(".outputs-plot");
  const drawn = holder && data.outputs && data.outputs.length ? outputsPlot(data.outputs) : null;
  if (drawn) holder.append(drawn);
}

function drawPlots(data, area) {
  const drawn = [
    distribution(data, "scale", "Scale of each BN by channel (absolute value)"),
    distribution(data, "variance", "Variance of each BN by channel; the red line is epsilon"),
    spread(data),
  ].filter(Boolean);
  if (drawn.length) area.append(...drawn);
  else area.closest("details").remove();
}
