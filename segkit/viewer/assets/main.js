// The page: opens the slide, lays over it what was found, and joins them with the panel and the keys.

import {RAMPS, classTable, drawRamp, probabilityTable} from "./colours.js";
import {Detections} from "./detections.js";
import {bytes, json} from "./facts.js";
import {Outlines} from "./outlines.js";
import {choice, classRow, element, layerSection, listKeys, percent, plainSection, say, slider, thousands} from "./panel.js";
import {mapSource, slideSource, teachColouring} from "./tiles.js";
import {View, drawRegion, positionInWords, prepareCanvas, scaleBar} from "./view.js";

const find = id => document.getElementById(id);
const stage = find("stage");
const problem = error => say("problems", error.message);
const keys = {}; // by the character: what is done
const LONGEST_SCALE_BAR = 140;

let facts, viewer, view, detections, outlines;
let pointer = null;
const classes = [];
const maps = {}; // by name: source, item and what the panel chose
let drawRequested = false;

// Drawing

function redraw() {
  if (drawRequested || !view) return;
  drawRequested = true;
  requestAnimationFrame(() => {
    drawRequested = false;
    draw();
  });
}

function draw() {
  view.update();
  const context = prepareCanvas(find("drawing"), stage);
  if (facts.region) drawRegion(context, view, facts.region);
  outlines?.look(view);
  outlines?.draw(context, view);
  detections?.draw(context, view);
  const {width, text} = scaleBar(view, facts.mpp, LONGEST_SCALE_BAR);
  find("scale-bar").style.width = `${width}px`;
  find("scale-length").textContent = text;
  find("magnification").textContent = `${Number((100 / view.slidePixels).toPrecision(2))} %`;
  showPosition();
  showOutlineState();
}

function showPosition() {
  const at = pointer ?? [stage.clientWidth / 2, stage.clientHeight / 2];
  const words = positionInWords(view.toSlide(...at), facts.mpp, facts.slide);
  find("position").textContent = pointer ? words : `middle: ${words}`;
}

// Classes and maps

function addClass({name, colour, share}) {
  const known = classes.find(one => one.name === name);
  if (known) return known;
  const one = {name, colour, share: share ?? null, shown: true};
  classes.push(one);
  let list = find("classes");
  if (!list) {
    list = element("ul", {className: "classes", id: "classes"});
    plainSection("Classes").append(list);
  }
  const key = classes.length <= 9 ? String(classes.length) : "";
  const box = classRow(list, one, key && `Shift+${key}`, showClasses);
  if (key) keys[`Digit${key}`] = () => box.click();
  return one;
}

function showClasses() {
  if (maps.mask) recolour(maps.mask, classTable(classes));
  if (detections) showSelected();
  redraw();
}

function recolour(map, table) {
  map.source.table.set(table);
  viewer.requestInvalidate(true);
}

function addMap(map, title, key, shown) {
  const {section, box, number} = layerSection(title, key, shown, on => {
    map.shown = on;
    map.item?.setOpacity(on ? map.opacity : 0);
  });
  map.shown = shown;
  keys[key] = () => box.click();
  slider(section, {id: `${map.facts.name}-opacity`, name: "Opacity", min: 0, max: 1, step: 0.05, value: map.opacity, inWords: percent}, value => {
    map.opacity = value;
    if (map.shown) map.item?.setOpacity(value);
  });
  return {section, number};
}

function addMask(map) {
  map.opacity = 0.45;
  addMap(map, "Areas", "m", true);
}

function addProbability(map) {
  map.opacity = 0.7;
  const chosen = {ramp: "heat", hiddenBelow: 0.1};
  const {section} = addMap(map, "Probability", "h", !maps.mask);
  const ramp = element("canvas", {id: "ramp"});
  const change = () => {
    const table = probabilityTable(chosen.ramp, chosen.hiddenBelow);
    recolour(map, table);
    drawRamp(ramp, table);
  };
  choice(section, {id: "ramp-choice", name: "Colours", options: RAMPS, value: chosen.ramp}, value => {
    chosen.ramp = value;
    change();
  });
  slider(section, {id: "hidden-below", name: "Hide below", min: 0, max: 1, step: 0.01, value: chosen.hiddenBelow, inWords: value => value.toFixed(2)}, value => {
    chosen.hiddenBelow = value;
    change();
  });
  section.append(ramp, element("div", {className: "ends"}, element("span", {}, "0"), element("span", {}, "1")));
  map.source.table.set(probabilityTable(chosen.ramp, chosen.hiddenBelow));
  drawRamp(ramp, map.source.table);
}

function placeMap(map) {
  const {x, y, width, downsample} = map.facts;
  viewer.addTiledImage({
    tileSource: map.source,
    x: x / facts.slide.width,
    y: y / facts.slide.width,
    width: width * downsample / facts.slide.width,
    opacity: map.shown ? map.opacity : 0,
    success: ({item}) => {
      map.item = item;
      item.setOpacity(map.shown ? map.opacity : 0);
    },
    error: event => say("problems", `${map.facts.name}: ${event.message}`),
  });
}

// Outlines

function addOutlines() {
  const {section, number, box} = layerSection("Outlines", "o", true, on => {
    outlines.shown = on;
    redraw();
  });
  const hint = element("p", {className: "hint", id: "outline-state"});
  section.append(hint);
  keys.o = () => box.click();
  outlines = new Outlines(addClass, redraw, problem);
  outlines.load().catch(problem);
  showOutlineState = () => {
    number.textContent = outlines.index ? thousands(outlines.number) : "";
    hint.hidden = Boolean(outlines.index) && !(outlines.isTooMany && outlines.shown);
    hint.textContent = outlines.index
      ? `${thousands(outlines.inView)} in view: zoom in to see them.`
      : `Reading them: ${percent(outlines.share)}`;
  };
}

let showOutlineState = () => {};

// Detections

function addDetections() {
  const {section, number, box} = layerSection("Detections", "c", true, on => {
    detections.shown = on;
    redraw();
  });
  keys.c = () => box.click();
  detections = new Detections(facts.detections, classes);
  detections.showNumber = () => {
    const count = detections.count();
    number.textContent = count === detections.number ? thousands(count) : `${thousands(count)} of ${thousands(detections.number)}`;
  };
  const lowest = Math.floor(100 * detections.lowest) / 100;
  slider(section, {id: "threshold", name: "Score from", min: lowest, max: 1, step: 0.01, value: lowest, inWords: value => value.toFixed(2)}, value => {
    detections.threshold = value <= lowest ? detections.lowest : value;
    showSelected();
    redraw();
  });
  find("jump").hidden = false;
  find("next").addEventListener("click", () => jump(1));
  find("previous").addEventListener("click", () => jump(-1));
  keys.n = () => jump(1);
  keys.p = () => jump(-1);
  showSelected();
  detections.load(() => {
    showSelected();
    redraw();
  }).catch(problem);
}

function jump(step) {
  if (detections.step(step)) view.goTo(detections.x[detections.selected], detections.y[detections.selected]);
  showSelected();
  redraw();
}

function showSelected() {
  detections.showNumber();
  const [count, index] = [detections.count(), detections.selected];
  find("next").disabled = find("previous").disabled = count === 0;
  const isThere = index >= 0 && index < detections.end && detections.isVisible(index);
  find("selected").textContent = isThere
    ? `${thousands(detections.count(index) + 1)} of ${thousands(count)}: ${detections.nameOf(index)}, ${detections.score[index].toFixed(3)}`
    : count ? `${thousands(count)} detections` : "no detections";
}

// The stage

function openStage() {
  viewer = OpenSeadragon({
    element: stage,
    tileSources: slideSource({...facts.slide}),
    drawer: "canvas", // works on remote desktops, too
    showNavigationControl: false,
    showNavigator: true,
    navigatorPosition: "TOP_RIGHT",
    ...navigatorSize(),
    navigatorAutoFade: false,
    navigatorBackground: getComputedStyle(stage).backgroundColor,
    navigatorOpacity: 1,
    navigatorDisplayRegionColor: "#d55e00",
    navigatorRotate: false,
    maxZoomPixelRatio: 8,
    visibilityRatio: 0.4,
    animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.7,
    gestureSettingsMouse: {clickToZoom: false, dblClickToZoom: true},
    gestureSettingsTouch: {pinchRotate: false},
    tileRetryMax: 1,
    crossOriginPolicy: false,
  });
  viewer.canvas.append(find("drawing")); // over the tiles, below the small overview
  viewer.canvas.setAttribute("role", "application");
  viewer.canvas.setAttribute("aria-label", "Slide. Drag or use the arrow keys to move, plus and minus to zoom.");
  teachColouring(viewer);
  viewer.addHandler("open", () => {
    view = new View(viewer, stage, facts.slide.width);
    Object.values(maps).forEach(placeMap);
    redraw();
  });
  viewer.addHandler("open-failed", event => say("problems", `The slide cannot be opened: ${event.message}`));
  viewer.addHandler("tile-load-failed", event => { if (event.maxReached) bytes(event.tile.getUrl()).catch(problem); });
  for (const event of ["update-viewport", "animation", "resize"]) viewer.addHandler(event, redraw);
  viewer.addHandler("canvas-click", event => { if (event.quick && detections?.shown) select(event.position); });
  viewer.addHandler("canvas-key", event => {
    // Turned or mirrored, a slide would no longer fit what is drawn over it; j and k are for series of images.
    if (["KeyR", "KeyF", "KeyJ", "KeyK"].includes(event.originalEvent.code)) event.preventDefaultAction = true;
  });
  stage.addEventListener("pointermove", event => point(event));
  stage.addEventListener("pointerleave", () => point(null));
}

// The whole slide, in its proportions, in a corner of the stage.
function navigatorSize() {
  const {width, height} = facts.slide;
  const scale = Math.min(170, 0.3 * stage.clientWidth) / Math.max(width, height);
  return {navigatorWidth: `${Math.max(12, Math.round(scale * width))}px`, navigatorHeight: `${Math.max(12, Math.round(scale * height))}px`};
}

function select({x, y}) {
  const index = detections.nearest(...view.toSlide(x, y), 14 * view.slidePixels);
  if (index < 0) return;
  detections.selected = index;
  showSelected();
  redraw();
}

function point(event) {
  const corner = stage.getBoundingClientRect();
  pointer = event && [event.clientX - corner.left, event.clientY - corner.top];
  if (view) showPosition();
}

function connectButtons() {
  const zoomBy = factor => {
    viewer.viewport.zoomBy(factor);
    viewer.viewport.applyConstraints();
  };
  const whole = () => viewer.viewport.goHome();
  const pixels = () => viewer.viewport.zoomTo(facts.slide.width / stage.clientWidth);
  find("zoom-in").addEventListener("click", () => zoomBy(2));
  find("zoom-out").addEventListener("click", () => zoomBy(0.5));
  find("zoom-whole").addEventListener("click", whole);
  find("zoom-pixels").addEventListener("click", pixels);
  Object.assign(keys, {"+": () => zoomBy(2), "-": () => zoomBy(0.5), 0: whole, 1: pixels});
  find("open-panel").addEventListener("click", () => {
    const isOpen = find("panel").classList.toggle("open");
    find("open-panel").setAttribute("aria-expanded", String(isOpen));
  });
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input[type=range], select")) return;
    const isCanvas = event.target.closest(".openseadragon-canvas");
    if (isCanvas && ["+", "-", "0"].includes(event.key)) return; // OpenSeadragon's own
    const action = event.shiftKey && keys[event.code] ? keys[event.code] : keys[event.key.toLowerCase()];
    if (!action || !view) return;
    event.preventDefault();
    action();
  });
  listKeys([
    ["+ -", "zoom"], ["0", "whole slide"], ["1", "slide pixels as screen pixels"], ["arrows", "move (on the slide)"],
    ...(keys.n ? [["N P", "next, previous detection"], ["C", "detections"]] : []),
    ...(keys.m ? [["M", "areas"]] : []), ...(keys.h ? [["H", "probability"]] : []), ...(keys.o ? [["O", "outlines"]] : []),
    ...(classes.length ? [["Shift+1 ...", "a class"]] : []),
  ]);
}

async function start() {
  facts = await json("facts.json");
  document.title = `${facts.title} - segkit view`;
  find("title").textContent = facts.title;
  facts.notes.forEach(text => say("notes", text));
  facts.classes.forEach(addClass);
  if (facts.detections) addDetections();
  for (const one of facts.maps) maps[one.name] = {facts: one, source: mapSource(one, new Uint32Array(256))};
  openStage();
  if (maps.mask) addMask(maps.mask);
  if (facts.outlines) addOutlines();
  if (maps.probability) addProbability(maps.probability);
  showClasses();
  connectButtons();
  const size = `${thousands(facts.slide.width)} x ${thousands(facts.slide.height)} px`;
  find("about").append(
    `${size}, ${facts.mpp === null ? "micrometres per pixel not known" : `${Number(facts.mpp.toPrecision(4))} µm/px`}. `,
    `segkit ${facts.versions.segkit}, OpenSeadragon ${facts.versions.OpenSeadragon} (`,
    element("a", {href: "licence.txt"}, "licence"), ").",
  );
}

start().catch(problem);
