// The HTTP API.  Who one is stays in this object, and ends with the page.

const PATIENCE = 8000;

/** What the API says when it does not do what it was asked for. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Nobody answered. */
export class Unreachable extends Error {}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

export class Api {
  #authorization = null;

  /** *root* is the URL under which the server has everything. */
  constructor(root) {
    this.root = root;
  }

  logIn(user, password) {
    this.#authorization = `Basic ${base64(`${user}:${password}`)}`;
  }

  logInWithToken(token) {
    this.#authorization = `Bearer ${token}`;
  }

  get(path, options = {}) {
    return this.#call("GET", path, undefined, options);
  }

  post(path, body = {}) {
    return this.#call("POST", path, body, { patience: 4 * PATIENCE });
  }

  delete(path) {
    return this.#call("DELETE", path, undefined, { patience: 4 * PATIENCE });
  }

  async #call(method, path, body, { patience = PATIENCE } = {}) {
    // The content type and "omit": another site's page cannot send such a call
    // for us, and a 401 is answered by our own dialog instead of the browser's.
    const headers = { Accept: "application/json" };
    if (method !== "GET") headers["Content-Type"] = "application/json";
    if (this.#authorization !== null) headers.Authorization = this.#authorization;
    let response, text;
    try {
      response = await fetch(new URL(path, this.root), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
        signal: AbortSignal.timeout(patience),
      });
      text = await response.text();
    } catch (error) {
      throw new Unreachable(
        error.name === "TimeoutError" ? "no answer in time" : "no connection",
      );
    }
    return read(response, text);
  }
}

function read(response, text) {
  let answer;
  try {
    answer = text === "" ? {} : JSON.parse(text);
  } catch {
    answer = null;
  }
  if (response.ok && answer !== null) return answer;
  const said = answer?.error;
  throw new ApiError(
    response.status,
    said?.code ?? "unknown",
    said?.message ?? `the server answered ${response.status} ${response.statusText}`,
  );
}
