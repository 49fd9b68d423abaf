/**
 * Elements in one call. Text is set as text, whatever it is: nothing on this page is ever parsed as HTML.
 */

/**
 * @param {string} name
 * @param {Record<string, string | boolean | null | undefined>} [attributes] true: there without a value; null,
 *   undefined, false: not there
 * @param {...(Node | string | null | undefined)} children
 */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A button with a name that is seen, or that is only read out where it shows a sign. */
export function button(className, name, onclick, { isSign = false } = {}) {
  const made = make("button", { type: "button", class: className, "aria-label": isSign ? name : null });
  if (isSign) made.title = name;
  else made.textContent = name;
  made.onclick = onclick;
  return made;
}

/** The element of the page with this id; without one the page and its script do not belong together. */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}
