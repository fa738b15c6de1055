"use strict";
const specs = JSON.parse(document.getElementById("specs").textContent);
const touch = matchMedia("(pointer: coarse)").matches;
for (const [name, spec] of Object.entries(specs)) {
  const place = document.getElementById("plot-" + name);
  spec.layout.dragmode = touch ? false : "zoom";
  if (place.clientWidth < 480) {
    const { title, xaxis, yaxis, legend } = spec.layout;
    for (const part of [spec.layout, title, xaxis.title, yaxis.title]) if (part && part.font) part.font.size = 11;
    if (legend) Object.assign(legend, { entrywidth: 0.5, entrywidthmode: "fraction" });
  }
  Plotly.newPlot(place, spec.data, spec.layout, {
    displayModeBar: touch ? false : "hover", displaylogo: false, showTips: false,
    modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: name },
  });
  new ResizeObserver(() => Plotly.Plots.resize(place)).observe(place);
}
addEventListener("beforeprint", () => document.querySelectorAll(".plot").forEach((place) => Plotly.Plots.resize(place)));
