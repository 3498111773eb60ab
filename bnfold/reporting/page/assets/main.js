// Starts everything: what can be seen first, the graphs when they come near.
const AT_LEISURE = 4;

(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-pressed", String(dark())); };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); window.dispatchEvent(new Event("theme")); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { name(); window.dispatchEvent(new Event("theme")); });
  name();

  const openRule = () => {
    const target = location.hash.startsWith("#rule-") ? document.getElementById(location.hash.slice(1)) : null;
    if (target) { target.open = true; target.scrollIntoView(); }
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    const target = document.getElementById(link.getAttribute("href").slice(1));
    if (target.tagName === "DETAILS") target.open = true;
    target.scrollIntoView();
    const summary = target.querySelector("summary");
    if (summary) summary.focus({ preventScroll: true });
  });
  openRule();

  for (const section of document.querySelectorAll("section[data-number]")) {
    const number = Number(section.dataset.number), data = DATA[number];
    bnTable(section, number, data);
    section.querySelectorAll(".grid").forEach((holder) => gridTable(holder, number));
    plots(section, data);
    const holder = section.querySelector(".graph");
    if (holder) {
      const start = whenNear(holder, () => graphView(holder, data));
      // Without waiting to be seen, so that what is printed at once has its picture too.
      if (number < AT_LEISURE && data.before.nodes.length <= ON_DEMAND) setTimeout(start, 0);
      holder.select = async (one) => { start(); await holder.select(one); };
    }
  }
  document.documentElement.dataset.ready = "yes";
})();
