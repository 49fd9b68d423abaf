/**
 * What a stream can fail with, as one class; knows the table of the wire, not where in it an error happened.
 *
 * Source: protocol/README.md, section 6. A code that is not here is judged by its HTTP status (section 9).
 *
 * @typedef {{error?: string, error_code?: string, retryable?: boolean, retry_after?: number, field?: string,
 *   last_event_id?: number, request_id?: string}} Problem What the server says of an error; any part may be missing.
 */

/** Code → HTTP status and whether trying again can help. */
export const ERRORS = Object.freeze({
  INVALID_REQUEST: [400, false],
  INVALID_CURSOR: [400, false],
  UNAUTHORIZED: [401, false],
  FORBIDDEN: [403, false],
  NOT_FOUND: [404, false],
  METHOD_NOT_ALLOWED: [405, false],
  CURSOR_AHEAD: [409, false],
  STREAM_EXPIRED: [410, false],
  PAYLOAD_TOO_LARGE: [413, false],
  UNSUPPORTED_MEDIA_TYPE: [415, false],
  VALIDATION_ERROR: [422, false],
  UPGRADE_REQUIRED: [426, false],
  RATE_LIMIT: [429, true],
  INTERNAL_ERROR: [500, true],
  PROVIDER_ERROR: [502, true],
  WORKER_LOST: [502, true],
  OVERLOADED: [503, true],
  SERVICE_UNAVAILABLE: [503, true],
  TIMEOUT: [504, true],
  // The client's own: no server said them.
  UNREACHABLE: [0, true],
});

/**
 * Closes of a socket that are the server's last word, and what each of them says (section 5). Every other may be a
 * proxy's, and is a drop.
 */
export const FINAL_CLOSES = Object.freeze({
  1009: "PAYLOAD_TOO_LARGE",
  4401: "UNAUTHORIZED",
  4403: "FORBIDDEN",
});

/** What Node.js says of a certificate that no second try makes trusted. */
const UNTRUSTED = /^(CERT_|ERR_TLS_CERT|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_(GET_ISSUER|VERIFY)|HOSTNAME_MISMATCH)/;

/** Of a proxy's `Retry-After`. */
const MAX_ADVICE_MS = 60_000;

export class TokenrelayError extends Error {
  /**
   * @param {string} code a row of the table, or one that is newer than this client
   * @param {string} message a sentence for people
   * @param {{status?: number, retryable?: boolean, retryAfter?: number | null, details?: Problem, cause?: unknown}}
   *   [facts] `retryAfter` in seconds
   */
  constructor(code, message, { status, retryable, retryAfter = null, details = {}, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    const [knownStatus, knownRetryable] = ERRORS[code] ?? [status ?? 500, (status ?? 500) >= 500 || status === 429];
    this.name = "TokenrelayError";
    this.code = code;
    /** HTTP status; 0 where no server answered. */
    this.status = status || knownStatus;
    this.retryable = retryable ?? knownRetryable;
    /** Seconds to wait before another try; null where nothing was said. */
    this.retryAfter = retryAfter;
    /** The object that the server sent: `field`, `issue`, `last_event_id`, `request_id` and the like. */
    this.details = details;
  }
}

/**
 * An error object of the wire, or of nobody: a proxy's own page has no `error_code`.
 * @param {Problem} problem
 * @param {number} [status] of the HTTP answer; none where it came in an event or on a socket
 * @param {string | null} [retryAfterHeader]
 */
export function errorOf(problem, status, retryAfterHeader = null) {
  const code = problem.error_code ?? codeOf(status);
  return new TokenrelayError(code, problem.error ?? `the server answered ${status}`, {
    status,
    retryable: problem.retryable,
    retryAfter: secondsOf(problem.retry_after ?? retryAfterHeader),
    details: problem,
  });
}

/** An answer that is not the server's: a proxy's error page, say. A connection that brings one was dropped. */
export class NotOurs extends Error {
  /** @param {string} message @param {number} [afterMs] the wait that it asks for */
  constructor(message, afterMs) {
    super(message);
    this.afterMs = afterMs;
  }
}

/**
 * The error of an answer that is none of events. Only one with an `error_code` is the server's word.
 * @param {Response} response
 * @returns {Promise<TokenrelayError | NotOurs>}
 */
export async function refusalOf(response) {
  const problem = await response.json().catch(() => null); // a proxy's own page is not JSON
  const advice = response.headers.get("retry-after");
  if (typeof problem?.error_code === "string") return errorOf(problem, response.status, advice);
  const seconds = secondsOf(advice);
  const afterMs = seconds === null ? undefined : Math.min(seconds * 1000, MAX_ADVICE_MS);
  return new NotOurs(`the address answered ${response.status}, and not as Tokenrelay does`, afterMs);
}

/**
 * How a connection ended that failed with this.
 * @param {any} error
 * @param {boolean} wasOpen
 * @returns {import("./fetch.js").Outcome}
 */
export function outcomeOf(error, wasOpen) {
  if (error?.name === "TokenrelayError") return { kind: "refused", error };
  const code = error?.cause?.code ?? error?.code;
  if (typeof code === "string" && UNTRUSTED.test(code)) {
    const message = `the server's certificate is not trusted: ${wordsOf(error)}`;
    return { kind: "refused", error: new TokenrelayError("UNREACHABLE", message, { retryable: false, cause: error }) };
  }
  return { kind: "dropped", wasOpen, afterMs: error?.afterMs, cause: error, why: wordsOf(error) };
}

/** What went wrong, for people: Node.js says it in the cause. @param {any} error */
export function wordsOf(error) {
  if (error?.name === "AbortError") return "no answer in time";
  const texts = [error?.message, error?.cause?.message || error?.cause?.code].filter(Boolean);
  return texts.join(": ") || String(error);
}

function codeOf(status) {
  const found = Object.entries(ERRORS).find(([, row]) => row[0] === status);
  return found ? found[0] : "INTERNAL_ERROR";
}

/** `Retry-After` may also be a date, which only a proxy sends: then the wait is ours to choose. */
function secondsOf(value) {
  if (value === null || value === undefined || value === "") return null;
  const seconds = Number(value);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds : null;
}

/**
 * Whether the same request may succeed in a moment.
 * @param {TokenrelayError} error
 * @param {boolean} isCursorOurs the cursor is an id that the server itself gave
 */
export function mayPass(error, isCursorOurs) {
  // "Redis has lost a tail in a failover and the stream's worker is writing it again: try again a few times."
  if (error.code === "CURSOR_AHEAD") return isCursorOurs;
  // A model that no worker offers (`field`) is not there a second later either.
  return error.retryable && error.details.field === undefined;
}
