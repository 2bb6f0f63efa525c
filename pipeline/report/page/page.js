"use strict";
// Draw the charts when they come into view, in the colours of the reader's scheme, and the heat map of tokens.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // The item that a key moves to: the next, the previous, the first or the last; undefined for other keys.
  const itemForKey = (items, current, key) => {
    const index = items.indexOf(current), end = items.length - 1;
    const next = { ArrowRight: index + 1, ArrowLeft: index < 0 ? end : index - 1, Home: 0, End: end }[key];
    return next === undefined ? undefined : items[Math.max(0, Math.min(end, next))];
  };

  // --- charts ---------------------------------------------------------------------------------------------------
  // Colours of Okabe and Ito; those with the best contrast to the background come first.
  const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#b8669a", "#a87400", "#3a8fc0", "#777777", "#1b1f24"];
  const DARK = ["#56b4e9", "#e69f00", "#2bc79a", "#e08fc0", "#f0e442", "#ff8a3d", "#8f98a3", "#ffffff"];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const specs = read("specs");

  const config = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const labels = { labelColor: colour("--soft"), titleColor: colour("--soft"), labelFontSize: 11, titleFontSize: 11 };
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: { ...labels, gridColor: colour("--line"), domainColor: colour("--line"), tickColor: colour("--line"),
              titleFontWeight: "normal", labelOverlap: true },
      legend: { ...labels, symbolStrokeWidth: 2, columns: 3 },
      range: { category: dark.matches ? DARK : LIGHT },
      mark: { color: (dark.matches ? DARK : LIGHT)[0] },
      rule: { color: colour("--soft") },
      text: { color: colour("--soft") },
      bar: { stroke: colour("--ground"), strokeWidth: 1 },
    };
  };

  const draw = (element) => {
    const options = { actions: false, renderer: "svg", config: config(), tooltip: { theme: "custom" } };
    return vegaEmbed(element, specs[element.id], options)
      .then(() => element.setAttribute("data-drawn", ""))
      .catch((error) => console.error(element.id, error));
  };
  // The mouse shows the values of a mark in a tooltip; the keyboard and a tap write them below the chart.
  const VALUES = ".mark-symbol path[aria-label], .mark-rect path[aria-label]";
  const announce = (chart, mark) => {
    chart.querySelector(".current")?.classList.remove("current");
    mark.classList.add("current");
    chart.nextElementSibling.textContent = mark.getAttribute("aria-label");
  };
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches(".chart")) return;
    const marks = [...event.target.querySelectorAll(VALUES)];
    const mark = itemForKey(marks, event.target.querySelector(".current"), event.key);
    if (!mark) return;
    event.preventDefault();
    announce(event.target, mark);
  });
  document.addEventListener("click", (event) => {
    const mark = event.target.closest(VALUES);
    if (mark) announce(mark.closest(".chart"), mark);
  });

  const charts = [...document.querySelectorAll(".chart")];
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "300px" });
  charts.forEach((element) => observer.observe(element));
  dark.addEventListener("change", () => charts.filter((chart) => chart.hasAttribute("data-drawn")).forEach(draw));
  window.addEventListener("beforeprint", () => charts.forEach((chart) => chart.hasAttribute("data-drawn") || draw(chart)));

  // --- heat map -------------------------------------------------------------------------------------------------
  const cases = read("cases");
  const place = document.getElementById("heat-cases");
  if (!place || !cases.length) return;
  const [student, measure, order] = ["student", "measure", "order"].map((name) => document.getElementById(`heat-${name}`));
  const detail = document.getElementById("heat-detail");
  // A token is a list: text, forward KL, reverse KL, then the likeliest tokens of teacher and student.
  const [TOKEN, TEACHER, STUDENT] = [0, 3, 4];
  const value = (token) => token[measure.value === "f" ? 1 : 2] ?? 0;
  const mean = (tokens) => (tokens?.length ? tokens.reduce((sum, token) => sum + value(token), 0) / tokens.length : 0);
  const last = (item) => item.sides.after ?? item.sides.before;
  const gain = (item) => mean(item.sides.before) - mean(last(item));
  const ORDERS = {
    prompt: () => 0,
    worst: (a, b) => mean(last(b)) - mean(last(a)),
    token: (a, b) => Math.max(0, ...last(b).map(value)) - Math.max(0, ...last(a).map(value)),
    gain: (a, b) => gain(b) - gain(a),
    loss: (a, b) => gain(a) - gain(b),
  };
  const visible = (text) => text.replace(/\n/g, "⏎\n").replace(/\t/g, "⇥");
  const nats = (number) => `${number.toFixed(2)} nats`;
  let limit = 1;

  const side = (name, tokens) => {
    const box = make("div");
    box.append(make("h4", "", `${name}: ${nats(mean(tokens))} per token`));
    const list = make("div", "tokens");
    list.tabIndex = 0;
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", `${name} training; arrow keys go from token to token`);
    for (const token of tokens) {
      const span = make("span", "", visible(token[TOKEN]));
      span.token = token;
      span.style.backgroundColor = `rgb(var(--heat) / ${(0.75 * Math.min(1, value(token) / limit) ** 0.7).toFixed(3)})`;
      if (token[TEACHER][0]?.[0] !== token[STUDENT][0]?.[0]) span.classList.add("other");
      list.append(span);
    }
    box.append(list);
    return box;
  };

  const article = (item) => {
    const box = make("article", "case");
    box.append(make("h3", "", item.id));
    if (item.prompt) {
      const prompt = make("details");
      prompt.append(make("summary", "", "prompt"), make("div", "prompt", item.prompt));
      box.append(prompt);
    }
    for (const reference of item.references) box.append(make("small", "", `reference: ${reference}`));
    const sides = make("div", "sides");
    for (const name of ["before", "after"]) if (item.sides[name]) sides.append(side(name, item.sides[name]));
    box.append(sides);
    return box;
  };

  const show = () => {
    const chosen = cases.filter((item) => item.student === student.value);
    const values = chosen.flatMap((item) => Object.values(item.sides).flat().map(value)).sort((a, b) => a - b);
    limit = Math.max(0.5, values[Math.floor(values.length * 0.97)] ?? 1);
    const scale = document.getElementById("heat-scale");
    scale.replaceChildren(make("span", "", "0"), make("i"), make("span", "", `${limit.toFixed(1)} nats and more`));
    place.replaceChildren(...chosen.sort(ORDERS[order.value]).map(article));
    detail.classList.remove("open");
  };

  const distribution = (title, entries, others) => {
    const box = make("div");
    box.append(make("small", "", title));
    const table = make("table");
    for (const [token, p] of entries) {
      const row = table.insertRow();
      row.className = others.has(token) ? "same" : "";
      row.append(make("td", "", visible(token).replace(/^ /, "␣")), make("td", "p", `${(100 * p).toFixed(1)} %`));
      row.lastChild.style.setProperty("--p", `${100 * p}%`);
    }
    box.append(table);
    return box;
  };

  const choose = (span) => {
    place.querySelector(".chosen")?.classList.remove("chosen");
    span.classList.add("chosen");
    const [text, forward, reverse, teacher, own] = span.token;
    const head = make("div", "", `“${visible(text)}”  forward KL ${nats(forward ?? NaN)}, reverse KL ${nats(reverse ?? NaN)}`);
    const both = make("div", "both");
    both.append(distribution("teacher", teacher, new Set(own.map(([token]) => token))));
    both.append(distribution("student", own, new Set(teacher.map(([token]) => token))));
    detail.replaceChildren(head, both);
    detail.classList.add("open");
  };

  place.addEventListener("mouseover", (event) => event.target.token && choose(event.target));
  place.addEventListener("click", (event) => event.target.token && choose(event.target));
  place.addEventListener("focusin", (event) => {
    const list = event.target;
    if (list.matches(".tokens") && list.firstChild && !list.querySelector(".chosen")) choose(list.firstChild);
  });
  place.addEventListener("keydown", (event) => {
    const list = event.target;
    if (event.key === "Escape") detail.classList.remove("open");
    if (!list.matches(".tokens")) return;
    const token = itemForKey([...list.children], list.querySelector(".chosen"), event.key);
    if (!token) return;
    event.preventDefault();
    choose(token);
  });
  for (const name of new Set(cases.map((item) => item.student))) student.append(new Option(name, name));
  student.parentElement.hidden = student.options.length < 2;
  for (const control of [student, measure, order]) control.addEventListener("change", show);
  show();
})();
