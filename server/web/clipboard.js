/**
 * Text into the clipboard, and a word at the button that it is there.
 */

const SAID_MS = 1_500;

/** @param {string} text @param {HTMLElement} button */
export async function copy(text, button) {
  const isDone = await write(text);
  const name = button.getAttribute("aria-label");
  const before = name ?? button.textContent;
  if (button.classList.contains("copied")) return;
  const say = (words) => (name === null ? (button.textContent = words) : button.setAttribute("aria-label", words));
  say(isDone ? "Copied" : "Not allowed");
  button.classList.add("copied");
  setTimeout(() => {
    say(before);
    button.classList.remove("copied");
  }, SAID_MS);
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return writeTheOldWay(text);
  }
}

/** The clipboard's interface is there on secure origins only; a server in one's own network is often reached by HTTP. */
function writeTheOldWay(text) {
  const box = document.createElement("textarea");
  box.className = "unseen";
  box.value = text;
  document.body.append(box);
  box.select();
  const isDone = document.execCommand("copy");
  box.remove();
  return isDone;
}
