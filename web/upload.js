// The upload page: photos, which are uploaded as soon as they are added, a task, models and a button.
import { Problem, byId, bytes, duration, element, page, plural, request, setText } from "./shared.js";
import { forget, keep, keepChoices, kept, restoreChoices } from "./kept.js";

// An entry: {file, key, state: "waiting"|"sending"|"ready"|"refused", sent, answer, error, upload, node}.
let entries = [];
let starting = false;
let sending = Promise.resolve();
const restored = kept();

function fault(file) {
  const name = file.name.toLowerCase();
  if (!page.limits.types.some((type) => name.endsWith(type))) return "This type of file is not supported.";
  if (file.size === 0) return "The file is empty.";
  if (file.size > page.limits.bytes) return `Too large: at most ${bytes(page.limits.bytes)}.`;
  return null;
}

// `message` is shown below the photos, `refusal` above the button.
function say(id, text) {
  byId(id).hidden = !text;
  setText(byId(id), text);
}

// `keys`: the keys of restored files in the browser's database.
function add(files, keys = []) {
  say("message", "");
  let left = page.limits.photos - entries.filter((entry) => entry.state !== "refused").length;
  let extra = 0;
  for (const [k, file] of [...files].entries()) {
    const error = fault(file);
    if (!error && left-- <= 0) {
      extra += 1;
      continue;
    }
    const entry = { file, state: error ? "refused" : "waiting", error, sent: 0 };
    entry.key = keys[k] ? Promise.resolve(keys[k]) : error ? Promise.resolve(null) : restored.then(() => keep(file));
    entries.push(entry);
    build(entry);
    if (!error) send(entry);
  }
  if (extra) say("message", `At most ${plural(page.limits.photos, "photo")} at a time: ${extra} left out.`);
  refresh();
}

function build(entry) {
  const { name } = entry.file;
  const node = element("li", "entry");
  const thumb = element("span", "thumb");
  const image = element("img");
  image.alt = "";
  // The browser cannot display this type, such as TIFF.
  image.addEventListener("error", () => thumb.replaceChildren(element("span", "type", name.split(".").pop().slice(0, 5).toUpperCase())));
  image.src = URL.createObjectURL(entry.file);
  thumb.append(image);
  const text = element("div", "text");
  const title = element("span", "name", name);
  title.title = name;
  const bar = element("div", "bar");
  bar.append(element("div"));
  text.append(title, element("span", "note facts"), bar);
  const again = element("button", "button small again", "Try again");
  again.type = "button";
  again.addEventListener("click", () => send(entry));
  const remove = element("button", "button small remove", "Remove");
  remove.type = "button";
  remove.setAttribute("aria-label", `Remove ${name}`);
  remove.addEventListener("click", () => drop(entry));
  const buttons = element("span", "buttons");
  buttons.append(again, remove);
  node.append(thumb, text, buttons);
  entry.node = node;
  entry.url = image.src;
  byId("list").append(node);
  show(entry);
}

function facts(entry) {
  if (entry.state === "refused") return entry.error;
  const size = bytes(entry.file.size);
  if (entry.state === "ready") return `${entry.answer.width} x ${entry.answer.height} pixels, ${size}`;
  return entry.state === "sending" ? `${size}, ${Math.round(entry.sent * 100)} % sent` : size;
}

function show(entry) {
  entry.node.dataset.state = entry.state;
  setText(entry.node.querySelector(".facts"), facts(entry));
  entry.node.querySelector(".bar").hidden = entry.state === "ready" || entry.state === "refused";
  entry.node.querySelector(".bar div").style.width = `${entry.sent * 100}%`;
  entry.node.querySelector(".again").hidden = !entry.retry;
}

function drop(entry) {
  const buttons = [...document.querySelectorAll("#list .remove")];
  const place = buttons.indexOf(entry.node.querySelector(".remove"));
  entries = entries.filter((other) => other !== entry);
  entry.upload?.abort();
  entry.key.then(forget);
  if (entry.answer) request(`/uploads/${entry.answer.id}`, { method: "DELETE" }).catch(() => {});
  URL.revokeObjectURL(entry.url);
  entry.node.remove();
  (buttons[place + 1] ?? buttons[place - 1] ?? byId("files")).focus();
  say("message", "");
  setText(byId("live"), `${entry.file.name} removed.`);
  refresh();
}

// One at a time, so that the first photo is ready as early as possible.
function send(entry) {
  Object.assign(entry, { state: "waiting", sent: 0, retry: false, error: null, answer: null });
  show(entry);
  refresh();
  sending = sending.then(async () => {
    if (!entries.includes(entry)) return;
    entry.state = "sending";
    try {
      entry.answer = await upload(entry);
      entry.state = "ready";
    } catch (problem) {
      entry.state = "refused";
      entry.error = problem.message;
      entry.retry = problem.status === 0 || problem.status >= 500;
    }
    if (!entries.includes(entry)) return;
    show(entry);
    refresh();
    setText(byId("live"), entry.state === "ready" ? `${entry.file.name} is ready.` : `${entry.file.name}: ${entry.error}`);
  });
}

// XMLHttpRequest, because fetch does not report upload progress.
function upload(entry) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    entry.upload = xhr;
    xhr.open("POST", "/uploads");
    // A lone surrogate (possible in names on Windows) has no percent-encoding.
    xhr.setRequestHeader("X-File-Name", encodeURIComponent(entry.file.name.replace(/\p{Surrogate}/gu, "\ufffd")));
    xhr.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) entry.sent = event.loaded / event.total;
      show(entry);
    });
    xhr.addEventListener("load", () => {
      if (xhr.status === 201) resolve(JSON.parse(xhr.responseText));
      else reject(new Problem(xhr.status, xhr.responseText));
    });
    xhr.addEventListener("error", () => reject(new Problem(0, "")));
    xhr.addEventListener("abort", () => reject(new Problem(0, "")));
    xhr.send(entry.file);
  });
}

function task() {
  const chosen = document.querySelector("input[name=task]:checked");
  return chosen ? page.tasks[Number(chosen.value)] : null;
}

function models() {
  const number = page.tasks.indexOf(task());
  const ids = [...document.querySelectorAll(`input[name=model-${number}]:checked`)].map((box) => box.value);
  return task()?.models.filter((model) => ids.includes(model.id)) ?? [];
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

const ready = () => entries.filter((entry) => entry.state === "ready");

// The reason why no job can be started now, or null.
function obstacle() {
  const busy = entries.filter((entry) => entry.state === "waiting" || entry.state === "sending").length;
  if (!page.tasks.length) return "No network is installed, so there is nothing to enhance with.";
  if (starting) return "Starting ...";
  if (busy) return `Sending ${plural(busy, "photo")} ...`;
  if (!ready().length) return "Add a photo first.";
  if (!models().length) return "Choose at least one model.";
  return null;
}

// The formulas of web/speeds.py: tiles are read with their margins, and each picture is written and scored.
function seconds({ width, height }, models) {
  const { tile, rest, picture } = page.estimates;
  const { scale } = task();
  const read = (side, margin) => (margin === null ? side : side + 2 * margin * (Math.ceil(side / tile) - 1));
  const pixels = ({ margin }, wide, high) => read(wide, margin) * read(high, margin);
  const networks = sum(models.map((model) => (model.seconds * pixels(model, width, height)) / pixels(model, 1000, 1000)));
  const megapixels = (width * height) / 1e6;
  const large = sum(models.map((model) => model.gammas?.length ?? 1)) + (scale > 1 ? 1 : 0);
  return networks + rest * (megapixels + picture + large * (megapixels * scale ** 2 + picture));
}

function estimate() {
  const known = models().filter((model) => model.seconds !== null);
  const total = sum(ready().map((entry) => seconds(entry.answer, known)));
  const before = page.waiting ? ` ${plural(page.waiting, "job")} ahead of yours.` : "";
  if (!known.length) return `The time on this ${page.device} is not known yet.${before}`;
  const most = known.length < models().length ? "More than" : "About";
  return `${most} ${duration(Math.max(1, Math.round(total)))} on this ${page.device}.${before}`;
}

// Just after its start, the server is still measuring its speed.
async function learn() {
  const unknown = () => page.tasks.some((offered) => offered.models.some((model) => model.seconds === null));
  for (let k = 0; k < 60 && unknown(); k += 1) {
    await new Promise((resolve) => setTimeout(resolve, 2000));
    try {
      page.tasks = await (await request("/models")).json();
    } catch {
      return; // the page works without estimates
    }
    refresh();
  }
}

function refresh() {
  const reason = obstacle();
  byId("enhance").disabled = reason !== null;
  setText(byId("estimate"), reason ?? estimate());
  setText(byId("count"), entries.length ? `${ready().length} of ${page.limits.photos}` : "");
  document.body.classList.toggle("chosen", entries.length > 0);
}

async function start(event) {
  event.preventDefault();
  if (obstacle()) return;
  starting = true;
  say("refusal", "");
  refresh();
  const { task: name, scale } = task();
  const body = JSON.stringify({
    photos: ready().map((entry) => entry.answer.id),
    task: name,
    scale,
    models: models().map((model) => model.id),
  });
  try {
    const response = await request("/jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    location.assign((await response.json()).url);
  } catch (problem) {
    starting = false;
    say("refusal", problem.message);
    refresh();
  }
}

async function addExample(button) {
  button.disabled = true;
  try {
    const blob = await (await request(button.dataset.url)).blob();
    add([new File([blob], button.dataset.url.split("/").pop(), { type: blob.type })]);
  } catch (problem) {
    say("message", problem.message);
  }
  button.disabled = false;
}

function chooseTask() {
  const number = String(page.tasks.indexOf(task()));
  for (const box of document.querySelectorAll("fieldset.models")) box.hidden = box.dataset.task !== number;
  refresh();
}

byId("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = ""; // the same file can be chosen again
});
for (const button of document.querySelectorAll(".example")) button.addEventListener("click", () => addExample(button));
byId("form").addEventListener("change", () => {
  chooseTask();
  keepChoices(byId("form"));
});
byId("form").addEventListener("submit", start);

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  // Without a related target, the pointer has left the window.
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!hasFiles(event)) return;
  event.preventDefault();
  add([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add([...event.clipboardData.files]);
});
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  // Back from the results: the server may have deleted the uploads, so send them again.
  starting = false;
  ready().forEach(send);
  refresh();
});

restoreChoices(byId("form"));
chooseTask();
learn();
restored.then((found) => {
  if (found.length) add(found.map(([, file]) => file), found.map(([key]) => key));
});
