// The page of `python run.py report`: tables that sort and filter, and the before/after slider.
"use strict";

const byId = (id) => document.getElementById(id);

function element(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

// Sorts by a column: numbers as numbers, what is missing last, equal rows in the order they had.
function sortBy(heading) {
  const table = heading.closest("table");
  const headings = [...heading.parentElement.children];
  const place = headings.indexOf(heading);
  const numeric = heading.classList.contains("number");
  const before = heading.getAttribute("aria-sort");
  // The first click on a number shows the highest, on a word the first of the alphabet.
  const ascending = before ? before === "descending" : !numeric;
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = (row) => row.children[place].dataset.value ?? "";
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
    return ascending ? order : -order;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("table.sortable th button");
  if (button) sortBy(button.parentElement);
});

for (const tools of document.querySelectorAll(".tools")) {
  const box = tools.nextElementSibling;
  const rows = [...box.querySelectorAll("tbody tr")];
  const search = tools.querySelector(".filter");
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    tools.querySelector(".count").textContent = `${shown} of ${rows.length}`;
  });
  tools.querySelector(".more")?.addEventListener("change", (event) => {
    box.classList.toggle("all-columns", event.target.checked);
  });
}

const album = JSON.parse(byId("album").textContent);

if (album.photos.length) {
  const selects = { photo: byId("photo"), left: byId("left"), right: byId("right") };
  const slider = byId("slider");
  let photo = album.photos[0];

  const choice = (name) => photo.choices[Number(selects[name].value)];

  function options(select, entries, chosen) {
    select.replaceChildren(
      ...entries.map(([value, label]) => {
        const option = element("option", label);
        option.value = value;
        return option;
      })
    );
    select.value = chosen;
  }

  // A whole number of screen pixels for each of the photo's, as far as there is room.
  function fit() {
    const under = byId("under");
    const reference = photo.size;
    if (!reference) return;
    const room = Math.min(slider.parentElement.clientWidth, 720);
    const zoom = Math.max(1, Math.floor(Math.min(room / reference.width, 560 / reference.height)));
    const width = Math.min(room, zoom * reference.width);
    slider.style.width = `${width}px`;
    slider.style.height = `${(width * reference.height) / reference.width}px`;
    const across = `${reference.width} x ${reference.height} pixels of HR`;
    byId("zoom").textContent = width < reference.width ? across : `${across}, ${zoom} times enlarged`;
    under.style.imageRendering = byId("over").style.imageRendering = width < reference.width ? "auto" : "";
  }

  function show() {
    for (const [side, image] of [["left", "over"], ["right", "under"]]) {
      const { label, picture } = choice(side);
      byId(image).src = album.pictures[picture];
      byId(image).alt = `${photo.id}, ${label}`;
      document.querySelector(`.${side}-tag`).textContent = label;
    }
    byId("divider").setAttribute("aria-label", `Left of the divider ${choice("left").label}, right of it ${choice("right").label}`);
    for (const row of byId("scores").tBodies[0].rows) {
      row.classList.toggle("shown", [selects.left.value, selects.right.value].includes(row.dataset.choice));
    }
  }

  function fillScores() {
    const used = album.measures.filter(([name]) => photo.choices.some((one) => name in one.values));
    const head = element("tr");
    head.append(element("th"), element("th"));
    head.lastChild.append(element("button", "image"));
    for (const [, label] of used) {
      const heading = element("th", undefined, "number");
      heading.append(element("button", label));
      head.append(heading);
    }
    const rows = photo.choices.map((one, k) => {
      const row = element("tr");
      row.dataset.choice = k;
      const name = element("td");
      name.dataset.value = one.label.toLowerCase();
      if (one.picture === null) name.textContent = one.label;
      else {
        const pick = element("button", one.label, "pick");
        pick.type = "button";
        pick.title = "show on the right";
        pick.addEventListener("click", () => {
          selects.right.value = k;
          show();
        });
        name.append(pick);
      }
      const crop = element("td");
      if (one.picture !== null) {
        const image = element("img");
        image.src = album.pictures[one.picture];
        image.alt = "";
        crop.append(image);
      }
      row.append(crop, name);
      for (const [key, , digits] of used) {
        const value = one.values[key];
        const cell = element("td", value === undefined ? "-" : value.toFixed(digits), "number");
        cell.dataset.value = value ?? "";
        row.append(cell);
      }
      return row;
    });
    byId("scores").tHead.replaceChildren(head);
    byId("scores").tBodies[0].replaceChildren(...rows);
    const texts = Object.entries(photo.raters)
      .filter(([, raters]) => raters.length)
      .map(([name, raters]) => `${name === "score" ? "score" : "judge"}: ${raters.join("; ")}`);
    byId("raters").textContent = texts.length ? `${texts.join(". ")}.` : "No run has scored this photo.";
  }

  function choosePhoto() {
    photo = album.photos[Number(selects.photo.value)];
    const entries = photo.choices.map((one, k) => [k, one.label, one.picture]).filter((entry) => entry[2] !== null);
    const runs = photo.choices.map((one, k) => [k, one]).filter(([, one]) => one.run && one.picture !== null);
    const best = runs.reduce((a, b) => ((b[1].psnr ?? -1) > (a[1].psnr ?? -1) ? b : a), runs[0] ?? entries[0])[0];
    options(selects.left, entries, photo.choices[1].picture === null ? entries[0][0] : 1);
    options(selects.right, entries, best);
    fillScores();
    show();
    const hr = new Image();
    hr.onload = () => {
      photo.size = { width: hr.naturalWidth, height: hr.naturalHeight };
      fit();
    };
    hr.src = album.pictures[photo.choices.at(-1).picture];
  }

  options(selects.photo, album.photos.map((one, k) => [k, `${one.id}, x${one.scale}`]), 0);
  selects.photo.addEventListener("change", choosePhoto);
  selects.left.addEventListener("change", show);
  selects.right.addEventListener("change", show);
  byId("divider").addEventListener("input", (event) => slider.style.setProperty("--at", `${event.target.value}%`));
  window.addEventListener("resize", fit);
  choosePhoto();
}
