// Shared by both pages: elements, formatted numbers, requests.

export const byId = (id) => document.getElementById(id);

export const page = JSON.parse(byId("page").textContent);

export const GONE = "The server does not answer. Is the program still running?";

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Sets a text only if it differs, so that a selection in it survives polling.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

export function duration(seconds) {
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  if (count < 999500) return `${Math.round(count / 1000)} KB`;
  return `${Number((count / 1e6).toFixed(1))} MB`;
}

// A failed request: a message for the user and the HTTP status (0: no answer).
export class Problem extends Error {
  constructor(status, body) {
    super(Problem.sentence(status, body));
    this.status = status;
  }

  static sentence(status, body) {
    if (status === 0) return GONE;
    try {
      const { error } = JSON.parse(body);
      if (error) return String(error);
    } catch {
      // Not from this program: a proxy's page, for example.
    }
    return `The server answered with error ${status}.`;
  }
}

export async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Problem(0, "");
  }
  if (!response.ok) throw new Problem(response.status, await response.text());
  return response;
}
