// Points with scores, by falling score. They come in parts and are drawn as they come.

import {bytes} from "./facts.js";
import {css} from "./colours.js";

const MOST_DRAWN = 5000;
const RADIUS = 9;
// Many in view are drawn smaller, so that the tissue stays to be seen: up to so many, with this radius.
const RADII = [[150, RADIUS], [600, 6], [1500, 4], [MOST_DRAWN, 2.5]];

export class Detections {
  constructor({number, at_once, lowest}, classes) {
    this.number = number;
    this.atOnce = at_once;
    this.lowest = lowest;
    this.threshold = lowest;
    this.classes = classes;
    this.shown = true;
    this.loaded = 0;
    this.selected = -1;
    this.x = new Float32Array(number);
    this.y = new Float32Array(number);
    this.score = new Float32Array(number);
    this.cls = new Uint8Array(number);
  }

  async load(onPart) {
    for (let part = 0; this.loaded < this.number; part++) {
      const buffer = await bytes(`detections/${part}`);
      const count = buffer.byteLength / 13;
      const column = index => new Float32Array(buffer, 4 * count * index, count);
      this.x.set(column(0), this.loaded);
      this.y.set(column(1), this.loaded);
      this.score.set(column(2), this.loaded);
      this.cls.set(new Uint8Array(buffer, 12 * count, count), this.loaded);
      this.loaded += count;
      onPart();
    }
  }

  // The first one below the threshold; those before it reach it.
  get end() {
    let [low, high] = [0, this.loaded];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.score[middle] >= this.threshold) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  isVisible(index) {
    return this.classes[this.cls[index] - 1].shown;
  }

  // How many are shown, and how many of them come before one.
  count(before = this.end) {
    let count = 0;
    for (let index = 0; index < before; index++) count += this.isVisible(index);
    return count;
  }

  // Select the next one (step 1) or the previous one (-1) of those that are shown; around the ends.
  step(step) {
    const end = this.end;
    for (let tries = 0, index = this.selected; tries < end; tries++) {
      index = index < 0 || index >= end ? (step > 0 ? 0 : end - 1) : (index + step + end) % end;
      if (this.isVisible(index)) {
        this.selected = index;
        return true;
      }
    }
    this.selected = -1;
    return false;
  }

  nearest(x, y, reach) {
    let [best, distance] = [-1, reach * reach];
    for (let index = 0, end = this.end; index < end; index++) {
      const square = (this.x[index] - x) ** 2 + (this.y[index] - y) ** 2;
      if (square <= distance && this.isVisible(index)) [best, distance] = [index, square];
    }
    return best;
  }

  // Those that are seen, the highest scores where they are too many.
  inView(view) {
    const [left, top, right, bottom] = view.box(RADIUS);
    const found = [];
    for (let index = 0, end = this.end; index < end && found.length < MOST_DRAWN; index++) {
      const [x, y] = [this.x[index], this.y[index]];
      if (x >= left && x <= right && y >= top && y <= bottom && this.isVisible(index)) found.push(index);
    }
    return found;
  }

  nameOf(index) {
    return this.classes[this.cls[index] - 1].name;
  }

  draw(context, view) {
    if (!this.shown) return;
    const inView = this.inView(view);
    const radius = RADII.find(([most]) => inView.length <= most)[1];
    const paths = this.classes.map(() => new Path2D());
    for (const index of inView) {
      const [x, y] = view.toScreen(this.x[index], this.y[index]);
      const path = paths[this.cls[index] - 1];
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, 2 * Math.PI);
    }
    // A dark ring below the coloured one: seen on white glass and on dark nuclei.
    paths.forEach((path, number) => {
      context.lineWidth = radius > 4 ? 4 : 2;
      context.strokeStyle = "rgb(0 0 0 / 0.7)";
      context.stroke(path);
      context.lineWidth = radius > 4 ? 2 : 1;
      context.strokeStyle = css(this.classes[number].colour);
      context.stroke(path);
    });
    if (this.selected >= 0 && this.selected < this.end && this.isVisible(this.selected)) this.drawSelected(context, view);
  }

  drawSelected(context, view) {
    const [x, y] = view.toScreen(this.x[this.selected], this.y[this.selected]);
    for (const [width, colour] of [[6, "#000"], [3, "#fff"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.beginPath();
      context.arc(x, y, 2 * RADIUS, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}
