/**
 * The stream under way, kept where a reload finds it. Knows storage, and no stream.
 */

export class Memory {
  #key;
  #storage;

  /**
   * @param {string} [key] none: nothing is kept
   * @param {Storage} [storage] default: sessionStorage, which a tab has for itself
   */
  constructor(key, storage) {
    this.#key = key;
    this.#storage = storage;
  }

  /** @returns {{streamId?: string, body?: object, idempotencyKey?: string} | null} null where nothing usable is */
  load() {
    const value = this.#try((storage) => JSON.parse(storage.getItem(this.#key)));
    return value?.streamId || value?.body ? value : null;
  }

  /** @param {object | null} value null: nothing is under way */
  save(value) {
    if (value === null) this.#try((storage) => storage.removeItem(this.#key));
    else this.#try((storage) => storage.setItem(this.#key, JSON.stringify(value)));
  }

  /** Storage may be forbidden, full, or hold anything: an answer does not depend on it. */
  #try(use) {
    if (this.#key === undefined) return undefined;
    try {
      return use(this.#storage ?? globalThis.sessionStorage);
    } catch {
      return undefined;
    }
  }
}
