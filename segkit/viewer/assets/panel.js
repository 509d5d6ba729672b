// The panel beside the slide: made of small parts, each a labelled control.

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// A section with a switch as its heading; returns the section, what stands beside the heading, and the switch.
export function layerSection(title, key, shown, onSwitch) {
  const box = element("input", {type: "checkbox", checked: shown, id: `show-${title.toLowerCase().replaceAll(" ", "-")}`});
  box.addEventListener("change", () => onSwitch(box.checked));
  const label = element("label", {className: "switch", title: `Show or hide (${key.toUpperCase()})`}, box, title);
  const number = element("span", {className: "number"});
  const section = element("section", {}, element("div", {className: "head"}, element("h2", {}, label), number));
  document.getElementById("layers").append(section);
  return {section, number, box};
}

export function plainSection(title) {
  const section = element("section", {}, element("div", {className: "head"}, element("h2", {}, title)));
  document.getElementById("layers").append(section);
  return section;
}

// A slider with its name and value; `inWords` makes the text of a value.
export function slider(section, {id, name, min, max, step, value, inWords}, onInput) {
  const input = element("input", {type: "range", id, min, max, step});
  input.value = value;
  const output = element("output", {htmlFor: id}, inWords(value));
  input.addEventListener("input", () => {
    output.textContent = inWords(input.valueAsNumber);
    onInput(input.valueAsNumber);
  });
  section.append(element("div", {className: "field"}, element("label", {htmlFor: id}, name), input, output));
  return input;
}

export function choice(section, {id, name, options, value}, onChange) {
  const select = element("select", {id}, ...Object.entries(options).map(([key, text]) => element("option", {value: key}, text)));
  select.value = value;
  select.addEventListener("change", () => onChange(select.value));
  section.append(element("div", {className: "field"}, element("label", {htmlFor: id}, name), select));
}

export function classRow(list, one, key, onChange) {
  const box = element("input", {type: "checkbox", checked: one.shown});
  box.addEventListener("change", () => {
    one.shown = box.checked;
    onChange();
  });
  const swatch = element("span", {className: "swatch"});
  swatch.style.background = `rgb(${one.colour.join(" ")})`;
  const share = element("span", {className: "share"}, one.share === null ? "" : `${(100 * one.share).toFixed(2)} %`);
  list.append(element("li", {}, element("label", {title: key ? `Key ${key}` : ""}, box, swatch, element("span", {className: "name"}, one.name), share)));
  return box;
}

// Each text once.
export function say(place, text) {
  const parent = document.getElementById(place);
  if ([...parent.children].some(one => one.textContent === text)) return;
  parent.append(element("p", {}, text));
}

export function listKeys(keys) {
  const list = document.getElementById("key-list");
  for (const [key, text] of keys) list.append(element("dt", {}, element("kbd", {}, key)), element("dd", {}, text));
}

export const thousands = number => number.toLocaleString("en");
export const percent = share => `${Math.round(100 * share)} %`;
