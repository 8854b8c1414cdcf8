"use strict";
// One card per image, built as it comes near the screen; everything from the data becomes text, never markup.

const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);
$("data").remove(); // the text is as long as the page
const ENTRIES = DATA.entries;
const RUNS = DATA.runs;
const FAULTS = ["low_clip_score", "repeats", "truncated"]; // the other flags say where a caption comes from
const NAMED_BOXES = 3; // lit boxes with a label; more would hide the picture

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function pairs(flat) {
  const found = [];
  for (let i = 0; i < (flat || []).length; i += 2) found.push([flat[i], flat[i + 1]]);
  return found;
}

const number = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
const DIGITS = { cider: 0, log_probability: 1, clip: 3, familiarity: 3 };

// A detector names what a region shows; a cell of a grid has no name but its place.

const isGrid = (entry) => entry.regions.some((region) => region[4] === "cell");

function regionName(entry, index, [row, column] = ["row ", "column "]) {
  const [x, y, width, height, label] = entry.regions[index];
  if (label !== "cell") return label;
  return `${row}${Math.round(y / height) + 1}, ${column}${Math.round(x / width) + 1}`;
}

const shortName = (entry, index) => regionName(entry, index, ["", ""]);

// Attributes that half of a run's images have, such as "the", tell nothing of an image.
const COMMON = RUNS.map((_, number_of_run) => {
  const own = ENTRIES.filter(({ run, attributes }) => run === number_of_run && attributes.length);
  const counts = new Map();
  for (const { attributes } of own)
    for (const [word] of attributes) counts.set(word, (counts.get(word) || 0) + 1);
  return new Set([...counts.keys()].filter((word) => counts.get(word) >= own.length / 2));
});

// What is attended: by a word in the chosen view, or by a region in its grouping.

const VIEWS = {
  global: "Regions as grouped with one another, and the attributes that go with the word before",
  local: "The regions and attributes themselves",
};
let chosenView = "global";

function viewSwitch(name) {
  const labels = Object.entries(VIEWS).map(([view, title]) => {
    const input = make("input", {
      type: "radio",
      name,
      value: view,
      checked: view === chosenView,
      disabled: view === "local" && !HAS_LOCAL,
    });
    input.addEventListener("input", () => chooseView(view));
    return make("label", { title }, input, make("span", {}, view));
  });
  return make("span", { className: "switch views" }, ...labels);
}

function chooseView(view) {
  chosenView = view;
  for (const input of document.querySelectorAll(".views input")) input.checked = input.value === view;
  for (const one of everyView()) one.refresh();
}

const HAS_LOCAL = ENTRIES.some(
  ({ attention }) => attention && (attention.local.regions || attention.local.attributes),
);

function isPivoted({ attention }) {
  // each word has the attributes that go with the word before
  return Boolean(attention.collocations) && attention.pivots[0] === "";
}

function attended(entry, active) {
  const found = entry.attention;
  if (!found || !active) return null;
  if (active.kind === "region") {
    return {
      name: regionName(entry, active.index),
      regions: pairs((found.groupings || [])[active.index]),
      attributes: [],
      source: active.index,
    };
  }
  const view = found[chosenView];
  const pivot = chosenView === "global" && !view.attributes && isPivoted(entry);
  const attributes = pivot ? found.collocations : view.attributes || [];
  return {
    name: found.words[active.index],
    probability: found.probabilities[active.index],
    regions: pairs((view.regions || [])[active.index]),
    attributes: pairs(attributes[active.index]),
    pivot: pivot ? found.pivots[active.index] || "(begin)" : null,
  };
}

// The picture with its boxes.

let stages = 0;

class Stage {
  constructor(entry, live) {
    this.entry = entry;
    const id = `shade-${stages++}`;
    const area = { x: 0, y: 0, width: entry.width, height: entry.height };
    this.holes = draw("g", {});
    this.links = draw("g", {});
    const svg = draw(
      "svg",
      { viewBox: `0 0 ${entry.width} ${entry.height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("mask", { id }, draw("rect", { ...area, fill: "#fff" }), this.holes),
      draw("rect", { ...area, class: "shade", mask: `url(#${id})` }),
      this.links,
    );
    const image = make("img", {
      src: `data:image/webp;base64,${entry.picture}`,
      alt: entry.caption || entry.id,
      decoding: "async",
    });
    this.element = make("div", { className: "stage" }, image, svg);
    this.element.style.setProperty("--ratio", entry.width / entry.height);
    this.boxes = entry.regions.map((region, index) => this.box(region, index, live));
    const area_of = (box) => entry.regions[box.dataset.region][2] * entry.regions[box.dataset.region][3];
    this.element.append(...[...this.boxes].sort((a, b) => area_of(b) - area_of(a))); // small ones lie on top
    this.element.classList.toggle("live", live);
  }

  box([x, y, width, height, label, score], index, live) {
    const { width: w, height: h } = this.entry;
    const properties = { className: "box" };
    if (live)
      Object.assign(properties, {
        type: "button",
        tabIndex: -1,
        "aria-label": `region ${label}, score ${score}`,
      });
    const box = make(live ? "button" : "span", properties, make("b"));
    box.dataset.region = index;
    box.classList.toggle("named-above", y > 0.08 * h);
    box.classList.toggle("named-right", x > 0.7 * w);
    Object.assign(box.style, {
      left: `${(100 * x) / w}%`,
      top: `${(100 * y) / h}%`,
      width: `${(100 * width) / w}%`,
      height: `${(100 * height) / h}%`,
    });
    return box;
  }

  light(found) {
    this.element.classList.toggle("lit", Boolean(found));
    for (const box of this.boxes) box.classList.remove("on", "named", "source");
    this.holes.replaceChildren();
    this.links.replaceChildren();
    if (!found) return;
    const most = Math.max(...found.regions.map(([, percent]) => percent), 1);
    for (const [rank, [index, percent]] of found.regions.entries()) {
      const [x, y, width, height] = this.entry.regions[index];
      const share = percent / most;
      this.holes.append(
        draw("rect", { x, y, width, height, fill: "#000", "fill-opacity": share.toFixed(2) }),
      );
      this.show(index, `${percent} %`, rank < NAMED_BOXES, 0.25 + 0.75 * share);
      if (found.source !== undefined && index !== found.source) this.link(found.source, index, share);
    }
    if (found.source !== undefined) {
      const [x, y, width, height] = this.entry.regions[found.source];
      this.holes.append(draw("rect", { x, y, width, height, fill: "#000" }));
      const own = found.regions.find(([index]) => index === found.source);
      this.show(found.source, own ? `${own[1]} %` : "", true, 1);
      this.boxes[found.source].classList.add("source");
      this.boxes[found.source].style.removeProperty("border-color");
    }
  }

  show(index, text, named, opacity) {
    const box = this.boxes[index];
    box.classList.add("on");
    box.classList.toggle("named", named);
    box.style.setProperty("border-color", `rgb(from var(--region) r g b / ${opacity.toFixed(2)})`);
    const label = this.entry.regions[index][4];
    box.firstChild.textContent = label === "cell" ? text : `${label} ${text}`;
  }

  link(from, to, share) {
    const center = ([x, y, width, height]) => [x + width / 2, y + height / 2];
    const [[x1, y1], [x2, y2]] = [center(this.entry.regions[from]), center(this.entry.regions[to])];
    const [bx, by] = [(x1 + x2) / 2 + (y1 - y2) / 5, (y1 + y2) / 2 + (x2 - x1) / 5]; // bent: two lines may not coincide
    const opacity = (0.35 + 0.65 * share).toFixed(2);
    this.links.append(
      draw("path", {
        class: "link",
        d: `M${x1} ${y1}Q${bx} ${by} ${x2} ${y2}`,
        "stroke-width": 1 + 3 * share,
        "stroke-opacity": opacity,
      }),
      draw("circle", { class: "link", cx: x2, cy: y2, r: 0.008 * this.entry.width, "fill-opacity": opacity }),
    );
  }
}

// An image with its caption: a card, or the large view. What is pointed at comes first, then what is pinned.

class View {
  constructor(entry, live = false) {
    this.entry = entry;
    this.stage = entry.picture ? new Stage(entry, live) : null;
    this.pinned = null;
    this.pointed = null;
    this.words = [];
    this.listeners = [];
  }

  get active() {
    return this.pointed || this.pinned;
  }

  point(active, aloud = false) {
    this.pointed = active;
    this.refresh();
    if (active && aloud) speak(this.entry, attended(this.entry, active));
  }

  pin(active) {
    const same =
      this.pinned && active && this.pinned.kind === active.kind && this.pinned.index === active.index;
    this.pinned = same ? null : active;
    if (same) this.pointed = null;
    this.refresh();
  }

  refresh() {
    const found = attended(this.entry, this.active);
    if (this.stage) this.stage.light(found);
    for (const [index, word] of this.words.entries()) {
      const is = (one) => Boolean(one && one.kind === "word" && one.index === index);
      word.classList.toggle("on", is(this.active));
      word.setAttribute("aria-pressed", is(this.pinned));
    }
    for (const listener of this.listeners) listener(found);
  }

  // Hovering, focusing and clicking `element` shows and pins what `active` attended.
  follow(element, active) {
    element.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch") this.point(active);
    });
    element.addEventListener("pointerleave", () => this.point(null));
    element.addEventListener("focus", () => {
      if (element.matches(":focus-visible")) this.point(active, true);
    });
    element.addEventListener("blur", () => this.point(null));
    element.addEventListener("click", () => this.pin(active));
  }

  caption() {
    const { attention, caption } = this.entry;
    const plain = make("p", { className: "caption" }, caption);
    if (!attention) return plain;
    const line = this.wordLine();
    // The text rules changed what the captioner wrote, and that is explained.
    return attention.written
      ? make("div", {}, plain, make("p", { className: "muted" }, "As the captioner wrote it:"), line)
      : line;
  }

  wordLine() {
    const { attention, caption } = this.entry;
    const line = make("p", { className: "caption", role: "toolbar", "aria-label": `caption: ${caption}` });
    this.words = attention.words.map((text, index) => {
      const word = make("button", {
        type: "button",
        className: "word",
        textContent: text,
        tabIndex: index ? -1 : 0,
        "aria-pressed": "false",
      });
      this.follow(word, { kind: "word", index });
      line.append(word, " ");
      return word;
    });
    line.addEventListener("keydown", (event) => this.move(event));
    return line;
  }

  move(event) {
    const last = this.words.length - 1;
    const at = this.words.indexOf(document.activeElement);
    const to = { ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last }[
      event.key
    ];
    if (event.key === "Escape" && this.pinned) this.pin(this.pinned);
    else if (to !== undefined) {
      for (const [index, word] of this.words.entries()) word.tabIndex = index === to ? 0 : -1;
      this.words[to].focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function speak(entry, found) {
  const list = (items, name) =>
    items
      .slice(0, 3)
      .map(([index, percent]) => `${name(index)} ${percent} percent`)
      .join(", ");
  const regions = list(found.regions, (index) => regionName(entry, index));
  const attributes = list(found.attributes, (index) => entry.attributes[index][0]);
  $("spoken").textContent = [
    `${found.name}: regions ${regions || "none"}`,
    attributes && `attributes ${attributes}`,
  ]
    .filter(Boolean)
    .join("; ");
}

// Parts that cards and the large view share.

function placeholder(entry) {
  return make(
    "span",
    { className: "none" },
    (entry.status === "ok" && RUNS[entry.run].missing) || "No picture",
  );
}

function fault(entry) {
  return make(
    "p",
    { className: "error" },
    make("strong", {}, entry.error_kind || entry.status),
    entry.error ? `: ${entry.error}` : "",
  );
}

function badge(entry) {
  return entry.status === "ok" ? null : make("span", { className: "badge" }, entry.status);
}

function scoreLine(entry) {
  const known = Object.entries(DATA.scores).filter(([name]) => entry.scores[name] !== null);
  return known.map(([name, label]) =>
    make("span", {}, `${label} `, make("b", {}, number(entry.scores[name], DIGITS[name]))),
  );
}

function flagLine(entry) {
  return entry.flags.map((flag) => {
    const kind = FAULTS.includes(flag) ? "fault" : "";
    return make("span", { className: `chip flag ${kind}` }, DATA.flags[flag]);
  });
}

// A heading and a list for the captions of each prompt.
function captionLists(entry) {
  const prompts = [...new Set(entry.about.map(({ prompt }) => prompt))];
  const known = [
    entry.captions.some(([, value]) => value !== null) && "log-probability",
    entry.about.some(({ clip }) => clip !== undefined) && "CLIP-S",
  ].filter(Boolean);
  return prompts.flatMap((prompt) => {
    const places = [...entry.captions.keys()].filter((place) => entry.about[place].prompt === prompt);
    const items = places.map((place) => {
      const [text, value] = entry.captions[place];
      const { clip } = entry.about[place];
      const numbers = [value === null ? null : number(value, 2), clip === undefined ? null : number(clip, 3)];
      return make(
        "li",
        {},
        make("span", {}, text),
        make("span", { className: "number" }, numbers.filter((one) => one !== null).join(" \u00b7 ")),
      );
    });
    const title = prompt === undefined ? "Best captions" : `Prompt \u201c${prompt}\u201d`;
    return [make("h3", {}, [title, ...known].join(", ")), make("ol", {}, ...items)];
  });
}

function texts(entry) {
  const parts = [];
  if (entry.captions.length > 1) parts.push(...captionLists(entry));
  const raw = entry.about.length ? entry.about[0].raw : undefined;
  if (raw !== undefined && !entry.attention)
    parts.push(make("h3", {}, "As the captioner wrote it"), make("p", { className: "raw" }, raw));
  if (entry.references.length) {
    parts.push(
      make("h3", {}, "References"),
      make("ul", {}, ...entry.references.map((text) => make("li", {}, text))),
    );
  }
  return parts.length ? make("div", { className: "texts" }, ...parts) : null;
}

function chip(text, percent, kind) {
  const inner = percent === null ? [text] : [text, make("i", {}, `${percent}`)];
  return make("span", { className: `chip ${kind}` }, ...inner);
}

// Cards.

function sees(view) {
  const { entry } = view;
  if (!entry.regions.length && !entry.attributes.length) return null; // a captioner of whole images
  const line = make("div", { className: "sees", "aria-hidden": "true" });
  const labels = isGrid(entry)
    ? entry.attributes.map(([word]) => word).filter((word) => !COMMON[entry.run].has(word))
    : entry.regions.map((region) => region[4]);
  const still = [...new Set(labels)].map((label) => chip(label, null, ""));
  const show = (found) => {
    if (!found) return line.replaceChildren(...still);
    const regions = (isGrid(entry) ? [] : found.regions)
      .slice(0, 2)
      .map(([index, percent]) => chip(entry.regions[index][4], percent, "region"));
    const attributes = found.attributes
      .slice(0, 4)
      .map(([index, percent]) => chip(entry.attributes[index][0], percent, "on"));
    return line.replaceChildren(...regions, ...attributes);
  };
  view.listeners.push(show);
  show(null);
  return line;
}

function fill(card) {
  const entry = ENTRIES[card.dataset.index];
  const view = new View(entry);
  card.view = view;
  const open = make(
    "button",
    { type: "button", className: "frame", "aria-label": `Look closer at ${entry.id}` },
    view.stage ? view.stage.element : placeholder(entry),
    badge(entry),
  );
  open.addEventListener("click", () => openDetail(entry, card));
  if (view.stage) {
    const outline = (on) =>
      view.stage.element.classList.toggle("outlined", (on && !isGrid(entry)) || $("boxes").checked);
    open.addEventListener("pointerenter", () => outline(true));
    open.addEventListener("pointerleave", () => outline(false));
    outline(false);
  }
  const foot = make(
    "div",
    { className: "foot" },
    ...flagLine(entry),
    ...scoreLine(entry),
    make("span", { className: "name", title: entry.id }, entry.id),
  );
  const said = entry.status === "ok" ? [view.caption(), sees(view), texts(entry)] : [fault(entry)];
  card.replaceChildren(open, make("div", { className: "text" }, ...said.filter(Boolean), foot));
}

function empty(card) {
  if (!card.view || card.view.pinned || card.contains(document.activeElement)) return;
  card.style.minHeight = `${card.offsetHeight}px`; // what is below must not move
  card.view = null;
  card.replaceChildren();
}

const near = new IntersectionObserver(
  (changes) => {
    for (const { target, isIntersecting } of changes) {
      if (!isIntersecting) empty(target);
      else if (!target.view) fill(target);
    }
  },
  { rootMargin: "900px 0px" },
);

const CARDS = ENTRIES.map((entry, index) => {
  const card = make("article", { "aria-label": entry.caption || `${entry.id}, ${entry.status}` });
  card.dataset.index = index;
  near.observe(card);
  return card;
});

// Filters and order.

const HAYSTACK = ENTRIES.map((entry) =>
  [entry.id, entry.caption, entry.error_kind, entry.error].filter(Boolean).join(" ").toLowerCase(),
);
let shown = [];
let bounds = [0, 0]; // of the chosen score

function scoreName() {
  return $("score").value;
}

function scoreOf(index) {
  const value = ENTRIES[index].scores[scoreName()];
  return value === undefined ? null : value;
}

function rangeChosen() {
  const [least, most] = bounds;
  const at = (id) => least + ((most - least) * Number($(id).value)) / 100;
  return [Math.min(at("low"), at("high")), Math.max(at("low"), at("high"))];
}

function rangeIsOpen() {
  return Math.min($("low").value, $("high").value) <= 0 && Math.max($("low").value, $("high").value) >= 100;
}

function matches(index, terms, status, flag, [low, high], open) {
  const entry = ENTRIES[index];
  if (flag === NO_FLAG ? entry.flags.length || entry.status !== "ok" : flag && !entry.flags.includes(flag))
    return false;
  if (status && entry.status !== status && `${entry.status}/${entry.error_kind}` !== status) return false;
  const score = scoreOf(index);
  const slack = 1e-6 * (1 + Math.abs(high));
  if (!open && (score === null || score < low - slack || score > high + slack)) return false;
  return terms.every((term) => HAYSTACK[index].includes(term));
}

function refresh() {
  const terms = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [range, open, status, flag] = [rangeChosen(), rangeIsOpen(), $("status").value, $("flag").value];
  shown = [...ENTRIES.keys()].filter((index) => matches(index, terms, status, flag, range, open));
  const sign = { worst: 1, best: -1 }[$("order").value];
  if (sign) {
    const value = (index) => scoreOf(index) ?? sign * Infinity; // images without a score come last
    const run = (index) => ENTRIES[index].run; // scores of different runs do not compare
    shown.sort((a, b) => run(a) - run(b) || (value(a) === value(b) ? a - b : sign * (value(a) - value(b))));
  }
  for (const [place, index] of shown.entries()) {
    CARDS[index].setAttribute("aria-posinset", place + 1);
    CARDS[index].setAttribute("aria-setsize", shown.length);
  }
  $("cards").replaceChildren(...sections().flat());
  $("nothing").hidden = shown.length > 0;
  summarize();
  drawRange();
}

// The cards on the page, those of each of several runs below its heading.
function sections() {
  return RUNS.map((run, number) => {
    const own = shown.filter((index) => ENTRIES[index].run === number);
    const cards = own.map((index) => CARDS[index]);
    if (RUNS.length === 1 || !own.length) return cards;
    const about = make("p", { className: "muted" }, describe(own, number));
    return [make("div", { className: "run" }, make("h2", {}, run.name), about), ...cards];
  });
}

// How many of a run's images are on the page, their mean score and the run's weights.
function describe(own, number_of_run) {
  const { total, model } = RUNS[number_of_run];
  const count = ENTRIES.filter(({ run }) => run === number_of_run).length;
  const scored = own.map(scoreOf).filter((value) => value !== null);
  const mean = scored.reduce((sum, value) => sum + value, 0) / scored.length;
  const of =
    own.length < count
      ? ` of ${count}`
      : total > count
        ? `, the first of ${total.toLocaleString("en")}`
        : "";
  const parts = [`${own.length}${of} image${count === 1 ? "" : "s"}`];
  if (scored.length)
    parts.push(`mean ${DATA.scores[scoreName()]} ${number(mean, Math.max(1, DIGITS[scoreName()]))}`);
  if (model) parts.push(model);
  return parts.join(" \u00b7 ");
}

function summarize() {
  const of = shown.length < ENTRIES.length ? ` of ${ENTRIES.length}` : "";
  $("summary").textContent =
    RUNS.length === 1 ? describe(shown, 0) : `${shown.length}${of} images of ${RUNS.length} runs`;
}

function drawRange() {
  if (!scoreName()) return;
  const [least, most] = bounds;
  const [low, high] = rangeChosen();
  const counts = new Array(32).fill(0);
  for (const index of ENTRIES.keys()) {
    const value = scoreOf(index);
    if (value !== null) counts[Math.min(31, Math.floor((32 * (value - least)) / (most - least || 1)))] += 1;
  }
  const top = Math.max(...counts, 1);
  const bars = counts.map((count, bin) => {
    const middle = least + ((bin + 0.5) * (most - least)) / 32;
    const height = count && 2 + (22 * count) / top;
    return draw("rect", {
      x: bin,
      y: 24 - height,
      width: 0.8,
      height,
      class: middle < low || middle > high ? "out" : "",
    });
  });
  $("bars").setAttribute("viewBox", "0 0 32 24");
  $("bars").replaceChildren(...bars);
  $("range-text").textContent =
    `${DATA.scores[scoreName()]} ${number(low, DIGITS[scoreName()])} to ${number(high, DIGITS[scoreName()])}`;
}

function chooseScore() {
  const values = [...ENTRIES.keys()].map(scoreOf).filter((value) => value !== null);
  bounds = [
    values.reduce((a, b) => Math.min(a, b), Infinity),
    values.reduce((a, b) => Math.max(a, b), -Infinity),
  ];
  [$("low").value, $("high").value] = [0, 100];
  refresh();
}

function reset() {
  for (const id of ["find", "status", "flag"]) $(id).value = "";
  [$("low").value, $("high").value] = [0, 100];
  refresh();
}

function statusOptions() {
  const counts = new Map([["", ENTRIES.length]]);
  for (const { status, error_kind } of ENTRIES) {
    counts.set(status, (counts.get(status) || 0) + 1);
    if (status !== "ok" && error_kind)
      counts.set(`${status}/${error_kind}`, (counts.get(`${status}/${error_kind}`) || 0) + 1);
  }
  const keys = [...counts.keys()].sort();
  return keys.map((key) =>
    make("option", { value: key }, `${key ? key.replace("/", ": ") : "all"} (${counts.get(key)})`),
  );
}

const NO_FLAG = "none"; // no name of a column

function flagOptions() {
  const count = (matching) => ENTRIES.filter(matching).length;
  const options = [
    ["", "all", ENTRIES.length],
    ...Object.entries(DATA.flags).map(([flag, label]) => [
      flag,
      label,
      count(({ flags }) => flags.includes(flag)),
    ]),
    [NO_FLAG, "no flag", count(({ flags, status }) => status === "ok" && !flags.length)],
  ];
  return options.map(([value, label, images]) => make("option", { value }, `${label} (${images})`));
}

// The large view.

let detail = null;

function openDetail(entry, card) {
  detail = { index: Number(card.dataset.index) };
  showDetail(entry, card.view && card.view.pinned);
  $("detail").showModal();
}

function showDetail(entry, pinned = null) {
  const view = new View(entry, true);
  detail.view = view;
  $("detail-name").textContent = entry.id;
  const frame = make(
    "div",
    { className: "frame" },
    view.stage ? view.stage.element : placeholder(entry),
    badge(entry),
  );
  if (view.stage)
    for (const [index, box] of view.stage.boxes.entries()) view.follow(box, { kind: "region", index });
  if (view.stage) view.stage.element.classList.toggle("outlined", !isGrid(entry)); // a grid hides the picture
  const said = entry.status === "ok" ? [view.caption()] : [fault(entry)];
  const left = make(
    "div",
    { className: "left" },
    frame,
    make(
      "div",
      { className: "under" },
      ...said,
      make(
        "div",
        { className: "foot" },
        ...flagLine(entry),
        ...scoreLine(entry),
        make("span", { className: "name" }, entry.width ? `${entry.width} \u00d7 ${entry.height}` : ""),
      ),
    ),
  );
  const right = make(
    "div",
    { className: "right" },
    ...[
      attentionPanel(view),
      texts(entry) && make("div", { className: "panel" }, texts(entry)),
      attributesPanel(view),
      groupingsPanel(view),
      collocationsPanel(view),
    ].filter(Boolean),
  );
  $("detail-body").replaceChildren(left, right);
  const place = shown.indexOf(detail.index);
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place >= shown.length - 1;
  if (pinned) view.pin(pinned);
}

function step(by) {
  const next = shown[shown.indexOf(detail.index) + by];
  if (next === undefined) return;
  detail.index = next;
  showDetail(ENTRIES[next]);
}

function panel(title, ...children) {
  return make("section", { className: "panel" }, make("h3", {}, title), ...children);
}

function meter(label, percent, most) {
  const bar = make("i");
  bar.style.width = `${(100 * percent) / most}%`;
  return make(
    "li",
    { className: "meter" },
    make("span", {}, label),
    make("div", {}, bar),
    make("span", { className: "number" }, `${percent} %`),
  );
}

function attentionPanel(view) {
  const { entry } = view;
  if (!entry.attention) return null;
  const [title, regionsTitle, attributesTitle] = [make("h3"), make("h4"), make("h4")];
  const [regions, attributes] = [make("ol"), make("ol", { className: "attributes" })];
  const list = (items, name) =>
    items.map(([index, percent]) => meter(name(index), percent, Math.max(items[0][1], 1)));
  const show = (found) => {
    const grouped = Boolean(found && found.source !== undefined);
    title.textContent = !found
      ? "Point at a word, or at a region"
      : grouped
        ? `\u201c${found.name}\u201d is grouped with`
        : `\u201c${found.name}\u201d, probability ${number(found.probability, 2)}, looked at`;
    regionsTitle.textContent = found ? (isGrid(entry) ? "Cells, by row and column" : "Regions") : "";
    attributesTitle.textContent =
      !found || grouped
        ? ""
        : found.pivot
          ? `Attributes that go with \u201c${found.pivot}\u201d`
          : "Attributes";
    regions.replaceChildren(...list(found ? found.regions : [], (index) => shortName(entry, index)));
    attributes.replaceChildren(...list(found ? found.attributes : [], (index) => entry.attributes[index][0]));
  };
  view.listeners.push(show);
  show(null);
  const meters = make(
    "div",
    { className: "meters" },
    make("div", {}, regionsTitle, regions),
    make("div", {}, attributesTitle, attributes),
  );
  return make(
    "section",
    { className: "panel looks" },
    make("div", { className: "top" }, title, viewSwitch("detail-view")),
    meters,
  );
}

function attributesPanel(view) {
  const { entry } = view;
  if (!entry.attributes.length) return null;
  const chips = entry.attributes.map(([word, probability]) => chip(word, Math.round(100 * probability), ""));
  view.listeners.push((found) => {
    const lit = new Set(found ? found.attributes.map(([index]) => index) : []);
    for (const [index, one] of chips.entries()) one.classList.toggle("on", lit.has(index));
  });
  return panel("Attributes found in the image, percent", make("div", { className: "cloud" }, ...chips));
}

function tiles(items, name) {
  const most = Math.max(...items.map(([, percent]) => percent), 1);
  return make(
    "div",
    { className: "tiles" },
    ...items.slice(0, 4).map(([index, percent]) => {
      const tile = make("span", { className: "tile" }, `${name(index)} ${percent}`);
      tile.style.setProperty("--share", (55 * percent) / most);
      return tile;
    }),
  );
}

function groupingsPanel(view) {
  const { entry } = view;
  const groupings = entry.attention && entry.attention.groupings;
  if (!groupings || isGrid(entry)) return null; // cells are pointed at in the picture
  const figure = make("div", { className: "figure regions-figure" });
  const buttons = groupings.map((flat, index) => {
    const button = make("button", { type: "button", "aria-pressed": "false" }, entry.regions[index][4]);
    view.follow(button, { kind: "region", index });
    figure.append(
      button,
      tiles(pairs(flat), (other) => entry.regions[other][4]),
    );
    return button;
  });
  view.listeners.push(() => {
    for (const [index, button] of buttons.entries()) {
      const is = (one) => Boolean(one && one.kind === "region" && one.index === index);
      button.classList.toggle("on", is(view.active));
      button.setAttribute("aria-pressed", is(view.pinned));
    }
  });
  return panel("Region groupings (H_vd), percent", figure);
}

function collocationsPanel(view) {
  const { entry } = view;
  const found = entry.attention;
  if (!found || !found.collocations) return null;
  const figure = make("div", { className: "figure collocations-figure" });
  const byWord = isPivoted(entry);
  found.collocations.forEach((flat, index) => {
    const name = found.pivots[index] || "(begin)";
    const pivot = byWord ? make("button", { type: "button" }, name) : make("span", {}, name);
    if (byWord) view.follow(pivot, { kind: "word", index });
    figure.append(
      pivot,
      tiles(pairs(flat), (other) => entry.attributes[other][0]),
    );
  });
  return panel(
    byWord
      ? "Attributes that go with the word before (H_ad), percent"
      : "Attributes that go together (H_ad), percent",
    figure,
  );
}

// Start.

function everyView() {
  return [...CARDS.map((card) => card.view), detail && detail.view].filter(Boolean);
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
  try {
    localStorage.setItem("theme", dark ? "light" : "dark");
  } catch {
    /* a file may have no storage */
  }
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  $("theme").setAttribute("aria-pressed", dark);
}

function start() {
  let stored = null;
  try {
    stored = localStorage.getItem("theme");
  } catch {
    /* a file may have no storage */
  }
  setTheme(["light", "dark"].includes(stored) ? stored : null);
  $("status").append(...statusOptions());
  $("flag").append(...flagOptions());
  $("flags").hidden = !Object.keys(DATA.flags).length;
  $("boxes-switch").hidden = !ENTRIES.some((entry) => entry.regions.length);
  $("score").append(
    ...Object.entries(DATA.scores).map(([name, label]) => make("option", { value: name }, label)),
  );
  const scored = Object.keys(DATA.scores).length > 0;
  for (const id of ["score", "order", "low", "high"]) $(id).disabled = !scored;
  $("range").hidden = !scored;
  $("views").hidden = !ENTRIES.some((entry) => entry.attention);
  $("views").append(viewSwitch("view"));
  for (const id of ["find", "low", "high"]) $(id).addEventListener("input", refresh);
  for (const id of ["status", "flag", "order"]) $(id).addEventListener("change", refresh);
  $("score").addEventListener("change", chooseScore);
  $("reset").addEventListener("click", reset);
  $("theme").addEventListener("click", toggleTheme);
  $("boxes").addEventListener("input", () => {
    for (const card of CARDS)
      if (card.view && card.view.stage)
        card.view.stage.element.classList.toggle("outlined", $("boxes").checked);
  });
  $("texts").addEventListener("input", () => $("cards").classList.toggle("with-texts", $("texts").checked));
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  $("close").addEventListener("click", () => $("detail").close());
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("detail").addEventListener("close", () => {
    detail = null;
    $("detail-body").replaceChildren();
  });
  $("detail").addEventListener("click", (event) => {
    if (event.target === $("detail")) $("detail").close();
  });
  $("detail").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && event.target.tagName !== "INPUT") step(by);
  });
  chooseScore();
}

start();
