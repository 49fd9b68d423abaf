/* The document as a page. Everything shown comes from /openapi.json and is set as text, never as markup. */

const VERBS = ["get", "post", "put", "patch", "delete"];
const main = document.querySelector("main");
const nav = document.querySelector("nav");
let api = {};

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** `code` and line breaks: all the markup our descriptions use, tables apart. */
function prose(text, attributes = {}) {
  const parts = (text ?? "").split("`").map((part, index) => index % 2 ? make("code", {}, part) : part);
  return make("p", attributes, ...parts);
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

const resolve = (node) => node?.$ref ? node.$ref.slice(2).split("/").reduce((at, key) => at[key], api) : node;
const nameOf = (ref) => ref.split("/").at(-1);
const code = (value) => make("code", {}, value);
const pretty = (value) => make("pre", { tabindex: 0 }, typeof value === "string" ? value : JSON.stringify(value, null, 2));

// -- schemas ---------------------------------------------------------------------------------------------------------

/** A schema in a few words, with links where it names another. */
function typeOf(schema) {
  const whole = make("span");
  for (const part of words(schema)) whole.append(part);
  return whole;
}

function words(schema) {
  if (schema.$ref) return [make("a", { href: `#schema-${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
  if ("const" in schema) return [code(JSON.stringify(schema.const))];
  if (schema.enum) return between(schema.enum.map((value) => [code(JSON.stringify(value))]), " | ");
  const choices = schema.anyOf ?? (schema.properties ? null : schema.oneOf);
  if (choices) return between(choices.map(words), " | ");
  if (schema.type === "array") return ["array of ", ...(schema.items ? words(schema.items) : ["anything"])];
  return [schema.type ?? "anything", bounds(schema)];
}

const between = (lists, glue) => lists.flatMap((list, index) => index ? [glue, ...list] : list);

function bounds(schema) {
  const safe = (value) => Math.abs(value) > Number.MAX_SAFE_INTEGER ? undefined : value;  // not exact in JavaScript
  const range = (low, high, unit) => low === undefined && high === undefined ? null
    : `${low ?? ""}${low === undefined ? "up to " : high === undefined ? " or more" : " to "}${high ?? ""}${unit}`;
  const said = [range(safe(schema.minimum), safe(schema.maximum), ""), range(schema.minLength, schema.maxLength, " characters"),
    schema.pattern ? `like ${schema.pattern}` : null, schema.format ?? null].filter(Boolean);
  return said.length ? ` (${said.join(", ")})` : "";
}

function fields(schema) {
  if (!schema.properties) return null;
  const rows = Object.entries(schema.properties).map(([name, field]) => {
    const needed = schema.required?.includes(name) ? " ·\u00a0required" : "";
    return [make("span", {}, code(name), make("span", { class: "soft" }, needed)), typeOf(field),
      prose(resolve(field).description ?? "")];
  });
  return rows.length ? table(["field", "type", ""], rows) : null;
}

function schemaCard(name, schema) {
  const alternatives = (schema.oneOf ?? []).filter((each) => each.properties?.type).map(fields);
  return make("section", { class: "card", id: `schema-${name}` }, make("h3", {}, name), prose(schema.description),
    fields(schema), ...alternatives, schema.anyOf ? make("p", { class: "soft" }, "One of ", typeOf(schema)) : null);
}

// -- operations ------------------------------------------------------------------------------------------------------

function examplesOf(media) {
  const named = Object.entries(media.examples ?? {}).map(([name, example]) => [example.summary ?? name, example.value]);
  return media.example === undefined ? named : [["Example", media.example], ...named];
}

function content(part) {
  return Object.entries(part.content ?? {}).flatMap(([type, media]) => [
    make("p", {}, code(type), " ", typeOf(media["x-event-schema"] ?? media.schema)),
    ...examplesOf(media).map(([title, value]) => make("details", {}, make("summary", {}, title), pretty(value))),
  ]);
}

function parameters(list) {
  if (!list.length) return [];
  const rows = list.map((each) => [code(each.name), make("span", {}, `${each.in}${each.required ? " · required" : ""}`),
    prose(each.description)]);
  return [make("h4", {}, "Parameters"), table(["name", "in", ""], rows)];
}

function responses(operation) {
  const [fine, errors] = [[], []];
  for (const [status, node] of Object.entries(operation.responses)) {
    const response = resolve(node);
    if (Number(status) >= 400) errors.push([code(status), prose(response.description)]);
    else fine.push(prose(`\`${status}\` ${response.description}`), ...content(response));
  }
  const refusals = make("details", {}, make("summary", {}, `Errors (${errors.length})`), table(["status", ""], errors));
  return [make("h4", {}, "Answers"), ...fine, refusals];
}

const SECURITY = (operation) => (operation.security ?? api.security).length ? "" : "No key needed.";

function operationCard(path, verb, operation, shared) {
  const body = operation.requestBody ? [make("h4", {}, "Body"), ...content(operation.requestBody)] : [];
  const curl = curlOf(path, verb, operation);
  return make("section", { class: "card", id: operation.operationId },
    make("div", { class: "path" }, make("span", { class: `verb ${verb.toUpperCase()}` }, verb.toUpperCase()),
      make("code", {}, path), make("h3", {}, operation.summary)),
    operation.description ? prose(operation.description) : null,
    SECURITY(operation) ? prose(SECURITY(operation), { class: "soft" }) : null,
    ...parameters([...shared, ...(operation.parameters ?? [])]), ...body, ...responses(operation),
    curl ? make("details", {}, make("summary", {}, "curl"), pretty(curl)) : null);
}

function curlOf(path, verb, operation) {
  if (path === "/api/ws") return null;
  const url = `'${location.origin}${path.replace("{stream_id}", "STREAM_ID")}'`;
  const key = SECURITY(operation) ? "" : ` \\\n  -H 'Authorization: Bearer KEY'`;
  const media = operation.requestBody?.content["application/json"];
  const value = media && examplesOf(media)[0][1];
  const body = value ? ` \\\n  -d '${JSON.stringify(value)}'` : "";
  return `curl -N ${verb === "get" ? "" : `-X ${verb.toUpperCase()} `}${url}${key}${body}`;
}

// -- the page --------------------------------------------------------------------------------------------------------

function errorTable() {
  const rows = Object.entries(api.components.responses).flatMap(([status, response]) =>
    Object.entries(response.content["application/json"].examples).map(([name, example]) =>
      [code(status), code(name), prose(example.summary)]));
  return make("section", { class: "card", id: "errors" }, table(["status", "error_code", "meaning"], rows));
}

function keys() {
  const rows = Object.entries(api.components.securitySchemes).map(([name, scheme]) => [code(name), prose(scheme.description)]);
  return make("section", { class: "card", id: "keys" }, table(["scheme", ""], rows),
    prose("A server on loopback without keys needs none.", { class: "soft" }));
}

const link = (id, ...children) => make("a", { href: `#${id}` }, ...children);

function show() {
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    VERBS.filter((verb) => item[verb]).map((verb) => [path, verb, item[verb], item.parameters ?? []]));
  main.replaceChildren(make("h1", {}, api.info.title), prose(api.info.summary),
    ...api.info.description.split("\n\n## ")[0].split("\n\n").map((part) => prose(part)),
    make("p", { class: "soft" }, "Version ", api.info.version, " · OpenAPI ", api.openapi, " · ",
      make("a", { href: "openapi.json" }, "openapi.json"), " · ", make("a", { href: "./" }, "chat page")));
  for (const tag of api.tags) {
    const own = operations.filter(([, , operation]) => operation.tags.includes(tag.name));
    nav.append(make("h2", {}, tag.name), ...own.map(([path, verb, operation]) =>
      link(operation.operationId, make("span", { class: `verb ${verb.toUpperCase()}` }, verb.toUpperCase()), path)));
    main.append(make("h2", {}, tag.name), prose(tag.description), ...own.map((each) => operationCard(...each)));
  }
  main.append(make("h2", {}, "keys"), keys(), make("h2", {}, "errors"), errorTable(), make("h2", {}, "schemas"));
  nav.append(make("h2", {}, "more"), link("keys", "keys"), link("errors", "errors"), make("h2", {}, "schemas"));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    nav.append(link(`schema-${name}`, name));
    main.append(schemaCard(name, schema));
  }
  main.setAttribute("aria-busy", "false");
  document.getElementById(location.hash.slice(1))?.scrollIntoView();  // it was not there when the page was opened
}

fetch("openapi.json").then((response) => response.json()).then((value) => { api = value; show(); }).catch((error) => {
  main.replaceChildren(make("p", {}, `The document cannot be read: ${error.message}. `, make("a", { href: "" }, "Try again")));
});
