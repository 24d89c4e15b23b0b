/** Elements without markup: what comes from a camera or a person is only ever text. */

/** An element. Properties: `on...` handlers, `dataset`, all else attributes (true: an empty one; false, null: none). */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** An element of SVG. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The terms and values of a list of facts: [name, value]. */
export function facts(pairs) {
  return pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
}

/** A table of rows of texts or elements. */
export function table(headings, rows) {
  const head = h(
    "tr",
    {},
    headings.map((text) => h("th", { scope: "col" }, text)),
  );
  return h(
    "table",
    {},
    h("thead", {}, head),
    h(
      "tbody",
      {},
      rows.map((row) =>
        h(
          "tr",
          {},
          row.map((cell) => h("td", {}, cell)),
        ),
      ),
    ),
  );
}

/** Change a text only if it differs, so that nothing is announced or laid out again in vain. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Change an attribute only if it differs. */
export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** A message that goes away by itself. */
export function toast(text, kind = "info") {
  const element = h("div", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), kind === "error" ? 9000 : 3500);
}

/** Ask in a dialog; resolves to whether the answer is yes. */
export function confirmed(question, detail, yes) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      {
        class: "dialog",
        "aria-labelledby": "dialog-title",
        onclose: () => {
          dialog.remove();
          resolve(dialog.returnValue === "yes");
        },
      },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "dialog-title" }, question),
        h("p", {}, detail),
        h(
          "div",
          { class: "buttons" },
          h("button", { value: "no", class: "button" }, "Cancel"),
          h("button", { value: "yes", class: "button danger" }, yes),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
