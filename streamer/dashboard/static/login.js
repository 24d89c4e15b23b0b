/** Logging in. */

import { post } from "./api.js";
import { h, setText } from "./dom.js";

export class LoginPage {
  title = "Log in";

  constructor(onDone) {
    const problem = h("p", { class: "form-problem", role: "alert" });
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
        await onDone();
      } catch (error) {
        setText(problem, error.message);
        password.value = "";
        password.focus();
      } finally {
        button.disabled = false;
      }
    };
    this.name = name;
    this.element = h(
      "form",
      { class: "login", onsubmit: submit },
      h("h1", {}, "Oddsight"),
      h("label", { for: "name" }, "Name"),
      name,
      h("label", { for: "password" }, "Password"),
      password,
      problem,
      button,
    );
  }

  open() {
    this.name.focus();
  }

  close() {}
}
