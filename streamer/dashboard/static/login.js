/** Logging in: with name and password, or at a provider of OpenID Connect. */

import { get, post } from "./api.js";
import { h, setText } from "./dom.js";

const RETRY_MS = 2000;

export class LoginPage {
  title = "Log in";
  #timer = null;

  constructor(onDone) {
    this.onDone = onDone;
    this.problem = h("p", { class: "form-problem", role: "alert" });
    this.ways = h("div", { class: "login-ways" });
    this.element = h("section", { class: "login" }, h("h1", {}, "Oddsight"), this.ways, this.problem);
  }

  async open() {
    try {
      const { passwords, oidc } = await get("/login");
      setText(this.problem, "");
      this.ways.replaceChildren(...(passwords ? [this.#passwordForm()] : []), ...(oidc ? [signIn(oidc, !passwords)] : []));
      this.ways.querySelector("input, a")?.focus();
    } catch (error) {
      setText(this.problem, error.message);
      this.#timer = setTimeout(() => this.open(), RETRY_MS);
    }
  }

  close() {
    clearTimeout(this.#timer);
  }

  #passwordForm() {
    const name = h("input", {
      id: "name",
      name: "name",
      autocomplete: "username",
      required: true,
      maxlength: 64,
      autocapitalize: "none",
      spellcheck: "false",
    });
    const password = h("input", {
      id: "password",
      name: "password",
      type: "password",
      autocomplete: "current-password",
      required: true,
      maxlength: 200,
    });
    const button = h("button", { class: "button primary" }, "Log in");
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        await post("/login", { name: name.value, password: password.value });
        await this.onDone();
      } catch (error) {
        setText(this.problem, error.message);
        password.value = "";
        password.focus();
      } finally {
        button.disabled = false;
      }
    };
    const fields = [h("label", { for: "name" }, "Name"), name, h("label", { for: "password" }, "Password"), password];
    return h("form", { class: "login-form", onsubmit: submit }, fields, button);
  }
}

/** Leads to the provider, and back to where the page is now. */
function signIn(title, isOnly) {
  const place = new URLSearchParams({ place: location.hash.slice(1) });
  return h("a", { class: `button sign-in${isOnly ? " primary" : ""}`, href: `/login/oidc?${place}` }, `Sign in with ${title}`);
}
