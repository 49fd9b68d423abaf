/**
 * What an answer has beside its text: thinking, tool calls, data. Takes event after event; opens and shows nothing.
 *
 * @typedef {{id: string, name: string, input: object, inputText?: string, result?: string, failed: boolean}} Tool
 *   `inputText`: the arguments as far as they are written; missing once `input` is whole
 */

export class Parts {
  /** What the model told of its thoughts, a blank line between one run and the next. */
  thinking = "";
  /** It thinks now. */
  isThinking = false;
  /** It has thought, whether or not it told what. */
  hasThought = false;
  /** `{name, value}` in the order in which they came. @type {{name: string, value: unknown}[]} */
  data = [];
  #tools = new Map();
  #thoughtMs = 0; // in runs that are over
  #runBegan = null; // by the server's clock; null outside of a run
  #latest = null; // time of the newest event
  #isNewRun = false; // nothing of it has been told yet

  /** @param {import("./answer.js").Data} data an event's object; each event once, in order */
  take(data) {
    this.#latest = Date.parse(data.timestamp) || this.#latest;
    if (data.status === "thinking" || data.thinking !== undefined) this.#think(data.thinking ?? "");
    // A run ends at text, at a tool call or at the end: protocol/README.md, section 2.
    else if (data.token || data.tool_call_id !== undefined || data.done) this.#endRun();
    if (data.tool_call_id !== undefined) this.#takeTool(data);
    if (data.data_name !== undefined) this.data.push({ name: data.data_name, value: data.data });
    if (data.done) this.#dropUnfinished();
  }

  /** Calls with their results, in the order of the calls; objects of their own. @returns {Tool[]} */
  get tools() {
    return [...this.#tools.values()].map((tool) => ({ ...tool }));
  }

  /** How long it has thought, in seconds of the server's clock. */
  get thoughtS() {
    return (this.#thoughtMs + this.#runMs) / 1000;
  }

  get #runMs() {
    return this.#runBegan === null ? 0 : Math.max(0, this.#latest - this.#runBegan);
  }

  #think(text) {
    if (!this.isThinking) {
      this.isThinking = this.hasThought = this.#isNewRun = true;
      this.#runBegan = this.#latest;
    }
    if (!text) return;
    this.thinking += (this.#isNewRun && this.thinking ? "\n\n" : "") + text;
    this.#isNewRun = false;
  }

  #endRun() {
    this.#thoughtMs += this.#runMs;
    this.#runBegan = null;
    this.isThinking = false;
  }

  #takeTool({ tool_call_id: id, tool_name: name, tool_input: input, ...data }) {
    if (data.tool_input_delta !== undefined) return this.#takeInput(id, data);
    const tool = this.#tools.get(id) ?? { id, failed: false };
    Object.assign(tool, { name, input: input ?? {} });
    delete tool.inputText;
    if (data.tool_result !== undefined) Object.assign(tool, { result: data.tool_result, failed: !!data.tool_error });
    this.#tools.set(id, tool);
  }

  /** A first piece begins the call anew: an attempt that failed may have used its id. */
  #takeInput(id, { tool_input_name: name, tool_input_delta: text }) {
    const known = name === undefined ? this.#tools.get(id) : undefined;
    const tool = known ?? { id, name: name ?? "", input: {}, inputText: "", failed: false };
    tool.inputText = (tool.inputText ?? "") + text;
    this.#tools.set(id, tool);
  }

  /** Arguments of an attempt that failed, or that were cut off: no call has come of them. */
  #dropUnfinished() {
    for (const [id, { inputText }] of this.#tools) if (inputText !== undefined) this.#tools.delete(id);
  }
}
