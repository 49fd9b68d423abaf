/**
 * The model picker: what `GET /api/models` lists, what can answer now, why the rest cannot. Asks nothing of a model.
 */

import { make } from "./elements.js";
import { fetchWithKey } from "./keys.js";

const FIRST_RETRY_MS = 1_000;
const MAX_RETRY_MS = 15_000;

export class Models {
  #picker;
  #facts;
  #rows = new Map(); // id → row

  /** @param {HTMLSelectElement} picker @param {Element} facts where the chosen one is described */
  constructor(picker, facts) {
    this.#picker = picker;
    this.#facts = facts;
    picker.addEventListener("change", () => this.#describe());
  }

  get chosen() {
    return this.#picker.value || null;
  }

  /** Also one that is not listed: the address may name it. @param {string | null | undefined} name */
  choose(name) {
    if (!name) return;
    if (![...this.#picker.options].some(({ value }) => value === name)) this.#picker.prepend(new Option(name, name));
    this.#picker.value = name;
    this.#describe();
  }

  /** Until a model is there that can answer: the worker may still be starting. */
  async load() {
    for (let failures = 0; !(await this.#load().catch(() => false)); failures += 1) {
      await new Promise((resolve) => setTimeout(resolve, Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** failures)));
    }
  }

  async #load() {
    const response = await fetchWithKey("/api/models");
    if (!response.ok) return response.status === 401; // nobody has a key: asking on and on helps nobody
    const { models } = await response.json();
    const wanted = this.chosen;
    this.#rows = new Map(models.map((row) => [row.id, row]));
    const usable = models.filter((row) => row.available);
    this.#picker.replaceChildren(
      ...grouped("Available", usable), ...grouped("Not available", models.filter((row) => !row.available)));
    this.choose(wanted ?? (usable.find((row) => row.id === "neuroswitch") ?? usable[0])?.id);
    return usable.length > 0;
  }

  #describe() {
    const row = this.#rows.get(this.chosen);
    const parts = row && [
      row.id === "neuroswitch" ? "chooses a model for each question" : row.provider,
      row.resolved_model && row.resolved_model !== row.id ? row.resolved_model : null,
      row.speed ?? null, row.tools ? "tools" : null, row.available ? null : row.unavailable_because,
    ];
    this.#facts.textContent = parts ? parts.filter(Boolean).join(" · ") : "";
  }
}

function grouped(label, rows) {
  if (rows.length === 0) return [];
  return [make("optgroup", { label }, ...rows.map((row) => {
    const option = new Option(row.available ? row.id : `${row.id} (${row.unavailable_because})`, row.id);
    option.disabled = !row.available;
    return option;
  }))];
}
