"use strict";
// The page on which captions are judged: one clip at a time, answers kept in the browser and saved as a file.
const clips = [...document.querySelectorAll("article")];
const page = document.body.dataset.page, store = "audit " + page;
const KEYS = { j: "right", k: "wrong", l: "unsure" };
let answers = {}, at = 0;
try { answers = JSON.parse(localStorage.getItem(store)) || {}; } catch { /* a browser may keep nothing of a file */ }

function show(place) {
  clips[at].classList.remove("now");
  clips[at].querySelector("video").pause();
  at = Math.max(0, Math.min(clips.length - 1, place));
  clips[at].classList.add("now");
  clips[at].querySelector("video").play().catch(() => {});
  paint();
}

function paint() {
  const given = Object.keys(answers).length;
  document.getElementById("at").textContent = `${at + 1} of ${clips.length}, ${given} judged`;
  for (const button of document.querySelectorAll("[data-answer]"))
    button.setAttribute("aria-pressed", answers[clips[at].id] === button.dataset.answer);
}

function answer(word) {
  answers[clips[at].id] = word;
  try { localStorage.setItem(store, JSON.stringify(answers)); } catch { /* as above */ }
  paint();
  if (at + 1 < clips.length) show(at + 1);
}

function saved() {
  const origins = {};
  for (const clip of clips) if (clip.id in answers) origins[clip.id] = clip.dataset.origin;
  return { page, judge: document.getElementById("judge").value, answers, origins };
}

for (const button of document.querySelectorAll("[data-answer]"))
  button.addEventListener("click", () => answer(button.dataset.answer));
document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(saved(), null, 2)], { type: "application/json" }));
  link.download = `judged-${document.getElementById("judge").value || "by-me"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const video = clips[at].querySelector("video");
  if (KEYS[event.key]) answer(KEYS[event.key]);
  else if (event.key === "ArrowRight") show(at + 1);
  else if (event.key === "ArrowLeft") show(at - 1);
  else if (event.key === " ") { video.paused ? video.play().catch(() => {}) : video.pause(); }
  else return;
  event.preventDefault();
});
show(0);
