// Where the slide lies on the screen, in level-0 pixels of the slide and CSS pixels of the stage; and what is drawn over it.

export class View {
  constructor(viewer, stage, width) {
    this.viewer = viewer;
    this.stage = stage;
    this.width = width;
    this.update();
  }

  update() {
    const bounds = this.viewer.viewport.getBounds(true);
    this.slidePixels = bounds.width * this.width / this.stage.clientWidth; // of the slide per CSS pixel
    this.left = bounds.x * this.width;
    this.top = bounds.y * this.width;
  }

  toScreen(x, y) {
    return [(x - this.left) / this.slidePixels, (y - this.top) / this.slidePixels];
  }

  toSlide(x, y) {
    return [this.left + x * this.slidePixels, this.top + y * this.slidePixels];
  }

  // Left, top, right and bottom of what is seen, and so many CSS pixels around it.
  box(margin) {
    return [
      ...this.toSlide(-margin, -margin), ...this.toSlide(this.stage.clientWidth + margin, this.stage.clientHeight + margin),
    ];
  }

  // Show a position in the middle, no further away than one slide pixel for one screen pixel.
  goTo(x, y) {
    const {viewport} = this.viewer;
    if (this.slidePixels > 1) viewport.zoomTo(this.width / this.stage.clientWidth);
    viewport.panTo(new OpenSeadragon.Point(x / this.width, y / this.width));
    viewport.applyConstraints();
  }
}

export function prepareCanvas(canvas, stage) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(stage.clientWidth * ratio), Math.round(stage.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, stage.clientWidth, stage.clientHeight);
  return context;
}

export function drawRegion(context, view, [x, y, width, height]) {
  const [left, top] = view.toScreen(x, y);
  for (const [colour, dashes] of [["rgb(255 255 255 / 0.8)", []], ["#000", [6, 6]]]) {
    context.lineWidth = 1.5;
    context.strokeStyle = colour;
    context.setLineDash(dashes);
    context.strokeRect(left, top, width / view.slidePixels, height / view.slidePixels);
  }
  context.setLineDash([]);
}

// The longest round length (1, 2 or 5 times a power of ten) that fits: its width in CSS pixels, and in words.
export function scaleBar(view, mpp, longest) {
  const unit = mpp ?? 1;
  const most = longest * view.slidePixels * unit;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map(factor => factor * power).find(one => one <= most * (1 + 1e-9));
  return {width: length / (view.slidePixels * unit), text: mpp === null ? `${number(length)} px` : inMicrometres(length)};
}

function inMicrometres(length) {
  if (length >= 1000) return `${number(length / 1000)} mm`;
  return length < 1 ? `${number(length * 1000)} nm` : `${number(length)} µm`;
}

const number = value => String(Number(value.toPrecision(3)));

export function positionInWords([x, y], mpp, {width, height}) {
  if (x < 0 || y < 0 || x >= width || y >= height) return "outside of the slide";
  const pixels = `x ${Math.floor(x)}, y ${Math.floor(y)} px`;
  return mpp === null ? pixels : `${pixels} (${(x * mpp).toFixed(1)}, ${(y * mpp).toFixed(1)} µm)`;
}
