// Draws a result and names what is under the pointer. Gradio gives: element, props, trigger, watch.
const CONTOUR = 1 / 400; // width of the lines between classes, as a share of the longer side
const state = { view: "overlay", alpha: 0.55, hidden: new Set(), picture: null, cursor: null, load: 0 };
const find = (selector) => element.querySelector(selector);
const percent = (share) => (share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

async function pixels(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function borders(labels, width, height) {
  const lines = new Uint8Array(labels.length);
  const reach = Math.max(1, Math.round(Math.max(width, height) * CONTOUR));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      if ((x && labels[i] !== labels[i - 1]) || (y && labels[i] !== labels[i - width])) {
        for (let v = y; v < Math.min(height, y + reach); v++) lines.fill(1, v * width + x, v * width + Math.min(width, x + reach));
      }
    }
  }
  return lines;
}

async function show(data) {
  const turn = ++state.load;
  if (!data || !data.image) {
    state.picture = null;
    find(".viewer").dataset.state = "empty";
    return;
  }
  const uris = [data.image, data.labels, data.trusty, data.trusty_values];
  const [image, coded, trusty, trustyValues] = await Promise.all(uris.map((uri) => uri && pixels(uri)));
  if (turn !== state.load) return; // a newer result came meanwhile
  const { width, height } = image;
  const labels = new Uint16Array(width * height);
  for (let i = 0; i < labels.length; i++) labels[i] = coded.data[4 * i] + 256 * coded.data[4 * i + 1];
  const classes = new Map(data.classes.map((entry) => [entry.index, entry]));
  state.picture = { width, height, image, coded, labels, classes, trusty, trustyValues, lines: borders(labels, width, height) };
  state.hidden = new Set();
  state.cursor = null;
  if (state.view === "trusty" && !trusty) state.view = "overlay";
  find('[data-view="trusty"]').hidden = !trusty;
  find(".viewer").dataset.state = "ready";
  listClasses(data.classes);
  point(null);
  draw();
  if (innerWidth < 640) element.scrollIntoView({ behavior: "smooth" }); // on phones it is below the form
}

function painted() {
  const { width, height, image, labels, classes, lines } = state.picture;
  const out = new ImageData(new Uint8ClampedArray(image.data), width, height);
  for (let i = 0; i < labels.length; i++) {
    const entry = classes.get(labels[i]);
    if (!entry || state.hidden.has(labels[i])) continue;
    const at = 4 * i;
    for (let c = 0; c < 3; c++) {
      out.data[at + c] = lines[i] ? 255 : image.data[at + c] * (1 - state.alpha) + entry.color[c] * state.alpha;
    }
  }
  return out;
}

function put(canvas, data) {
  [canvas.width, canvas.height] = [data.width, data.height];
  canvas.getContext("2d").putImageData(data, 0, 0);
  canvas.parentElement.style.maxWidth = `calc(70vh * ${data.width / data.height})`; // no higher than the window
}

function draw() {
  if (!state.picture) return;
  const { image, trusty } = state.picture;
  put(find(".painting canvas"), state.view === "image" ? image : state.view === "trusty" ? trusty : painted());
  find(".original").hidden = state.view !== "beside";
  find(".stage").classList.toggle("two", state.view === "beside");
  if (state.view === "beside") put(find(".original canvas"), image);
  for (const button of element.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-checked", button.dataset.view === state.view);
    button.tabIndex = button.dataset.view === state.view ? 0 : -1;
  }
}

function listClasses(classes) {
  const list = find(".legend ul");
  list.replaceChildren(
    ...classes.map((entry) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.label = entry.index;
      button.title = entry.name;
      button.setAttribute("aria-pressed", "true");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `rgb(${entry.color.join(",")})`;
      const texts = [["name", entry.name], ["mark", entry.mark], ["share", percent(entry.share)]].map(([kind, text]) => {
        const span = document.createElement("span");
        span.className = kind;
        span.textContent = text;
        return span;
      });
      button.append(swatch, ...texts.filter((span) => span.textContent));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  markHidden();
}

function markHidden() {
  for (const button of element.querySelectorAll("[data-label]")) {
    button.setAttribute("aria-pressed", !state.hidden.has(Number(button.dataset.label)));
  }
  find(".all").textContent = state.hidden.size ? "Show all" : "Hide all";
}

let waiting = 0;
function changed() {
  draw();
  clearTimeout(waiting); // the server draws the overlay to download, once the visitor pauses
  waiting = setTimeout(() => trigger("input", { alpha: state.alpha, hidden: [...state.hidden] }), 300);
}

// The cursor is [x, y], shares of width and height; null takes the tip away.
function point(cursor, { spoken = false } = {}) {
  state.cursor = cursor ?? state.cursor;
  const tip = find(".tip");
  tip.hidden = find(".pointer").hidden = true;
  if (!cursor || !state.picture) return;
  const { width, height, labels, coded, classes, trustyValues } = state.picture;
  const [column, row] = [Math.min(width - 1, Math.floor(cursor[0] * width)), Math.min(height - 1, Math.floor(cursor[1] * height))];
  const i = row * width + column;
  const entry = classes.get(labels[i]);
  if (!entry) return;
  const facts = [`confidence ${Math.round(coded.data[4 * i + 2] / 2.55)} %`];
  if (trustyValues) facts.push(`trusty ${(trustyValues.data[4 * i] / 255).toFixed(2)}`);
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = `rgb(${entry.color.join(",")})`;
  const name = document.createElement("b");
  name.textContent = entry.name;
  tip.replaceChildren(swatch, name, document.createTextNode(` ${facts.join(" · ")}`));
  tip.style.left = `${100 * cursor[0]}%`;
  tip.style.top = `${100 * cursor[1]}%`;
  tip.dataset.side = `${cursor[1] < 0.25 ? "below" : "above"} ${cursor[0] < 0.3 ? "right" : cursor[0] > 0.7 ? "left" : "middle"}`;
  tip.hidden = false;
  if (spoken) {
    const mark = find(".pointer");
    [mark.style.left, mark.style.top, mark.hidden] = [tip.style.left, tip.style.top, false];
    find(".spoken").textContent = `${entry.name}, ${facts.join(", ")}`;
  }
}

function place(event, canvas) {
  const box = canvas.getBoundingClientRect();
  const inside = (value) => Math.min(Math.max(value, 0), 0.9999);
  return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
}

const explain = ([x, y]) => trigger("click", { x, y });

element.addEventListener("pointermove", (event) => {
  const canvas = event.target.closest("canvas");
  point(canvas && place(event, canvas));
});
element.addEventListener("pointerleave", () => point(null));
element.addEventListener("focusout", () => point(null));
element.addEventListener("click", (event) => {
  const canvas = event.target.closest("canvas");
  const button = event.target.closest("button");
  if (canvas && state.picture) {
    point(place(event, canvas));
    explain(place(event, canvas));
  } else if (button?.dataset.view) {
    state.view = button.dataset.view;
    draw();
  } else if (button?.dataset.label) {
    const label = Number(button.dataset.label);
    if (!state.hidden.delete(label)) state.hidden.add(label);
    markHidden();
    changed();
  } else if (button?.classList.contains("all")) {
    state.hidden = new Set(state.hidden.size ? [] : state.picture.classes.keys());
    markHidden();
    changed();
  }
});
element.addEventListener("input", (event) => {
  if (!event.target.matches(".opacity input")) return;
  event.stopPropagation();
  state.alpha = event.target.value / 100;
  find(".opacity output").textContent = `${event.target.value} %`;
  changed();
});
element.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 0.1 : 0.02;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (event.target.matches(".painting canvas") && state.picture) {
    const [x, y] = state.cursor ?? [0.5, 0.5];
    if (move) point([x + step * move[0], y + step * move[1]].map((value) => Math.min(Math.max(value, 0), 0.9999)), { spoken: true });
    else if (event.key === "Enter" || event.key === " ") explain([x, y]);
    else return;
    event.preventDefault();
  } else if (event.target.dataset.view && move) {
    const buttons = [...element.querySelectorAll("[data-view]:not([hidden])")];
    const next = buttons[(buttons.indexOf(event.target) + move[0] + move[1] + buttons.length) % buttons.length];
    state.view = next.dataset.view;
    draw();
    next.focus();
    event.preventDefault();
  }
});

watch("value", () => show(props.value));
show(props.value);
