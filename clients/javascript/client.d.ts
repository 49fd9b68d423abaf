/** An event of a stream: protocol/README.md, section 2. Fields may be added within a version. */
export interface EventData {
  /** The text; empty where there is none. */
  readonly token: string;
  /** True for the one event that ends a stream. */
  readonly done: boolean;
  readonly status?: "queued" | "started" | "thinking";
  readonly stream_id?: string;
  readonly model?: string;
  /** ISO 8601, UTC. */
  readonly timestamp?: string;
  readonly routing?: Record<string, unknown>;
  readonly tool_name?: string;
  readonly tool_input?: Record<string, unknown>;
  readonly tool_call_id?: string;
  readonly tool_result?: string;
  readonly tool_error?: boolean;
  /** The call is of a function of the caller's own, the k-th in this answer. */
  readonly own?: number;
  /** A piece of what the model thinks; only where `show` has `thinking`. */
  readonly thinking?: string;
  /** A piece of a call's arguments as they are written; only where `show` has `tool_input`. */
  readonly tool_input_delta?: string;
  /** The tool's name, in the first piece of its arguments. */
  readonly tool_input_name?: string;
  readonly data_name?: string;
  /** Any JSON, beside `data_name`. */
  readonly data?: unknown;
  readonly error?: string;
  readonly error_code?: string;
  readonly retryable?: boolean;
  /** Seconds. */
  readonly retry_after?: number;
  readonly finish_reason?: FinishReason;
  readonly total_tokens?: number;
  readonly input_tokens?: number;
  readonly output_tokens?: number;
  /** Seconds from the request to the end. */
  readonly response_time?: number;
  readonly resolved_model?: string;
  readonly provider?: string;
  readonly usage?: Usage;
  /** US dollars; missing where the catalogue has no prices. */
  readonly cost_usd?: number;
  readonly [field: string]: unknown;
}

/** Tokens; unknown ones are missing. Cached and cache-written ones are among the input, reasoning among the output. */
export interface Usage {
  readonly input_tokens?: number;
  readonly output_tokens?: number;
  readonly total_tokens?: number;
  readonly cached_input_tokens?: number;
  readonly cache_write_tokens?: number;
  readonly reasoning_tokens?: number;
}

export type FinishReason = "stop" | "length" | "tool_calls" | "content_filter" | "cancelled" | (string & {});

export interface Completion extends EventData {
  readonly done: true;
  readonly finish_reason: FinishReason;
  readonly total_tokens: number;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly response_time: number;
}

export interface StreamEvent {
  /** Null for what is not in the stream's log. */
  readonly id: number | null;
  readonly data: EventData;
}

/** One turn. Only an assistant's has `tool_calls`; each is followed by a turn `tool` with its id and what it gave. */
export interface Message {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  content?: string | ContentPart[] | null;
  tool_calls?: { id: string; type: "function"; function: { name: string; arguments: string } }[];
  tool_call_id?: string;
}

export type ContentPart =
  | { type: "text"; text: string }
  | { type: "image_url"; image_url: { url: string } }
  | { type: "file"; file: { filename?: string; file_data?: string; file_url?: string } }
  | { type: "input_audio"; input_audio: { data: string; format: string } };

export type Effort = "none" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max";

export type ResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | { type: "json_schema"; json_schema: { name: string; schema?: Record<string, unknown>; strict?: boolean } };

/** The body of `POST /api/chat`; exactly one of `message`, `prompt`, `messages`. */
export interface ChatBody {
  message?: string;
  prompt?: string;
  messages?: Message[];
  model?: string;
  provider?: string;
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  stop?: string | string[];
  seed?: number;
  system?: string;
  enable_tools?: boolean;
  tools?: unknown[];
  tool_choice?: "auto" | "none" | "required" | { type: "function"; function: { name: string } };
  parallel_tool_calls?: boolean;
  response_format?: ResponseFormat;
  reasoning?: { effort?: Effort };
  reasoning_effort?: Effort;
  /** Events beside the usual ones. */
  show?: ("thinking" | "tool_input")[];
  metadata?: Record<string, unknown>;
  preferences?: Record<string, unknown>;
  on_disconnect?: "continue" | "cancel" | `grace:${number}`;
  [field: string]: unknown;
}

export type TransportName = "sse" | "websocket";
export type State = "connecting" | "queued" | "streaming" | "reconnecting" | "done" | "failed" | "detached";

/** A function is asked anew for every connection. */
export type Secret = string | (() => string | Promise<string>);

export interface ClientOptions {
  /** The server's address. Default: the one the page came from; in Node.js `TOKENRELAY_URL`. */
  url?: string;
  key?: Secret;
  /** In place of `key`, for pages that must not know one: opens the WebSocket, and reads. */
  ticket?: Secret;
  /** Default `auto`: a WebSocket where there is one, SSE when that breaks, and the reverse. */
  transport?: TransportName | "auto";
  /** How long, in waits added up, a server is looked for that cannot be reached. Default five minutes. */
  patienceMs?: number;
  /** The same for a server that has never answered. Default 8 s; `patienceMs` where that is given, or for the page's own. */
  firstPatienceMs?: number;
  fetch?: typeof globalThis.fetch;
  /** For Node.js before 22, where there is no global one; `null`: none. */
  WebSocket?: unknown;
}

export interface ChatOptions {
  transport?: TransportName | "auto";
  /** Default: a new one for each call. The same key and body attach to the same generation. */
  idempotencyKey?: string;
}

export interface ResumeOptions {
  transport?: TransportName | "auto";
}

/** One generation being read, over as many connections as it takes. */
export interface Stream extends AsyncIterable<StreamEvent> {
  /** The model's text so far. */
  readonly text: string;
  /** Every event so far. Grows. */
  readonly events: readonly StreamEvent[];
  readonly state: State;
  readonly isOver: boolean;
  /** Null until the server has said it. */
  readonly streamId: string | null;
  /** Where to resume; 0 before any event. */
  readonly lastEventId: number;
  readonly idempotencyKey: string;
  /** The one in use, or tried next. */
  readonly transport: TransportName;
  readonly error: TokenrelayError | null;
  /** Connections that came to nothing, in a row; 0 while all is well. */
  readonly attempts: number;
  /** When the next one is tried, as `Date.now()`; null where none is waited for. */
  readonly retryAt: number | null;
  /** The completion event; null where the stream is not read to its end. Rejects with TokenrelayError. */
  readonly done: Promise<Completion | null>;
  /** Stops the generation for good, for all who read it. Resolves once the server knows; holds when it is detached too. */
  cancel(): Promise<void>;
  /** Does not wait any longer for the next try. */
  retryNow(): void;
  /** Stops reading; the generation goes on and can be resumed. */
  detach(): void;
  /** Goes on over another transport, from the same cursor. */
  use(transport: TransportName): void;
  /** Calls back after every change of text, events or state. Gives what ends it. */
  subscribe(listener: () => void): () => void;
  /** Calls back with each data event, those that are there already first. Gives what ends it. */
  on(kind: "data", listener: (value: unknown, name: string) => void): () => void;
}

export interface Client {
  chat(body: string | ChatBody, options?: ChatOptions): Stream;
  resume(streamId: string, after?: number | string, options?: ResumeOptions): Stream;
  /** Lets go of every stream and every socket; no generation is stopped. */
  close(): void;
}

export declare class TokenrelayError extends Error {
  constructor(code: string, message: string, facts?: {
    status?: number; retryable?: boolean; retryAfter?: number | null; details?: Record<string, unknown>; cause?: unknown;
  });
  /** A row of the table of errors, or `UNREACHABLE`. */
  readonly code: string;
  /** HTTP status; 0 where no server answered. */
  readonly status: number;
  readonly retryable: boolean;
  /** Seconds; null where nothing was said. */
  readonly retryAfter: number | null;
  /** What the server sent: `field`, `issue`, `last_event_id`, `request_id` and the like. */
  readonly details: Readonly<Record<string, unknown>>;
}

export declare function createClient(options?: ClientOptions): Client;
export declare function chat(body: string | ChatBody, options?: ClientOptions & ChatOptions): Stream;
export declare function resume(
  streamId: string, after?: number | string, options?: ClientOptions & ResumeOptions,
): Stream;
