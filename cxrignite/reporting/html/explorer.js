"use strict";
for (const root of document.querySelectorAll("[data-explorer]")) {
  const find = (selector) => root.querySelector(selector);
  const all = (selector) => [...root.querySelectorAll(selector)];
  const sums = (differences) => {
    let sum = 0;
    return differences.map((difference) => (sum += difference));
  };
  const sets = JSON.parse(find("script").textContent).map((set) => ({
    ...set, below: set.below.map(sums), lows: set.lows.map(sums),
  }));
  const sliders = all("input[type=range]");
  const choice = find("select");
  let set = sets[0];

  // A share with one digit as in Python: ties go to the even digit, only 0 and 1 are "0" and "100".
  const percent = (share) => {
    const text = (share * 16 % 4 === 1 ? share - 1e-9 : share).toFixed(3);
    if (share < 1 && text === "1.000") return "> 99.9";
    if (share > 0 && text === "0.000") return "< 0.1";
    return (Number(text) * 100).toFixed(1);
  };

  // The lower end of the exact interval, between two known ends in a large class.
  const low = (label, count) => {
    const ends = set.lows[label];
    const place = count * (ends.length - 1) / set.sizes[label];
    const first = Math.floor(place);
    const next = ends[Math.min(first + 1, ends.length - 1)];
    return (ends[first] + (place - first) * (next - ends[first])) * 1e-7;
  };

  const rate = (part, whole) => (whole ? percent(part / whole) + "\u00a0%" : "\u2013");

  const interval = (label, count) => {
    const size = set.sizes[label];
    if (!size) return "";
    const ends = [low(label, count), 1 - low(label, size - count)];
    return ends.map(percent).join(" to ").replace(/([<>]) /g, "$1\u00a0") + "\u00a0%";
  };

  const show = () => {
    const steps = sliders.map((slider) => Number(slider.value));
    const lower = steps[0], upper = steps[steps.length - 1];
    const counts = set.sizes.map((size, label) => {
      const below = set.below[label];
      return [below[lower], below[upper] - below[lower], size - below[upper]];
    });
    for (const cell of all("[data-cell]")) {
      const [label, decision] = cell.dataset.cell.split(" ").map(Number);
      const count = counts[label][decision];
      cell.querySelector("b").textContent = count.toLocaleString("en-US");
      cell.querySelector(".figure").textContent = rate(count, set.sizes[label]);
      cell.querySelector(".interval").textContent = interval(label, count);
    }
    // A referred image is neither a false positive nor a false negative.
    const [[tn, kept, fp], [fn, left, tp]] = counts;
    find("[data-value=ppv]").textContent = rate(tp, tp + fp);
    find("[data-value=npv]").textContent = rate(tn, tn + fn);
    const texts = steps.map((step, index) => {
      const text = set.steps[step] + (step === set.stored[index] ? " (stored)" : "");
      sliders[index].setAttribute("aria-valuetext", text);
      return text;
    });
    find("output").textContent =
      `${steps.length > 1 ? "Thresholds" : "Threshold"} ${texts.join(" and ")}: ` +
      `specificity ${rate(tn + kept, set.sizes[0])}, sensitivity ${rate(tp + left, set.sizes[1])}` +
      (steps.length > 1 ? `, referred ${rate(kept + left, set.sizes[0] + set.sizes[1])}.` : ".");
    all("figure:not(.other) .chosen").forEach((line, index) => {
      const place = Math.min(Number(set.steps[steps[index]]), 1) * 400;
      line.setAttribute("x1", place);
      line.setAttribute("x2", place);
      line.setAttribute("visibility", "visible");
    });
  };

  const reset = () => {
    sliders.forEach((slider, index) => {
      slider.max = set.steps.length - 1;
      slider.value = set.stored[index];
    });
    show();
  };

  const choose = () => {
    const chosen = choice ? choice.selectedIndex : 0;
    set = sets[chosen];
    for (const part of all("[data-images]")) {
      part.classList.toggle("other", Number(part.dataset.images) !== chosen);
    }
    reset();
  };

  sliders.forEach((slider, index) => slider.addEventListener("input", () => {
    // The lower threshold stays at or below the upper one.
    sliders.forEach((other, place) => {
      const isCrossed = place < index ? +other.value > +slider.value : +other.value < +slider.value;
      if (place !== index && isCrossed) other.value = slider.value;
    });
    show();
  }));
  find("button").addEventListener("click", reset);
  choice?.addEventListener("change", choose);
  for (const part of all(".controls")) part.hidden = false;
  choose();
}
