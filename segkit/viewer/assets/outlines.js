// Outlines of objects: only those in view, only as fine as the screen shows.

import {json, pause} from "./facts.js";
import {css} from "./colours.js";

const MOST_IN_VIEW = 8000;
const MOST_KEPT = 40000;
const AT_ONCE = 4;

export class Outlines {
  constructor(classOf, onChange, onProblem) {
    this.classOf = classOf;
    this.onChange = onChange;
    this.onProblem = onProblem;
    this.shown = true;
    this.share = 0;
    this.blocks = new Map(); // by name of the block, those used last at the end: {detail, objects}
    this.wanted = [];
    this.inView = 0;
    this.loading = new Set(); // names of blocks
    this.failed = new Set();
  }

  async load() {
    for (let state = await json("outlines.json"); ; state = await json("outlines.json")) {
      this.share = state.share;
      if (state.share === 1) {
        this.index = state;
        this.classes = state.labels.map(this.classOf);
        this.onChange();
        return;
      }
      this.onChange();
      await pause(500);
    }
  }

  get number() {
    return this.index?.number ?? 0;
  }

  get isTooMany() {
    return this.inView > MOST_IN_VIEW;
  }

  // Choose the blocks that a view needs, and fetch those that are missing.
  look(view) {
    if (!this.index || !this.shown) return;
    const detail = Math.max(0, Math.min(this.index.most_detail, Math.floor(Math.log2(view.slidePixels * this.index.grid))));
    const [left, top, right, bottom] = view.box(0);
    this.wanted = [];
    this.inView = 0;
    this.index.sizes.forEach(({side, columns, counts}, size) => {
      // Objects reach beyond their block by half a block.
      const range = (from, to, most) => [Math.max(0, Math.floor(from / side - 0.5)), Math.min(most - 1, Math.floor(to / side + 0.5))];
      const [firstRow, lastRow] = range(top, bottom, counts.length);
      const [firstColumn, lastColumn] = range(left, right, columns);
      for (let row = firstRow; row <= lastRow; row++) {
        for (let column = firstColumn; column <= lastColumn; column++) {
          if (!counts[row][column]) continue;
          this.inView += counts[row][column];
          this.wanted.push({name: `${size}/${row}/${column}`, detail});
        }
      }
    });
    if (this.isTooMany) this.wanted = [];
    this.fetchMore();
  }

  fetchMore() {
    for (const {name, detail} of this.wanted) {
      if (this.loading.size >= AT_ONCE) return;
      const address = `outlines/${name}/${detail}`;
      if (this.blocks.get(name)?.detail === detail || this.loading.has(name) || this.failed.has(address)) continue;
      this.loading.add(name);
      json(address).then(
        objects => this.keep(name, detail, objects),
        error => {
          this.failed.add(address);
          this.onProblem(error);
        },
      ).finally(() => {
        this.loading.delete(name);
        this.fetchMore();
      });
    }
  }

  keep(name, detail, objects) {
    const unit = 2 ** detail / this.index.grid;
    this.blocks.delete(name);
    this.blocks.set(name, {detail, objects: objects.map(one => ({...one, rings: one.rings.map(ring => positions(ring, unit))}))});
    let kept = [...this.blocks.values()].reduce((sum, block) => sum + block.objects.length, 0);
    const names = new Set(this.wanted.map(one => one.name));
    for (const [old, block] of this.blocks) {
      if (kept <= MOST_KEPT) break;
      if (names.has(old)) continue;
      this.blocks.delete(old);
      kept -= block.objects.length;
    }
    this.onChange();
  }

  draw(context, view) {
    if (!this.index || !this.shown) return;
    const paths = this.classes.map(() => new Path2D());
    for (const {name} of this.wanted) {
      for (const {label, rings} of this.blocks.get(name)?.objects ?? []) {
        if (!this.classes[label].shown) continue;
        for (const ring of rings) trace(paths[label], ring, view);
      }
    }
    paths.forEach((path, label) => {
      context.lineWidth = 3.5;
      context.strokeStyle = "rgb(0 0 0 / 0.45)";
      context.stroke(path);
      context.lineWidth = 2;
      context.strokeStyle = css(this.classes[label].colour);
      context.stroke(path);
    });
  }
}

function positions(steps, unit) {
  const made = new Float64Array(steps.length);
  for (let index = 0; index < steps.length; index++) made[index] = steps[index] * unit + (index < 2 ? 0 : made[index - 2]);
  return made;
}

function trace(path, ring, view) {
  const [x, y] = view.toScreen(ring[0], ring[1]);
  path.moveTo(x, y);
  for (let index = 2; index < ring.length; index += 2) path.lineTo(...view.toScreen(ring[index], ring[index + 1]));
  if (ring.length === 2) path.lineTo(x + 1, y); // smaller than a pixel
  path.closePath();
}
