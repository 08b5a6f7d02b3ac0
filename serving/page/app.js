// The page: pictures in, one after the other to v1/predict, and what came back beside each of them.
// Whatever comes from outside (file names, labels, messages) becomes text, never markup.
"use strict";

const $ = (selector, within = document) => within.querySelector(selector);
const MOST_BARS = 5;
const SMALLEST_VIEW = 280; // pixels
const PATIENCE = 5; // tries, when the service says that it is busy

let model = null; // answer of GET v1/model; null as long as there is none
const waiting = [];
let working = false;

// Words ----------------------------------------------------------------------------------------------------------------

function sentence(text) {
  const clean = String(text).trim();
  const whole = clean.charAt(0).toUpperCase() + clean.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function percent(share) {
  if (share > 0.999) return ">\u00a099.9\u00a0%";
  if (share > 0 && share < 0.001) return "<\u00a00.1\u00a0%";
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

function bytes(count) {
  if (count >= 1e6) return `${+(count / 1e6).toFixed(1)}\u00a0MB`;
  return count >= 1000 ? `${Math.round(count / 1000)}\u00a0kB` : `${count}\u00a0bytes`;
}

function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(1)}\u00a0s`;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)}\u00a0ms`;
}

function short(digest) {
  return String(digest).slice(0, 12);
}

// Asking the service ---------------------------------------------------------------------------------------------------

class Trouble extends Error {
  constructor(message, again) {
    super(sentence(message));
    this.again = again; // whether the same picture may well pass a second time
  }
}

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function ask(file, explain, tell) {
  const limit = model?.limits?.max_body_bytes;
  if (limit && file.size > limit) {
    throw new Trouble(`this file has ${bytes(file.size)}, and the service takes at most ${bytes(limit)}`, false);
  }
  for (let tries = 1; ; tries++) {
    const answer = await send(file, explain);
    if (answer.ok) return answer.json();
    if (answer.status !== 503 || tries === PATIENCE) throw await trouble(answer);
    tell("The service is busy, waiting");
    await pause(Math.min(Number(answer.headers.get("Retry-After")) || tries, 10));
  }
}

async function send(file, explain) {
  // What a browser believes of a file follows from its name; the service looks at its content.
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  const query = explain ? "?explain=true" : "";
  try {
    return await fetch(`v1/predict${query}`, { method: "POST", body: file, headers: { "Content-Type": type } });
  } catch {
    throw new Trouble("the service could not be reached, or the file could not be read", true);
  }
}

async function trouble(answer) {
  const passing = [408, 429].includes(answer.status) || answer.status >= 500;
  let message;
  try {
    message = (await answer.json()).error.message;
  } catch {
    message = `the service answered with status ${answer.status}`;
  }
  return new Trouble(message, passing);
}

// One card a picture ---------------------------------------------------------------------------------------------------

function addCard(file) {
  const card = $("#card").content.firstElementChild.cloneNode(true);
  const name = file.name || "Picture";
  $(".file", card).textContent = `${name} · ${bytes(file.size)}`;
  $(".file", card).title = name;
  $(".remove", card).setAttribute("aria-label", `Remove ${name}`);
  const job = { file, name, card, url: URL.createObjectURL(file), removed: false };
  showPhoto(job);
  $(".remove", card).addEventListener("click", () => remove(job));
  $(".again", card).addEventListener("click", () => {
    showState(job, "Waiting for its turn");
    $(".remove", card).focus(); // the button that was pressed is gone
    enqueue([job]);
  });
  card.job = job;
  return job;
}

function showPhoto({ card, url, name }) {
  const photo = $(".photo", card);
  photo.alt = name;
  photo.addEventListener("load", () => {
    enlarge(photo);
    place($(".heat", card), photo);
  });
  photo.addEventListener("error", () => {
    photo.hidden = true;
    $(".stage", card).classList.add("alone");
    $(".stage", card).hidden = $(".heat", card).hidden;
    $(".nophoto", card).hidden = false;
  });
  photo.src = url;
}

// A small picture would be hard to see; a large one is made to fit by the style sheet.
function enlarge(photo) {
  const scale = SMALLEST_VIEW / Math.max(photo.naturalWidth, photo.naturalHeight);
  if (scale > 1) photo.style.width = `${photo.naturalWidth * scale}px`;
}

function showState({ card }, text) {
  card.classList.toggle("sending", text !== "Waiting for its turn");
  $(".doing", card).textContent = text;
  $(".state", card).hidden = false;
  $(".trouble", card).hidden = true;
}

function showTrouble({ card, name }, error) {
  card.classList.remove("sending");
  $(".state", card).hidden = true;
  $(".trouble", card).hidden = false;
  $(".trouble p", card).textContent = error.message;
  $(".again", card).hidden = !error.again;
  say(`${name}: ${error.message}`);
}

function showAnswer({ card, name }, answer) {
  card.classList.remove("sending");
  card.classList.toggle("unsure", answer.abstained);
  $(".state", card).hidden = true;
  $(".told", card).hidden = false;
  const ranked = Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]);
  const likeliest = percent(answer.probabilities[answer.label] ?? ranked[0][1]);
  $(".verdict .label", card).textContent = answer.abstained ? "No answer" : answer.label;
  $(".share", card).textContent = answer.abstained ? `perhaps ${answer.label}, ${likeliest}` : likeliest;
  $(".abstained", card).hidden = !answer.abstained;
  $(".abstained span", card).textContent = answer.abstained ? whyAbstained(ranked, answer.threshold) : "";
  showBars(card, ranked, answer.threshold);
  showFacts($(".facts", card), answer);
  showHeat(card, answer);
  const said = answer.abstained ? "the model gives no answer" : `${answer.label}, ${likeliest}`;
  say(`${name}: ${said}.`);
}

function whyAbstained(ranked, threshold) {
  if (typeof threshold !== "number") return "The model is not sure enough.";
  const likely = ranked.filter(([, share]) => share >= threshold).map(([label]) => label);
  const needed = percent(threshold);
  if (likely.length === 0) return `No class reaches ${needed}, which is what the model asks of an answer.`;
  return `More than one class reaches ${needed} (${likely.join(", ")}), so the picture could be any of them.`;
}

function showBars(card, ranked, threshold) {
  const marked = typeof threshold === "number" && threshold > 0;
  const bars = ranked.slice(0, MOST_BARS).map(([label, share]) => {
    const item = document.createElement("li");
    const track = part("span", "track", "");
    track.setAttribute("aria-hidden", "true");
    const fill = document.createElement("i");
    fill.style.width = `${100 * share}%`;
    track.append(fill);
    if (marked) {
      const mark = document.createElement("u");
      mark.style.left = `${100 * threshold}%`;
      track.append(mark);
    }
    item.append(part("span", "name", label), part("span", "value", percent(share)), track);
    return item;
  });
  $(".bars", card).replaceChildren(...bars);
  $(".hint", card).hidden = !marked;
  $(".hint", card).textContent = marked
    ? `The line at ${percent(threshold)}: the model answers when exactly one class reaches it.`
    : "";
}

function part(kind, name, text) {
  const element = document.createElement(kind);
  element.className = name;
  element.textContent = text;
  return element;
}

function showFacts(list, answer) {
  const { name, version, digest } = answer.model;
  const { decode, inference, explain, total } = answer.milliseconds;
  const detail = [`decoding ${milliseconds(decode)}`, `model ${milliseconds(inference)}`];
  if (explain !== undefined) detail.push(`heat map ${milliseconds(explain)}`);
  const facts = [
    ["Model", version ? `${name} · version ${version}` : name],
    ["Digest", short(digest)],
    ["Time", `${milliseconds(total)}: ${detail.join(", ")}`],
  ];
  list.replaceChildren(...facts.flatMap(([term, text]) => [part("dt", "", term), part("dd", "", text)]));
  list.children[3].title = digest;
}

function showHeat(card, answer) {
  const heat = $(".heat", card);
  const slider = $(".fade input", card);
  if (!String(answer.heatmap ?? "").startsWith("data:image/png;base64,")) return;
  heat.src = answer.heatmap;
  heat.hidden = false;
  $(".stage", card).hidden = false;
  place(heat, $(".photo", card));
  const fade = () => {
    heat.style.opacity = slider.value / 100;
    slider.setAttribute("aria-valuetext", `${slider.value} %`);
  };
  slider.addEventListener("input", fade);
  fade();
  $(".fade", card).hidden = $(".stage", card).classList.contains("alone");
  $(".fade p", card).textContent = `Bright places speak most for ${answer.label}. Hiding them changes the answer most.`;
}

// The map is of the square that the model sees: all of the picture, its middle, or all of it and a border.
function place(heat, photo) {
  const [wide, high] = [photo.naturalWidth, photo.naturalHeight];
  if (!wide || !high) return;
  const fit = model?.geometry?.fit ?? "squash";
  const side = fit === "crop" ? Math.min(wide, high) : Math.max(wide, high);
  const [width, height] = fit === "squash" ? [wide, high] : [side, side];
  Object.assign(heat.style, {
    width: `${(100 * width) / wide}%`,
    height: `${(100 * height) / high}%`,
    left: `${(50 * (wide - width)) / wide}%`,
    top: `${(50 * (high - height)) / high}%`,
  });
}

function remove(job) {
  const next = job.card.nextElementSibling ?? job.card.previousElementSibling;
  discard(job);
  if (!$("#cards").children.length) $("#results").hidden = true;
  (next ? $(".remove", next) : $("#choose")).focus();
}

function discard(job) {
  job.removed = true;
  job.card.remove();
  URL.revokeObjectURL(job.url);
}

function say(text) {
  $("#spoken").textContent = text;
}

// One after the other ---------------------------------------------------------------------------------------------------

function take(files) {
  const jobs = [...files].map(addCard);
  if (!jobs.length) return;
  $("#cards").prepend(...jobs.map((job) => job.card));
  $("#results").hidden = false;
  enqueue(jobs);
}

function enqueue(jobs) {
  waiting.push(...jobs);
  if (!working) work();
}

async function work() {
  working = true;
  await described; // its limits, and how pictures become square
  if (!model) await describe();
  while (waiting.length) {
    const job = waiting.shift();
    if (job.removed) continue;
    try {
      showState(job, $("#explain").checked ? "Looking, and finding out where" : "Looking");
      showAnswer(job, await ask(job.file, $("#explain").checked, (text) => showState(job, text)));
    } catch (error) {
      showTrouble(job, error instanceof Trouble ? error : new Trouble("the answer could not be understood", false));
    }
  }
  working = false;
}

// The model ------------------------------------------------------------------------------------------------------------

async function describe() {
  try {
    const answer = await fetch("v1/model");
    if (!answer.ok) throw await trouble(answer);
    model = await answer.json();
    showModel();
  } catch (error) {
    const why = error instanceof Trouble ? error.message : "The service could not be asked about its model.";
    $("#about").textContent = why;
  }
}

function showModel() {
  const { name, version, digest, labels, limits } = model;
  $("#name").textContent = name;
  document.title = `${name} · Assay`;
  const named = labels.slice(0, 8).join(", ") + (labels.length > 8 ? ` and ${labels.length - 8} more` : "");
  $("#about").textContent = `Tells ${labels.length} classes apart: ${named}.`;
  if (limits?.max_body_bytes) $("#limits").textContent += `, up to ${bytes(limits.max_body_bytes)}`;
  $("#identity").textContent = `Model ${name}${version ? `, version ${version}` : ""}, digest ${short(digest)}.`;
  $("#identity").title = digest;
}

// What a person does ---------------------------------------------------------------------------------------------------

for (const [button, input] of [["#choose", "#files"], ["#camera", "#shot"]]) {
  $(button).addEventListener("click", () => $(input).click());
  $(input).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
}

const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

// Anywhere on the page: a picture that misses the frame must not replace the page.
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    $("#drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("#drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  $("#drop").classList.remove("over");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => take(event.clipboardData?.files ?? []));

$("#clear").addEventListener("click", () => {
  for (const card of [...$("#cards").children]) discard(card.job);
  $("#results").hidden = true;
  $("#choose").focus();
});

const address = new URL("v1/predict", document.baseURI).href;
$("#curl").textContent = `curl --data-binary @picture.jpg -H 'Content-Type: image/jpeg' '${address}'`;
if (navigator.clipboard) {
  $("#copy").hidden = false;
  $("#copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText($("#curl").textContent);
    $("#copy").textContent = "Copied";
    setTimeout(() => ($("#copy").textContent = "Copy"), 2000);
  });
}

const described = describe();
