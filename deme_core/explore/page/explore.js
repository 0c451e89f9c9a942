"use strict";
const at = name => document.getElementById(name);
let weights = [], rows = [], buttons = [], busy = false, again = false;

const ask = async (path, body) => {
  const options = body && {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error("no answer; is deme explore still running?"); }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
};

const tell = (where, text, wrong) => { at(where).textContent = text; at(where).classList.toggle("error", Boolean(wrong)); };

const step = (low, high) => 10 ** Math.floor(Math.log10(high - low)) / 100;

// A slider stands at its nearest step; the exact weight is in the list, and in the field beside it.
const follow = () => {
  rows.forEach(({range, field}, i) => {
    range.value = weights[i];
    if (document.activeElement !== field) field.value = Number(weights[i].toFixed(4));
  });
  buttons.forEach(({button, own}) => button.setAttribute("aria-pressed", own.every((w, i) => Math.abs(w - weights[i]) < 1e-12)));
  at("formula").textContent = weights.some(Boolean) ? "θ + Σ wᵢτᵢ" : "θ, w = 0";
};

const slider = ({label, low, high}, i) => {
  const row = document.createElement("div"), range = document.createElement("input"), field = document.createElement("input");
  const name = document.createElement("span");
  row.className = "slider"; name.textContent = label;
  Object.assign(range, {type: "range", min: low, max: high, step: step(low, high)});
  Object.assign(field, {type: "number", step: step(low, high)});
  for (const input of [range, field]) {
    input.setAttribute("aria-label", `weight of ${label}`);
    input.addEventListener("input", () => {
      if (input.value === "") return;
      weights[i] = Number(input.value); follow(); show();
    });
  }
  row.append(name, range, field);
  rows.push({range, field});
  return row;
};

const columns = n => {  // of a sheet near a square, whole where it can be
  const least = Math.ceil(Math.sqrt(n));
  for (let k = least; k <= 2 * least; k++) if (n % k === 0) return k;
  return least;
};

const sheet = (name, images) => {
  const own = at(name);
  own.style.gridTemplateColumns = `repeat(${columns(images.length)}, 1fr)`;
  while (own.children.length > images.length) own.lastChild.remove();
  images.forEach((source, k) => {
    const image = own.children[k] || own.appendChild(document.createElement("img"));
    image.onload = () => image.classList.toggle("smooth", image.naturalWidth > 64);
    if (image.src !== source) image.src = source;
    image.alt = `${name} ${Number(at("seed").value) + k}`;
  });
};

const point = event => {  // the same image on both sides
  const own = event.target.closest(".sheet img"), k = own ? [...own.parentNode.children].indexOf(own) : -1;
  for (const name of ["base", "merged"])
    [...at(name).children].forEach((image, i) => image.classList.toggle("same", i === k));
};

const predict = ({said, of, by, value, low, high}) => {
  tell("said", said); tell("by", by || ""); tell("objective", of ? `of ${of}` : "");
  at("bar").toggleAttribute("hidden", value === undefined);
  if (value === undefined) return;
  const ends = Math.max(20, Math.abs(low), Math.abs(high)) * 1.1, place = x => `${50 + 50 * x / ends}%`;
  at("zero").setAttribute("x1", "50%"); at("zero").setAttribute("x2", "50%");
  at("reach").setAttribute("x1", place(low)); at("reach").setAttribute("x2", place(high));
  at("mark").setAttribute("cx", place(value));
  at("prediction").classList.toggle("better", high < 0); at("prediction").classList.toggle("worse", low > 0);
};

// One request at a time; of what is asked for meanwhile the last alone is sent.
const show = async () => {
  if (busy) { again = true; return; }
  busy = true;
  do {
    again = false;
    const asked = {weights: [...weights], prompt: at("prompt").value};
    for (const name of ["seed", "images", "steps"]) asked[name] = Number(at(name).value);
    try {
      const found = await ask("show", asked);
      sheet("base", found.base); sheet("merged", found.merged); predict(found.prediction);
      const last = asked.seed + asked.images - 1;
      tell("state", `images ${asked.seed} … ${last}, the same noise on both sides; ${found.seconds.toFixed(2)} s`);
    } catch (error) { tell("state", error.message, true); }
  } while (again);
  busy = false;  // how many answers have been drawn, for what drives the page
  document.body.dataset.shown = Number(document.body.dataset.shown || 0) + 1;
};

const save = async event => {
  event.preventDefault();
  tell("kept", "…");
  try { tell("kept", (await ask("save", {weights, folder: at("folder").value})).said); }
  catch (error) { tell("kept", error.message, true); }
};

const open = async () => {
  const found = await ask("session");
  document.title = `deme explore: ${found.title}`;
  tell("title", `${found.title}, ${found.sliders.length} directions, sampler ${found.sampler}`);
  let group;
  found.sliders.forEach((own, i) => {
    if (own.direction !== group) {
      const head = document.createElement("h3");
      head.textContent = own.direction === "range" ? "experts" : "further directions";
      if (group === undefined || group === "range") at("sliders").append(head);
      group = own.direction;
    }
    at("sliders").append(slider(own, i));
  });
  for (const {label, weights: own, said} of found.buttons) {
    const button = document.createElement("button");
    button.textContent = label; button.title = said;
    button.addEventListener("click", () => { weights = [...own]; follow(); show(); });
    at("buttons").append(button);
    buttons.push({button, own});
  }
  for (const name of ["seed", "images", "steps"]) {
    at(name).value = found[name];
    at(name).addEventListener("change", show);
  }
  at("prompted").hidden = !found.text;
  at("prompt").placeholder = found.prompts.filter(Boolean).join(" · ");
  at("prompt").addEventListener("change", show);
  at("keep").addEventListener("submit", save);
  document.addEventListener("mouseover", point);
  weights = [...found.buttons[0].weights];
  follow();
  await show();
};

open().catch(error => tell("state", error.message, true));
