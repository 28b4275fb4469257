"use strict";
// Draws the curve of each report and ties it to the table. What is shown stands in the address, so that it can be sent:
// #x=latency&sort=-score&row=Int8(), and x2, sort2, row2 for the second report.
const shapes = document.querySelectorAll("[id^=shape]").length;
const AXES = { bytes: "bytes per vector", latency: "latency, ms" };

function add(parent, name, attributes = {}, text = null) {
  const space = parent.namespaceURI.endsWith("svg") || name === "svg" ? "http://www.w3.org/2000/svg" : parent.namespaceURI;
  const made = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}

/** Round values between two; those of a log scale are even steps too where it is short. */
function ticks(low, high, log) {
  const made = [];
  if (log && high > 5 * low) {
    const decades = Math.log10(high / low), steps = decades < 3 ? [1, 2, 5] : [1], stride = Math.max(1, Math.ceil(decades / 8));
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += stride)
      for (const step of steps) made.push(step * 10 ** power);
  } else {
    const rough = (high - low) / 8, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough) * power;
    for (let i = Math.ceil(low / step); i * step <= high; i++) made.push(i * step);
  }
  return made.filter((value) => value >= low && value <= high && (value > 0 || !log)); // the least powers are 0
}

function scale(values, from, to, log) {
  const by = log ? Math.log10 : (value) => value;
  let low = Math.min(...values.map(by)), high = Math.max(...values.map(by));
  const room = (high - low) * 0.05 || (log ? 0.1 : Math.abs(high) * 0.05 || 1);
  low -= room;
  high += room;
  const place = (value) => from + ((by(value) - low) / (high - low)) * (to - from);
  return Object.assign(place, { ticks: ticks(log ? 10 ** low : low, log ? 10 ** high : high, log) });
}

const overlap = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

function report(section, number) {
  const data = JSON.parse(section.querySelector("script").textContent);
  const figure = section.querySelector("figure"), plot = section.querySelector(".plot");
  const block = section.querySelector("h1 ~ .code p")?.parentElement;
  const latencies = data.rows.some((row) => row.latency > 0);
  const suffix = number ? String(number + 1) : "";
  const state = { x: "bytes", sort: "", row: -1 };
  let points = [], drawn = "", under = -1;

  function read() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    state.x = wanted.get("x" + suffix) === "latency" && latencies ? "latency" : "bytes";
    state.sort = wanted.get("sort" + suffix) ?? "";
    state.row = data.rows.findIndex((row) => row.name === wanted.get("row" + suffix));
  }

  function write() {
    const all = new URLSearchParams(location.hash.slice(1));
    const values = { x: state.x === "bytes" ? "" : state.x, sort: state.sort, row: data.rows[state.row]?.name ?? "" };
    for (const [key, value] of Object.entries(values))
      value ? all.set(key + suffix, value) : all.delete(key + suffix);
    history.replaceState(null, "", "#" + all);
    show();
  }

  function choose(i) {
    state.row = state.row === i ? -1 : i;
    write();
  }

  function draw() {
    plot.replaceChildren();
    const width = Math.max(plot.clientWidth, 280), height = Math.round(Math.min(480, Math.max(320, width * 0.5)));
    const svg = add(plot, "svg", {
      class: "curve", viewBox: `0 0 ${width} ${height}`, role: "group",
      "aria-label": `${data.measure} against ${AXES[state.x]}. Arrow keys go from point to point.`,
    });
    drawn = state.x;
    const shown = data.rows.map((row, i) => [i, row]).filter(([, row]) => row[state.x] > 0);
    points = [];
    if (!shown.length) return add(svg, "text", { x: 8, y: 24 }, "No row can be drawn on a log scale.");
    const x = scale(shown.map(([, row]) => row[state.x]), 58, width - 14, true);
    const y = scale(shown.flatMap(([, row]) => [row.score, ...(row.interval ?? [])]), height - 42, 22, false);
    const decimals = (value) => Number(value.toPrecision(10)).toString();
    for (const value of y.ticks) {
      add(svg, "line", { class: "grid", x1: 58, x2: width - 14, y1: y(value), y2: y(value) });
      add(svg, "text", { x: 50, y: y(value) + 4, "text-anchor": "end" }, decimals(value));
    }
    let last = -Infinity;
    for (const value of x.ticks) {
      add(svg, "line", { class: "grid", x1: x(value), x2: x(value), y1: 22, y2: height - 42 });
      const text = value < 1e6 ? value.toLocaleString("en", { maximumSignificantDigits: 6 }) : value.toExponential();
      if (x(value) < last + 34) continue;
      last = x(value);
      add(svg, "text", { x: last, y: height - 24, "text-anchor": "middle" }, text);
    }
    add(svg, "text", { x: width - 14, y: height - 6, "text-anchor": "end" }, AXES[state.x] + " (log scale)");
    add(svg, "text", { x: 0, y: 12 }, data.measure);

    const front = data.fronts[state.x].filter((i) => data.rows[i][state.x] > 0);
    const steps = front.map((i, place) => (place ? "H" : "M") + x(data.rows[i][state.x]) + (place ? "V" : ",") + y(data.rows[i].score));
    if (front.length) add(svg, "path", { class: "front", d: steps.join("") + "H" + (width - 14) });

    shown.sort((a, b) => a[1][state.x] - b[1][state.x] || a[1].score - b[1].score);
    for (const [i, row] of shown) {
      const point = add(svg, "g", {
        class: `point f${row.family % 8}` + (i === data.choice ? " choice" : ""), "data-row": i, role: "button",
        tabindex: -1, "aria-label": row.tip.join(", ") + (i === data.choice ? ", the choice" : ""),
        transform: `translate(${x(row[state.x])},${y(row.score)})`,
      });
      if (row.interval) {
        const [from, to] = row.interval.map((value) => y(value) - y(row.score));
        add(point, "line", { class: "bar", x1: 0, x2: 0, y1: from, y2: to });
      }
      add(point, "circle", { class: "ring", r: 9 });
      add(point, "use", { class: "shape", href: "#shape" + (row.family % shapes) });
      points.push(point);
      point.addEventListener("mouseenter", () => light(i));
      point.addEventListener("mouseleave", () => light(-1));
      point.addEventListener("focus", () => light(i));
      point.addEventListener("blur", () => light(-1));
      point.addEventListener("click", () => choose(i));
    }
    points[0].setAttribute("tabindex", 0);
    svg.addEventListener("keydown", move);
    label(svg, front, x, y, width, height);
  }

  /** Names of the points on the front, each where it covers nothing; one that has no such place has none. */
  function label(svg, front, x, y, width, height) {
    const at = (i) => [x(data.rows[i][state.x]), y(data.rows[i].score)];
    const taken = points.map((point) => at(Number(point.dataset.row)))
      .map(([left, top]) => ({ x: left - 7, y: top - 7, width: 14, height: 14 }));
    const first = front.includes(data.choice) ? [data.choice] : [];
    for (const i of [...first, ...front.filter((one) => one !== data.choice)]) {
      const [left, top] = at(i), name = data.rows[i].name;
      const text = add(svg, "text", { class: "label", "aria-hidden": true }, name);
      const wide = text.getComputedTextLength();
      const places = [[11, 16], [-wide - 11, -8], [11, 4], [-wide - 11, 4], [11, -8], [-wide - 11, 16], [11, 30], [-wide - 11, -22]];
      const boxes = places.map(([dx, dy]) => ({ x: left + dx - 2, y: top + dy - 11, width: wide + 4, height: 15 }));
      const free = boxes.find((box) =>
        box.x > 58 && box.x + box.width < width && box.y > 14 && box.y + box.height < height - 42
        && !taken.some((other) => overlap(box, other)));
      if (!free) { text.remove(); continue; }
      text.setAttribute("x", free.x + 2);
      text.setAttribute("y", free.y + 11);
      taken.push(free);
    }
  }

  function move(event) {
    const place = points.indexOf(document.activeElement), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape" && state.row >= 0) choose(state.row);
    if (event.key === "Enter" || event.key === " ") choose(Number(points[place].dataset.row));
    else if (step) {
      const next = points[Math.min(Math.max(place + step, 0), points.length - 1)];
      points.forEach((point) => point.setAttribute("tabindex", point === next ? 0 : -1));
      next.focus();
    } else return;
    event.preventDefault();
  }

  /** Marks a row and its point, and tells about it; -1 is none but the one that was chosen. */
  function light(i) {
    under = i;
    const shown = i < 0 ? state.row : i;
    for (const one of section.querySelectorAll("[data-row]")) one.classList.toggle("on", Number(one.dataset.row) === shown);
    plot.querySelector(".tip")?.remove();
    const point = points.find((one) => Number(one.dataset.row) === shown);
    if (!point) return;
    const [name, ...rest] = data.rows[shown].tip;
    const tip = add(plot, "div", { class: "tip", "aria-hidden": true });
    add(tip, "b", {}, name);
    for (const line of rest) add(tip, "div", {}, line);
    const frame = plot.getBoundingClientRect(), spot = point.querySelector(".ring").getBoundingClientRect();
    const left = spot.right - frame.left + 6, over = left + tip.offsetWidth > frame.width;
    const other = Math.max(0, spot.left - frame.left - tip.offsetWidth - 6);
    tip.style.left = (over ? other : left) + "px";
    tip.style.top = Math.max(0, spot.top - frame.top - tip.offsetHeight / 2) + "px";
  }

  function sort() {
    const key = state.sort.replace(/^-/, ""), sign = state.sort.startsWith("-") ? -1 : 1;
    for (const table of section.querySelectorAll("table.rows")) {
      const heads = [...table.tHead.rows[0].cells], column = heads.findIndex((head) => head.dataset.key === key);
      heads.forEach((head, i) => {
        if (i === column) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
      const value = (row) => (column < 0 ? row.dataset.row : row.querySelectorAll("[data-value]")[column].dataset.value);
      const compare = (a, b) => {
        const [left, right] = [value(a), value(b)];
        if (left === "" || right === "") return (left === "") - (right === ""); // what is missing comes last
        return column === 0 ? sign * left.localeCompare(right, "en", { numeric: true }) : (column < 0 ? 1 : sign) * (left - right);
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    }
  }

  function show() {
    const wanted = state.row >= 0 && data.rows[state.row].code ? state.row : data.choice;
    if (block) {
      block.hidden = wanted < 0;
      if (wanted >= 0) {
        const [name, ...numbers] = data.rows[wanted].tip;
        block.querySelector("b").textContent = (wanted === data.choice ? "The choice: " : "Selected: ") + name;
        block.querySelector("span").textContent = numbers.join(" · ");
        block.querySelector("code").textContent = data.rows[wanted].code;
      }
    }
    for (const row of section.querySelectorAll("tr[data-row]"))
      Number(row.dataset.row) === state.row ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
    for (const input of figure.querySelectorAll("input")) input.checked = input.value === state.x;
    sort();
    if (drawn !== state.x) draw(); // a new drawing would lose the focus
    light(under);
  }

  function wire() {
    if (latencies) {
      const set = add(figure.querySelector(".over"), "fieldset");
      add(set, "legend", {}, "against");
      for (const axis of Object.keys(AXES)) {
        const item = add(set, "label");
        const input = add(item, "input", { type: "radio", name: "x" + suffix, value: axis });
        item.append(" " + axis);
        input.addEventListener("change", () => { state.x = axis; write(); });
      }
    }
    for (const head of section.querySelectorAll("th[data-key]")) {
      const button = document.createElement("button");
      button.append(head.firstChild);
      head.prepend(button);
      button.addEventListener("click", () => {
        const key = head.dataset.key, down = "down" in head.dataset ? "-" : "", up = down ? "" : "-";
        state.sort = state.sort === down + key ? up + key : state.sort === up + key ? "" : down + key;
        write();
      });
    }
    for (const row of section.querySelectorAll("tr[data-row]")) {
      const i = Number(row.dataset.row);
      row.addEventListener("mouseenter", () => light(i));
      row.addEventListener("mouseleave", () => light(-1));
      row.addEventListener("focusin", () => light(i));
      row.addEventListener("focusout", () => light(-1));
      row.querySelector("a").addEventListener("click", (event) => { event.preventDefault(); choose(i); });
    }
    for (const box of section.querySelectorAll(".code")) {
      const button = add(box, "button", { type: "button" }, "Copy");
      button.addEventListener("click", async () => {
        const code = box.querySelector("code");
        getSelection().selectAllChildren(code); // where the clipboard is refused, Ctrl-C does it
        await navigator.clipboard?.writeText(code.textContent).then(() => { button.textContent = "Copied"; }, () => {});
      });
    }
    let width = plot.clientWidth;
    new ResizeObserver(() => {
      if (plot.clientWidth === width) return;
      width = plot.clientWidth;
      draw();
      light(under);
    }).observe(plot);
    addEventListener("hashchange", () => { read(); show(); });
  }

  wire();
  read();
  show();
}

document.querySelectorAll("section.report").forEach(report);
