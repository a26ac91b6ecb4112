"use strict";

// Fixed and warped, side by side, become one picture with a slider: a range input, so that the keyboard moves it, too.
for (const comparison of document.querySelectorAll(".comparison")) {
  const slider = comparison.querySelector("input");
  const show = () => {
    comparison.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `fixed ${slider.value} %, warped ${100 - slider.value} %`);
  };
  slider.addEventListener("input", show);
  comparison.querySelector(".layers").append(slider);
  comparison.classList.add("sliding");
  show();
}

// What is folded away on the screen is open on paper, in browsers whose style sheets cannot say so.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((each) => { each.open = true; });
});
addEventListener("afterprint", () => folded.forEach((each) => { each.open = false; }));
