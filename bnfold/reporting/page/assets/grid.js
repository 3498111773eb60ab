// Tables of any columns: sorting and filters, which stand in the URL as `m0.t1.q`.
function gridTable(holder, number) {
  const key = (name) => `m${number}.t${holder.dataset.grid}.${name}`;
  const form = holder.querySelector("form"), table = holder.querySelector("table"), output = form.querySelector("output");
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const search = form.elements.q, choice = form.elements.choice;
  const original = new Map(rows.map((row, at) => [row, at]));
  let order = "";
  heads.forEach((head, at) => head.classList.toggle("number", rows.length > 0 && rows[0].cells[at].classList.contains("number")));

  function show() {
    const text = search.value.toLowerCase();
    let count = 0;
    for (const row of rows) {
      const fits = (!text || row.textContent.toLowerCase().includes(text))
        && (!choice || !choice.value || row.cells[choice.dataset.column].textContent.trim() === choice.value);
      row.hidden = !fits;
      count += fits;
    }
    output.textContent = count === rows.length ? `${count}` : `${count} of ${rows.length}`;
  }

  function sort() {
    const column = order ? Math.abs(parseInt(order, 10)) - 1 : -1, down = order.startsWith("-");
    heads.forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const compare = (a, b) => {
      const one = a.cells[column], two = b.cells[column], first = one.dataset.value, second = two.dataset.value;
      const by = first !== undefined && second !== undefined ? first - second
        : first !== undefined ? 1 : second !== undefined ? -1
        : one.textContent.trim().localeCompare(two.textContent.trim(), "en", { numeric: true });
      return by * (down ? -1 : 1) || original.get(a) - original.get(b);
    };
    body.append(...[...rows].sort(heads[column] ? compare : (a, b) => original.get(a) - original.get(b)));
  }

  function remember() {
    const all = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const [name, value] of [["q", search.value], ["choice", choice ? choice.value : ""], ["sort", order]]) {
      if (value) all.set(key(name), value);
      else all.delete(key(name));
    }
    const text = all.toString();
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  }

  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    order = order === `${at + 1}` ? `-${at + 1}` : order === `-${at + 1}` ? "" : `${at + 1}`;
    sort();
    remember();
  }));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { show(); remember(); });
  const take = () => {
    const all = new URLSearchParams(location.hash.slice(1));
    search.value = all.get(key("q")) || "";
    if (choice) choice.value = all.get(key("choice")) || "";
    order = all.get(key("sort")) || "";
    sort();
    show();
  };
  window.addEventListener("hashchange", take);
  take();
}
