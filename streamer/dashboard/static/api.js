/** The JSON API. Every error has a text and says what to do next. */

export class ApiError extends Error {
  constructor(status, error, next) {
    super(next ? `${error} – ${next}` : error);
    this.status = status;
  }
}

export const session = { me: null };

/** GET; `parameters` without a value are left out. */
export function get(path, parameters = {}) {
  return answer(fetch(address(path, parameters), { headers: { Accept: "application/json" } }));
}

export function address(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return `/api/v1${path}${query ? `?${query}` : ""}`;
}

export const post = (path, body) => change("POST", address(path), body ?? {});

export const put = (path, body) => change("PUT", address(path), body);

export const remove = (path, parameters) => change("DELETE", address(path, parameters));

/** A token that is old, because the server was started again, is fetched anew once. */
async function change(method, path, body) {
  try {
    return await send(method, path, body);
  } catch (error) {
    if (error.status !== 403 || path === address("/login")) throw error;
    const before = session.me?.csrf;
    await whoAmI();
    if (session.me.csrf === before) throw error;
    return send(method, path, body);
  }
}

export async function whoAmI() {
  session.me = await get("/me");
  return session.me;
}

export const may = (role) =>
  ["viewer", "operator", "admin"].indexOf(session.me?.role) >= ["viewer", "operator", "admin"].indexOf(role);

function send(method, path, body) {
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": session.me?.csrf ?? "" };
  return answer(fetch(path, { method, headers, body: body && JSON.stringify(body) }));
}

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch {
    throw new ApiError(0, "The server does not answer", "check that oddsight-stream dashboard runs");
  }
  if (response.status === 204) return null;
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  if (response.status === 401) document.dispatchEvent(new CustomEvent("logged-out"));
  throw new ApiError(response.status, content.error ?? `HTTP ${response.status}`, content.next);
}
