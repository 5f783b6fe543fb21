// Keep a tab's photos and choices in the browser, so that Back and Reload restore them.
// A new visit starts empty. If the browser cannot store them (private windows), nothing is restored.

const DATABASE = "photos";
const CHOICES = "choices";
const FRESH = performance.getEntriesByType("navigation")[0]?.type === "navigate";
const HOURS = 24; // after which photos of other tabs are deleted: those tabs may no longer exist

function tab() {
  let id = sessionStorage.getItem("tab");
  if (!id) {
    id = `${Date.now()}-${Math.random()}`;
    sessionStorage.setItem("tab", id);
  }
  return id;
}

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

async function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore("files", { autoIncrement: true });
  return settled(request);
}

async function store(mode) {
  const database = await open();
  const transaction = database.transaction("files", mode);
  for (const event of ["complete", "abort"]) transaction.addEventListener(event, () => database.close());
  return transaction.objectStore("files");
}

// Stores a photo; returns its key for `forget`, or null if it could not be stored.
export async function keep(file) {
  try {
    return await settled((await store("readwrite")).add({ tab: tab(), since: Date.now(), file }));
  } catch {
    return null;
  }
}

export async function forget(key) {
  try {
    if (key !== null) await settled((await store("readwrite")).delete(key));
  } catch {
    // It will be deleted after `HOURS`.
  }
}

// [key, file] of each photo of this tab; none on a new visit.
export async function kept() {
  const found = [];
  try {
    const files = await store("readwrite");
    const [keys, values] = await Promise.all([settled(files.getAllKeys()), settled(files.getAll())]);
    keys.forEach((key, k) => {
      const { tab: owner, since, file } = values[k];
      const mine = owner === tab();
      if (mine && !FRESH) found.push([key, file]);
      else if (mine || Date.now() - since > HOURS * 3600e3) files.delete(key);
    });
  } catch {
    return [];
  }
  return found;
}

// The values of all checked boxes, by name.
export function keepChoices(form) {
  const values = [...form.querySelectorAll("input:checked")].map((box) => [box.name, box.value]);
  try {
    sessionStorage.setItem(CHOICES, JSON.stringify(values));
  } catch {
    // Then there is nothing to restore.
  }
}

export function restoreChoices(form) {
  if (FRESH) return;
  let values;
  try {
    values = JSON.parse(sessionStorage.getItem(CHOICES)) ?? [];
  } catch {
    return;
  }
  const wanted = new Set(values.map((pair) => pair.join(" ")));
  const isWanted = (box) => wanted.has(`${box.name} ${box.value}`);
  const boxes = [...form.querySelectorAll("input[type=radio], input[type=checkbox]")];
  // The server no longer offers this task.
  if (!boxes.some((box) => box.name === "task" && isWanted(box))) return;
  for (const box of boxes) box.checked = isWanted(box);
}
