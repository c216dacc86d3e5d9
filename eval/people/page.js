"use strict";
// One voter judges pairs of videos; what is shown, in which order and where, follows from the voter's name.

const at = (id) => document.getElementById(id);
const page = JSON.parse(at("page").textContent);
const sides = ["left", "right"];
const arrows = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "tie", ArrowDown: "bad" };
let voter = "", shown = [], votes = [], place = 0, draft = {}, spent = 0, since = 0, addresses = [], loaded = new Set();

// Uniform numbers that a text alone decides: its FNV-1a hash starts mulberry32.
function numbers(text) {
  let state = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) state = Math.imul(state ^ byte, 0x01000193) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(items, random) {
  const mixed = [...items];
  for (let k = mixed.length - 1; k > 0; k--) {
    const other = Math.floor(random() * (k + 1));
    [mixed[k], mixed[other]] = [mixed[other], mixed[k]];
  }
  return mixed;
}

// What a voter is shown: pairs in a drawn order, half of them swapped, and some again the other way round.
function order(name) {
  const random = numbers(`${page.seed} ${page.hash} ${name}`);
  let pairs = shuffled(page.pairs, random);
  if (page.each) pairs = pairs.slice(0, page.each);
  const odd = random() < 0.5 ? 1 : 0;
  const swaps = shuffled(pairs.map((_, k) => (k + odd) % 2 === 1), random);
  const once = pairs.map((pair, k) => ({ pair, swapped: swaps[k], again: false }));
  const again = shuffled(once.slice(0, Math.ceil(once.length / 2)), random).slice(0, page.swapped);
  return [...once, ...again.map((one) => ({ pair: one.pair, swapped: !one.swapped, again: true }))];
}

const videosOf = ({ pair, swapped }) => (swapped ? [pair.videos[1], pair.videos[0]] : pair.videos);
const plain = (text) => text.normalize("NFC").trim().replace(/\s+/g, " ");
const box = (name) => `arena ${page.hash} ${name}`;

function keep() {
  try {
    localStorage.setItem(box(voter), JSON.stringify({ votes, draft, place }));
    at("kept").textContent = "kept in this browser";
  } catch {
    at("kept").textContent = "This browser keeps nothing: download your votes before you close the page.";
  }
}

function kept(name) {
  try {
    return JSON.parse(localStorage.getItem(box(name)));
  } catch {
    return null;
  }
}

function begin(name) {
  voter = name;
  shown = order(voter);
  const before = kept(voter);
  votes = before ? before.votes : [];
  draft = before ? before.draft : {};
  at("start").hidden = true;
  at("votes").hidden = false;
  show(before ? before.place : 0, true);
}

function show(number, asBefore = false) {
  place = Math.max(0, Math.min(number, shown.length));
  if (!asBefore) draft = votes[place] ? { choice: votes[place].choice, reasons: votes[place].reasons, text: votes[place].text } : {};
  at("judge").hidden = place === shown.length;
  at("end").hidden = place < shown.length;
  at("lines").value = lines();
  keep();
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = [];
  loaded.clear();
  if (place === shown.length) {
    sides.forEach((side) => at(side).removeAttribute("src"));
    at("done").textContent = `You have judged all ${shown.length} pairs. Download your votes, and give the file to whoever asked you.`;
    at("download").classList.add("primary");
    at("download").focus();
    return;
  }
  const { pair } = shown[place];
  at("prompt").textContent = pair.prompt;
  at("place").textContent = `Pair ${place + 1} of ${shown.length}`;
  at("bar").max = shown.length;
  at("bar").value = place;
  at("back").disabled = place === 0;
  at("pair").style.setProperty("--ratio", pair.ratio);
  at("pair").style.setProperty("--fits", `calc(${2 * pair.ratio} * 52vh + 2rem)`);
  videosOf(shown[place]).forEach((id, k) => {
    const bytes = Uint8Array.from(atob(at(`v-${id}`).textContent), (letter) => letter.charCodeAt(0));
    addresses.push(URL.createObjectURL(new Blob([bytes], { type: "video/mp4" })));
    at(sides[k]).src = addresses[k];
  });
  at("pause").textContent = "Stop";
  spent = 0;
  since = performance.now();
  draw();
}

function draw() {
  for (const button of at("choices").children) button.setAttribute("aria-pressed", button.value === draft.choice);
  sides.forEach((side) => at(side).parentElement.classList.toggle("chosen", draft.choice === side));
  document.querySelectorAll("#reasons input").forEach((tick) => (tick.checked = (draft.reasons || []).includes(tick.value)));
  at("text").value = draft.text || "";
  at("next").disabled = !draft.choice;
}

const ready = () => loaded.size === sides.length;

function choose(choice) {
  if (!ready()) return; // nobody judges what is not there yet
  if (draft.choice === choice) return next();
  draft.choice = choice;
  draw();
  keep();
}

function reason() {
  draft.reasons = [...document.querySelectorAll("#reasons input:checked")].map((tick) => tick.value);
  draft.text = at("text").value;
  keep();
}

function next() {
  if (!draft.choice) return;
  reason();
  const [left, right] = videosOf(shown[place]);
  votes[place] = {
    page: page.hash, voter, number: place, pair: shown[place].pair.id, left, right, again: shown[place].again,
    choice: draft.choice, reasons: draft.reasons, text: plain(draft.text),
    seconds: Math.round(watched()) / 1000, at: new Date().toISOString(),
  };
  show(place + 1);
}

const watched = () => spent + (since ? performance.now() - since : 0); // milliseconds, of a page that is seen
const lines = () => votes.filter(Boolean).map((vote) => JSON.stringify(vote) + "\n").join("");

function pause() {
  const playing = sides.some((side) => !at(side).paused);
  sides.forEach((side) => (playing ? at(side).pause() : at(side).play()));
  at("pause").textContent = playing ? "Play" : "Stop";
}

// Both start together, wait for each other at the end, and the right one follows the left one's clock.
function start() {
  if (!ready()) return;
  sides.forEach((side) => (at(side).currentTime = 0));
  sides.forEach((side) => at(side).play().catch(() => (at("pause").textContent = "Play")));
}

function follow() {
  const [left, right] = sides.map(at);
  const apart = Math.abs(left.currentTime - right.currentTime);
  if (!left.ended && !right.ended && apart > 0.07 && !right.seeking) right.currentTime = left.currentTime;
  requestAnimationFrame(follow);
}

function download() {
  const link = document.createElement("a");
  const address = URL.createObjectURL(new Blob([lines()], { type: "application/jsonl" }));
  link.href = address;
  link.download = `votes-${voter.replace(/[^\p{L}\p{N}-]+/gu, "_")}-${page.hash.slice(0, 8)}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !voter) return;
  if (event.target.matches("input[type=text], textarea")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "text")) event.target.blur();
    return;
  }
  const inside = event.target.matches("button, summary, input");
  if (event.key === "Backspace") show(place - 1);
  else if (place === shown.length) return;
  else if (event.key in arrows) choose(arrows[event.key]);
  else if (event.key === "Enter" && !inside) next();
  else if (event.key === " " && !inside) pause();
  else if (event.key === "t" || event.key === "T") at("text").focus();
  else if (at(`reason-${event.key}`)) at(`reason-${event.key}`).click();
  else return;
  event.preventDefault();
}

page.reasons.forEach((text, k) => {
  const label = document.createElement("label"), tick = document.createElement("input"), key = document.createElement("kbd");
  Object.assign(tick, { type: "checkbox", value: text, id: `reason-${k + 1}` });
  key.textContent = k + 1;
  label.append(tick, key, text);
  at("reasons").append(label);
});
at("last-reason").textContent = page.reasons.length;
at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = plain(at("voter").value);
  if (name) begin(name);
});
at("voter").addEventListener("input", () => {
  const before = kept(plain(at("voter").value));
  at("found").textContent = before ? `Votes of this name are here, and you go on after ${before.votes.filter(Boolean).length} of them.` : "";
});
at("choices").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) choose(button.value);
});
at("reasons").addEventListener("change", reason);
at("text").addEventListener("input", reason);
at("next").addEventListener("click", next);
for (const name of ["back", "reopen"]) at(name).addEventListener("click", () => show(place - 1));
at("pause").addEventListener("click", pause);
at("download").addEventListener("click", download);
document.addEventListener("keydown", pressed);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) [spent, since] = [watched(), 0];
  else since = performance.now();
});
sides.forEach((side) => {
  at(side).addEventListener("loadeddata", () => {
    loaded.add(side);
    start();
  });
  at(side).addEventListener("click", () => choose(side));
  at(side).addEventListener("ended", () => {
    if (sides.every((one) => at(one).ended)) start();
  });
});
requestAnimationFrame(follow);
at("voter").focus();
