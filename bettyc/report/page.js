// Everything is on the page without this script; it adds a cursor to the plots and the choice of
// runs. Arrow keys move the cursor by one logged update, with Shift by a tenth of them.
"use strict";
const charts = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();

for (const plot of document.querySelectorAll(".plot")) {
  const chart = charts[plot.id];
  const svg = plot.querySelector("svg");
  const cursor = plot.querySelector(".cursor");
  const readout = document.getElementById(plot.id + "-readout");
  let at = -1;

  const show = (index) => {
    at = Math.max(0, Math.min(chart.steps.length - 1, index));
    const step = chart.steps[at];
    const [low, high, start, end] = chart.x;
    const x = start + ((step - low) / (high - low)) * (end - start);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.removeAttribute("hidden");
    const told = chart.curves
      .filter((c) => !hidden.has(c.group))
      .map((c) => [c.label, c.values[at]])
      .filter(([, value]) => value !== undefined && value !== null)
      .map(([label, value]) => `${label} ${Number(value).toPrecision(5)}`);
    readout.textContent = `step ${step}: ${told.join(", ") || "nothing"}`;
  };

  plot.addEventListener("keydown", (event) => {
    const stride = event.shiftKey ? Math.max(1, Math.round(chart.steps.length / 10)) : 1;
    const moves = { ArrowLeft: at - stride, ArrowRight: at + stride, Home: 0, End: Infinity };
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(moves[event.key]);
  });
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [low, high, start, end] = chart.x;
    const x = ((event.clientX - box.left) / box.width) * chart.width;
    const step = low + ((x - start) / (end - start)) * (high - low);
    let best = 0;
    chart.steps.forEach((s, i) => {
      if (Math.abs(s - step) < Math.abs(chart.steps[best] - step)) best = i;
    });
    show(best);
  });
}

for (const box of document.querySelectorAll("input[data-group]")) {
  box.addEventListener("change", () => {
    const group = Number(box.dataset.group);
    if (box.checked) hidden.delete(group);
    else hidden.add(group);
    for (const curve of document.querySelectorAll(`.curve[data-group="${group}"]`)) {
      curve.classList.toggle("off", !box.checked);
    }
  });
}
