// The results page: polls the job and adds new results without changing existing nodes.
import { GONE, byId, bytes, duration, element, page, plural, request, setText } from "./shared.js";

const home = `/results/${encodeURIComponent(page.token)}`;
const finished = (result) => !["waiting", "working"].includes(result.state);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const address = (name) => `${home}/${encodeURIComponent(name)}`;
const part = (template) => byId(template).content.firstElementChild.cloneNode(true);
const hundredths = (score) => Math.round(score.mean * 100);

function scoreText(score, done) {
  if (score) return `${score.mean.toFixed(2)} ± ${score.std.toFixed(2)}`;
  return done ? "no score" : "not scored yet";
}

// Draws the distribution as bars and the mean as a line; `top` is the highest probability in any chart of the photo.
function chart(score, top) {
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const step = 240 / score.p.length;
  const label = `mean ${score.mean.toFixed(2)}, standard deviation ${score.std.toFixed(2)}`;
  const root = svg("svg", { viewBox: "0 0 240 76", role: "img", "aria-label": label });
  const title = svg("title", {});
  title.textContent = label;
  root.append(title);
  score.p.forEach((p, k) => {
    const height = (60 * p) / top;
    root.append(svg("rect", { class: "column", x: k * step + 1, y: 62 - height, width: step - 2, height }));
  });
  root.append(svg("line", { class: "axis", x1: 0, x2: 240, y1: 62.5, y2: 62.5 }));
  // The middle of bucket k (from 1) is at k - 1/2 steps.
  const x = (score.mean - 0.5) * step;
  root.append(svg("line", { class: "mean", x1: x, x2: x, y1: 2, y2: 66 }));
  for (const k of [1, score.p.length]) {
    const number = svg("text", { x: (k - 0.5) * step, y: 75 });
    number.textContent = k;
    root.append(number);
  }
  return root;
}

// Calls `move(dx, dy, event)` while a pointer drags, and `click(event)` if it did not move. While
// `scrolls()`, a finger that starts moving up or down scrolls the page (touch-action: pan-y).
function draggable(node, { start = () => {}, move, click = () => {}, scrolls = () => true }) {
  let last = null;
  let moved = false;
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || last) return;
    node.setPointerCapture(event.pointerId);
    last = event;
    moved = false;
    start(event);
  });
  node.addEventListener("pointermove", (event) => {
    if (event.pointerId !== last?.pointerId) return;
    const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
    const scroll = event.pointerType === "touch" && scrolls() && Math.abs(dy) > Math.abs(dx);
    // Hands are never quite still: less than four pixels is not a drag.
    if (!moved && (scroll || Math.hypot(dx, dy) < 4)) return;
    moved = true;
    move(dx, dy, event);
    last = event;
  });
  node.addEventListener("pointerup", (event) => {
    if (event.pointerId !== last?.pointerId) return;
    last = null;
    if (!moved) click(event);
  });
  node.addEventListener("pointercancel", () => (last = null));
}

// Calls `move(dx, dy, large)` with -1, 0 or 1 for the arrow keys.
function arrows(node, move) {
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  node.addEventListener("keydown", (event) => {
    const direction = directions[event.key];
    if (!direction || event.target !== node || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move(...direction, event.shiftKey);
  });
}

class PhotoView {
  constructor(photo, number, scale) {
    this.photo = photo;
    this.done = false; // whether the job is finished
    this.full = { width: 0, height: 0 }; // size of the results, at which all versions are drawn
    this.scale = scale;
    this.drawn = ""; // the versions at the last update, as JSON
    this.near = false; // whether the section has been near the viewport; until then it loads no pictures
    this.closeupsSeen = false; // whether the close-ups have been in the viewport; they need every picture in full
    this.touched = false; // once the user has chosen something, new results no longer change the selection
    this.zoom = null; // null: fit
    this.at = 0.5; // position of the divider, as a fraction of the frame
    this.pan = { x: 0.5, y: 0.5 }; // centre of the stage, as fractions of the picture
    this.place = { x: 0.5, y: 0.5 }; // centre of the close-ups
    this.stageSize = null;
    this.windowSize = null;
    this.gammas = new Map(); // series -> {node, index}
    this.crops = new Map(); // a version's id or a series -> node
    this.cards = new Map(); // a version's id -> node
    this.node = part("photo-template");
    this.node.id = `photo-${number}`;
    this.node.setAttribute("aria-labelledby", `photo-${number}-name`);
    const heading = this.find("h2");
    heading.id = `photo-${number}-name`;
    heading.textContent = photo.name;
    this.stage = this.find(".stage");
    this.frame = this.find(".frame");
    this.divider = this.find(".divider");
    this.listen();
  }

  find(selector) {
    return this.node.querySelector(selector);
  }

  listen() {
    for (const side of ["left", "right"]) {
      this.find(`select.${side}`).addEventListener("change", () => {
        this.touched = true;
        this.follow(this.version("right"));
        this.show();
      });
    }
    for (const button of this.node.querySelectorAll(".zooms button")) {
      button.addEventListener("click", () => this.enlarge(button));
    }
    this.find(".crop-zoom").addEventListener("change", () => this.lay());
    this.divider.addEventListener("input", () => {
      this.touched = true;
      this.at = Number(this.divider.value) / 100;
      this.lay();
    });
    let sliding = false;
    draggable(this.frame, {
      start: (event) => {
        sliding = this.zoom === null || event.target === this.find(".handle");
      },
      move: (dx, dy, event) => {
        this.touched = true;
        if (sliding) this.slide(event);
        else this.shift(dx, dy);
      },
      click: (event) => this.pick(event),
      scrolls: () => this.zoom === null,
    });
    // After a click, the arrow keys move what the mouse would have moved.
    this.frame.addEventListener("mousedown", (event) => {
      event.preventDefault();
      (sliding ? this.divider : this.frame).focus({ preventScroll: true });
    });
    arrows(this.frame, (dx, dy, large) => {
      const step = large ? 240 : 40;
      this.shift(-dx * step, -dy * step);
    });
    // Not loading=lazy: in Chromium it leaves pictures empty that content-visibility has hidden.
    const approached = (node, rootMargin, then) => {
      const approach = new IntersectionObserver(
        (entries) => {
          if (!entries.some((entry) => entry.isIntersecting)) return;
          approach.disconnect();
          then();
          if (this.photo.versions.length) this.fill();
        },
        { rootMargin }
      );
      approach.observe(node);
    };
    approached(this.node, "100% 0px", () => (this.near = true));
    approached(this.find(".closeups"), "0px", () => (this.closeupsSeen = true));
    new ResizeObserver(() => this.measure()).observe(this.stage);
    new ResizeObserver(() => this.measure()).observe(this.find(".crops"));
  }

  // Shows a new state. Existing nodes stay, so that focus, sliders and scroll positions survive.
  update(photo, done) {
    this.photo = photo;
    this.done = done;
    const some = photo.versions.length > 0;
    this.find(".problem").hidden = !photo.error;
    setText(this.find(".problem"), photo.error ?? "");
    this.find(".views").hidden = photo.versions.length < (photo.error ? 2 : 1);
    setText(this.find(".size"), this.sizeText(some));
    const content = JSON.stringify([photo.versions, done]);
    if (some && content !== this.drawn) this.fill();
    this.drawn = content;
  }

  sizeText(some) {
    const { width, height, error } = this.photo;
    if (!some && !error) return this.done ? "This photo was not processed." : "Waiting for its turn.";
    if (!width) return "";
    const enlarged = `, enlarged to ${width * this.scale} x ${height * this.scale}`;
    return `${width} x ${height} pixels${this.scale === 1 ? "" : enlarged}`;
  }

  fill() {
    const { width, height } = this.photo;
    this.full = { width: width * this.scale, height: height * this.scale };
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.fillSelects();
    this.fillGammas();
    this.fillCrops();
    this.fillCards();
    if (!this.touched) this.choose();
    this.show();
  }

  // Default selection: bicubic (or the original) on the left, the last model on the right.
  choose() {
    const { versions } = this.photo;
    const left = versions.find((version) => version.kind === "bicubic") ?? versions[0];
    this.find("select.left").value = left.id;
    this.find("select.right").value = versions.at(-1).id;
    for (const [name, gamma] of this.gammas) gamma.index = this.series(name).length - 1;
  }

  // Moves the gamma slider to a version that was selected elsewhere.
  follow(version) {
    if (version?.series) this.gammas.get(version.series).index = this.series(version.series).indexOf(version);
  }

  version(side) {
    const { value } = this.find(`select.${side}`);
    return this.photo.versions.find((version) => version.id === value);
  }

  // A network can appear twice: on its own and as an end of a series.
  label(version) {
    const twice = this.photo.versions.filter((other) => other.name === version.name).length > 1;
    return version.series && twice ? `${version.name} (slider)` : version.name;
  }

  draw(image, version, alt, file = version.view) {
    if (!this.near) return;
    image.alt = alt;
    const source = address(file);
    // Setting the same source again would reload it.
    if (image.getAttribute("src") !== source) image.src = source;
  }

  series(name) {
    return this.photo.versions.filter((version) => version.series === name);
  }

  // The version shown in the window of a series or of a single version.
  shown(key) {
    if (this.gammas.has(key)) return this.series(key)[this.gammas.get(key).index];
    return this.photo.versions.find((version) => version.id === key);
  }

  fillSelects() {
    for (const side of ["left", "right"]) {
      const select = this.find(`select.${side}`);
      const before = select.value;
      this.photo.versions.forEach((version, k) => {
        if (select.options[k]?.value !== version.id) select.add(new Option("", version.id), k);
        setText(select.options[k], this.label(version));
      });
      if (before) select.value = before;
    }
  }

  fillGammas() {
    for (const name of new Set(this.photo.versions.map((version) => version.series).filter(Boolean))) {
      const versions = this.series(name);
      if (!this.gammas.has(name)) this.addGamma(name);
      const { node } = this.gammas.get(name);
      node.querySelector("input").max = versions.length - 1;
      node.hidden = versions.length < 2;
      const ticks = node.querySelector(".ticks");
      if (ticks.children.length !== versions.length) {
        ticks.replaceChildren(...versions.map((version) => element("span", "", version.gamma)));
      }
    }
  }

  addGamma(name) {
    const node = part("gamma-template");
    const gamma = { node, index: 0 };
    this.gammas.set(name, gamma);
    const input = node.querySelector("input");
    const net = this.series(name)[0].name.replace(/[\s,]*gamma\b.*$/i, "");
    setText(node.querySelector(".series"), net);
    input.setAttribute("aria-label", `Gamma of ${net}`);
    input.addEventListener("input", () => {
      this.touched = true;
      gamma.index = Number(input.value);
      this.find("select.right").value = this.shown(name).id;
      this.show();
    });
    // Load the pictures before the first movement, so that the slider never waits.
    for (const event of ["pointerenter", "focus"]) {
      input.addEventListener(event, () => this.series(name).forEach((version) => this.draw(new Image(), version, "")));
    }
    this.find(".gammas").append(node);
  }

  fillCrops() {
    const row = this.find(".crops");
    const keys = [...new Set(this.photo.versions.map((version) => version.series ?? version.id))];
    keys.forEach((key, k) => {
      if (this.crops.has(key)) return;
      const node = part("crop-template");
      const box = node.querySelector(".window");
      draggable(box, { move: (dx, dy) => this.moveCrops(-dx, -dy) });
      arrows(box, (dx, dy, large) => {
        const step = large ? this.windowSize / 2 : 8;
        this.moveCrops(dx * step, dy * step);
      });
      this.crops.set(key, node);
      row.insertBefore(node, row.children[k] ?? null);
    });
    this.measure();
  }

  fillCards() {
    const list = this.find(".cards");
    const { versions } = this.photo;
    const scored = versions.filter((version) => version.score);
    const top = Math.max(...scored.flatMap((version) => version.score.p));
    const points = scored.map((version) => hundredths(version.score));
    const best = Math.max(...points);
    const differ = Math.min(...points) < best;
    const original = scored.find((version) => version.kind === "original");
    versions.forEach((version, k) => {
      if (!this.cards.has(version.id)) {
        const card = this.makeCard(version);
        this.cards.set(version.id, card);
        list.insertBefore(card, list.children[k] ?? null);
      }
      const card = this.cards.get(version.id);
      const { score } = version;
      const label = this.label(version);
      setText(card.querySelector(".name"), label);
      this.draw(card.querySelector("img"), version, "", version.thumb ?? version.view);
      card.querySelector(".open").setAttribute("aria-label", `Open full size: ${this.photo.name}, ${label}`);
      card.querySelector(".save").setAttribute("aria-label", `Download: ${this.photo.name}, ${label}`);
      setText(card.querySelector(".score"), scoreText(score, this.done));
      // Scores that look equal get the same mark.
      card.querySelector(".badge").hidden = !(differ && score && hundredths(score) === best);
      card.querySelector(".chart").replaceChildren(...(score ? [chart(score, top)] : []));
      if (!score || !original || version === original) return;
      const gain = hundredths(score) - hundredths(original.score);
      const sign = gain > 0 ? "+" : gain < 0 ? "\u2212" : "\u00b1";
      setText(card.querySelector(".difference"), `${sign}${(Math.abs(gain) / 100).toFixed(2)} compared with the original`);
    });
  }

  makeCard(version) {
    const card = part("card-template");
    setText(card.querySelector(".facts"), `${version.width} x ${version.height} pixels, ${bytes(version.bytes)}`);
    if (version.seconds !== null) setText(card.querySelector(".time"), `computed in ${duration(version.seconds)}`);
    for (const link of card.querySelectorAll("a")) link.href = address(version.file);
    card.querySelector(".save").href += "?download";
    return card;
  }

  // Shows the pictures, names and scores of the current selection.
  show() {
    const sides = { left: this.version("left"), right: this.version("right") };
    for (const [side, image] of [["left", this.find(".over img")], ["right", this.find(".under")]]) {
      const version = sides[side];
      this.draw(image, version, `${this.photo.name}, ${this.label(version)}`);
      setText(this.find(`.${side}-tag`), this.label(version));
    }
    this.divider.setAttribute("aria-label", `Left of the divider ${this.label(sides.left)}, right of it ${this.label(sides.right)}`);
    this.showHint(sides.right);
    for (const [name, { node, index }] of this.gammas) this.showGamma(node, index, this.shown(name));
    for (const [key, node] of this.crops) {
      const version = this.shown(key);
      if (this.closeupsSeen) this.draw(node.querySelector("img"), version, `Part of ${this.photo.name}, ${this.label(version)}`);
      node.querySelector(".window").setAttribute("aria-label", `Close-up of ${this.label(version)}: arrow keys move all close-ups`);
      setText(node.querySelector(".name"), this.label(version));
      setText(node.querySelector(".mean"), version.score ? version.score.mean.toFixed(2) : "");
    }
    this.lay();
  }

  showHint(version) {
    const reduced = version.view_width < version.width;
    const percent = Math.round((100 * version.view_width) / version.width);
    const size = reduced ? ` Shown at ${percent} % of its size; open it to see every pixel.` : "";
    const what = this.zoom === null ? "the divider" : "the picture (or the divider, by its handle)";
    setText(this.find(".hint"), `Drag ${what} or use the arrow keys. Click anywhere to move the close-ups there.${size}`);
  }

  showGamma(node, index, version) {
    const input = node.querySelector("input");
    input.value = index;
    setText(node.querySelector(".value"), `gamma ${version.gamma}`);
    setText(node.querySelector(".mean"), version.score ? `score ${scoreText(version.score)}` : scoreText(null, this.done));
    const spoken = version.score ? `, mean score ${version.score.mean.toFixed(2)}` : "";
    input.setAttribute("aria-valuetext", `gamma ${version.gamma}${spoken}`);
  }

  measure() {
    const box = this.find(".window");
    this.stageSize = { width: this.stage.clientWidth, height: this.stage.clientHeight };
    this.windowSize = box ? box.clientWidth : 0;
    this.lay();
  }

  // Screen pixels per pixel of the result.
  factor() {
    const { width, height } = this.stageSize;
    return this.zoom ?? Math.min(width / this.full.width, height / this.full.height);
  }

  // Lays out frame, pictures, divider, marker and close-ups.
  lay() {
    if (!this.stageSize?.width || !this.full.width) return;
    const zoom = this.factor();
    const picture = { width: this.full.width * zoom, height: this.full.height * zoom };
    const frame = {};
    const offset = {};
    for (const [axis, side] of [["x", "width"], ["y", "height"]]) {
      frame[side] = Math.min(picture[side], this.stageSize[side]);
      offset[axis] = clamp(frame[side] / 2 - this.pan[axis] * picture[side], frame[side] - picture[side], 0);
      this.pan[axis] = (frame[side] / 2 - offset[axis]) / picture[side];
    }
    const { style } = this.frame;
    style.width = `${frame.width}px`;
    style.height = `${frame.height}px`;
    style.setProperty("--at", `${this.at * 100}%`);
    for (const image of this.frame.querySelectorAll("img")) {
      image.style.width = `${picture.width}px`;
      image.style.height = `${picture.height}px`;
      image.style.transform = `translate(${offset.x}px, ${offset.y}px)`;
      image.style.imageRendering = this.zoom > 1 ? "pixelated" : "";
    }
    this.divider.value = this.at * 100;
    this.layCrops();
    this.layMarker(zoom, offset);
  }

  layMarker(zoom, offset) {
    const { style } = this.find(".marker");
    const crop = this.windowSize / this.cropZoom();
    for (const [axis, side, edge] of [["x", "width", "left"], ["y", "height", "top"]]) {
      const size = Math.min(crop, this.full[side]);
      style[side] = `${size * zoom}px`;
      style[edge] = `${(this.place[axis] * this.full[side] - size / 2) * zoom + offset[axis]}px`;
    }
  }

  cropZoom() {
    return Number(this.find(".crop-zoom").value);
  }

  layCrops() {
    if (!this.windowSize) return;
    const zoom = this.cropZoom();
    const offset = {};
    for (const [axis, side] of [["x", "width"], ["y", "height"]]) {
      const size = this.full[side] * zoom;
      const half = Math.min(0.5, this.windowSize / 2 / size);
      this.place[axis] = clamp(this.place[axis], half, 1 - half);
      offset[axis] = this.windowSize / 2 - this.place[axis] * size;
    }
    for (const node of this.crops.values()) {
      const { style } = node.querySelector("img");
      style.width = `${this.full.width * zoom}px`;
      style.height = `${this.full.height * zoom}px`;
      style.transform = `translate(${offset.x}px, ${offset.y}px)`;
      style.imageRendering = zoom > 1 ? "pixelated" : "";
    }
  }

  enlarge(button) {
    this.touched = true;
    const zoom = button.dataset.zoom === "fit" ? null : Number(button.dataset.zoom);
    // Enlarging from the whole picture goes to the place of the close-ups.
    if (this.zoom === null) this.pan = { ...this.place };
    this.zoom = zoom;
    for (const other of this.node.querySelectorAll(".zooms button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    this.frame.classList.toggle("enlarged", zoom !== null);
    if (zoom === null) this.frame.removeAttribute("tabindex");
    else this.frame.tabIndex = 0;
    this.show();
  }

  slide(event) {
    const box = this.frame.getBoundingClientRect();
    this.at = clamp((event.clientX - box.left) / box.width, 0, 1);
    this.lay();
  }

  // Moves the enlarged picture with the pointer.
  shift(dx, dy) {
    const zoom = this.factor();
    this.pan.x -= dx / (this.full.width * zoom);
    this.pan.y -= dy / (this.full.height * zoom);
    this.lay();
  }

  // A click in the picture moves the close-ups there.
  pick(event) {
    const box = this.find(".under").getBoundingClientRect();
    this.place.x = (event.clientX - box.left) / box.width;
    this.place.y = (event.clientY - box.top) / box.height;
    this.lay();
  }

  moveCrops(dx, dy) {
    this.touched = true;
    this.place.x += dx / (this.full.width * this.cropZoom());
    this.place.y += dy / (this.full.height * this.cropZoom());
    this.lay();
  }
}

let result = page;
const views = [];
const started = Date.now();
let announced = "";
let timer;
let polling = false;
let gone = false; // deleted or expired

function stateText({ state, error, waiting, photos }) {
  const rest = photos.some((photo) => photo.versions.length > 1) ? " Finished results are below." : "";
  const reason = error ? `: ${error.replace(/[.\s]+$/, "")}` : "";
  return {
    waiting: waiting ? `Waiting: ${plural(waiting, "job")} ahead of this one.` : "Waiting: this one is next.",
    working: "Working. Results appear as they are made.",
    done: "Done.",
    cancelled: `Cancelled.${rest}`,
    failed: `Failed${reason}.${rest}`,
    interrupted: `Interrupted${reason || ": the program was stopped"}.${rest}`,
  }[state];
}

const capital = (word) => word[0].toUpperCase() + word.slice(1);

function tabTitle({ state, progress, photos }) {
  const others = photos.length > 1 ? `, ${photos.length - 1} more` : "";
  const done = state === "working" ? `${Math.floor(progress * 100)} %` : capital(state);
  return `${done} - ${photos[0]?.name ?? result.label}${others}`;
}

// Announces each new state and each tenth to screen readers, not each poll.
function announce() {
  const tenth = Math.floor(result.progress * 10) * 10;
  const news = result.state === "working" ? `Working, ${tenth} % done.` : stateText(result);
  if (news !== announced) setText(byId("live"), news);
  announced = news;
}

function showProgress() {
  const { state, progress, now, seconds_left: left } = result;
  const percent = `${Math.floor(progress * 100)} %`;
  const over = finished(result);
  // Once shown, it stays, so that nothing moves when the job ends.
  if (!over) byId("progress").hidden = false;
  byId("cancel").classList.toggle("gone", over);
  byId("bar").setAttribute("aria-valuenow", Math.floor(progress * 100));
  byId("bar").setAttribute("aria-valuetext", state === "waiting" ? "waiting" : percent);
  byId("bar").firstElementChild.style.width = `${progress * 100}%`;
  setText(byId("percent"), state === "waiting" ? "" : percent);
  setText(byId("now"), state === "waiting" ? "In the queue" : over ? capital(state) : (now ?? ""));
  setText(byId("left"), over || left === null ? "" : `about ${duration(Math.max(1, Math.round(left)))} left`);
}

function showJob() {
  setText(byId("state"), stateText(result));
  byId("state").dataset.state = result.state;
  document.title = tabTitle(result);
  showProgress();
  announce();
}

function showDates() {
  const moment = (text) => {
    const time = element("time", "", new Date(text).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" }));
    time.dateTime = text;
    return time;
  };
  byId("dates").append("Created ", moment(result.created), ` on this ${result.device}, kept until `, moment(result.expires), ".");
}

function addView(photo) {
  const view = new PhotoView(photo, views.length + 1, result.scale);
  views.push(view);
  byId("photos").append(view.node);
  const link = element("a", "", photo.name);
  link.href = `#${view.node.id}`;
  byId("contents").append(link);
  byId("contents").hidden = views.length < 2;
}

function update() {
  showJob();
  result.photos.forEach((photo, k) => {
    if (k === views.length) addView(photo);
    views[k].update(photo, finished(result));
  });
}

// Often at first, because small photos take seconds; rarely if the page is hidden or the job is long.
function interval() {
  const minutes = (Date.now() - started) / 60000;
  return document.hidden || minutes > 5 ? 3000 : minutes > 1 ? 1500 : 700;
}

async function poll() {
  if (polling) return;
  clearTimeout(timer);
  polling = true;
  await ask();
  polling = false;
  if (!finished(result) && !gone) timer = setTimeout(poll, byId("trouble").hidden ? interval() : 3000);
}

async function ask() {
  try {
    result = await (await request(`${home}/result.json`)).json();
    trouble("");
    update();
  } catch (problem) {
    if (problem.status === 404) {
      gone = true;
      trouble("This result was deleted or has expired.");
      byId("progress").hidden = true;
      return;
    }
    trouble(problem.status === 0 ? `${GONE} Trying again ...` : problem.message);
  }
}

function trouble(text) {
  byId("trouble").hidden = !text;
  setText(byId("trouble"), text);
}

async function cancel() {
  byId("cancel").disabled = true;
  try {
    await request(`${home}/cancel`, { method: "POST" });
    await poll();
  } catch (problem) {
    trouble(problem.message);
  }
  byId("cancel").disabled = false;
}

async function remove() {
  try {
    await request(`${home}/delete`, { method: "POST" });
    clearTimeout(timer);
    location.assign("/");
  } catch (problem) {
    trouble(problem.message);
  }
}

// The Clipboard API exists only on https and localhost; elsewhere the old way works.
async function copyLink() {
  const link = location.origin + home;
  let copied = true;
  try {
    await navigator.clipboard.writeText(link);
  } catch {
    const field = element("textarea", "hidden", link);
    document.body.append(field);
    field.select();
    copied = document.execCommand("copy");
    field.remove();
    byId("copy").focus();
  }
  setText(byId("copy"), copied ? "Copied" : "Copying failed");
  setText(byId("live"), copied ? "Link copied." : "The link could not be copied.");
  setTimeout(() => setText(byId("copy"), "Copy link"), 2000);
}

byId("zip").href = `${home}/all.zip`;
byId("json").href = `${home}/result.json?download`;
byId("copy").addEventListener("click", copyLink);
byId("cancel").addEventListener("click", cancel);
byId("delete").addEventListener("click", () => {
  byId("sure").returnValue = ""; // otherwise Escape would repeat the last answer
  byId("sure").showModal();
});
byId("sure").addEventListener("close", () => {
  if (byId("sure").returnValue === "delete") remove();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !finished(result) && !gone) poll();
});

showDates();
update();
if (!finished(result)) timer = setTimeout(poll, interval());
