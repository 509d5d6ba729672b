// Tables of 256 colours, as 32-bit numbers that canvases take (little-endian: alpha, blue, green, red).

const pixel = (red, green, blue, alpha = 255) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

export const css = ([red, green, blue], alpha = 1) => `rgb(${red} ${green} ${blue} / ${alpha})`;

// Every 32nd of matplotlib's colours; those between are mixed.
const ANCHORS = {
  viridis: [
    [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50],
    [253, 231, 37],
  ],
  magma: [
    [0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135],
    [252, 253, 191],
  ],
  grey: [[0, 0, 0], [255, 255, 255]],
};

export const RAMPS = {heat: "Heat, clear where low", viridis: "Viridis", magma: "Magma", grey: "Grey"};

// A probability's colour. Heat is one colour that becomes denser, so that the tissue stays to be seen.
export function probabilityTable(name, hiddenBelow) {
  const table = new Uint32Array(256);
  for (let value = 0; value < 256; value++) {
    if (value / 255 < hiddenBelow) continue;
    table[value] = name === "heat" ? pixel(213, 60, 0, value) : pixel(...mixed(ANCHORS[name], value / 255));
  }
  return table;
}

function mixed(anchors, share) {
  const at = share * (anchors.length - 1);
  const first = Math.min(Math.floor(at), anchors.length - 2);
  return anchors[first].map((low, channel) => Math.round(low + (anchors[first + 1][channel] - low) * (at - first)));
}

export function classTable(classes) {
  const table = new Uint32Array(256);
  classes.forEach((one, number) => { if (one.shown) table[number + 1] = pixel(...one.colour); });
  return table;
}

export function drawRamp(canvas, table) {
  const context = canvas.getContext("2d");
  canvas.width = 256;
  canvas.height = 1;
  const image = context.createImageData(256, 1);
  new Uint32Array(image.data.buffer).set(table);
  context.putImageData(image, 0, 0);
}
