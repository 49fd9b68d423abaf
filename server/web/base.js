/**
 * Where the server is: beside this script, so that a proxy may put it behind a prefix (`/relay/`).
 */

/** Without a slash at the end. */
export const BASE = new URL("..", import.meta.url).href.replace(/\/$/, "");
