// The slide and its maps as OpenSeadragon takes them. A map's tiles come as plain values and are coloured here, so that
// another colour needs no other tile.

import {bytes} from "./facts.js";

const VALUES = "segkitValues";

export function teachColouring(viewer) {
  // Values never change, so a copy is the same array; coloured pictures are made of them anew.
  OpenSeadragon.converter.learn(VALUES, VALUES, (_, tile) => tile, 0, 1);
  OpenSeadragon.converter.learn(VALUES, "context2d", (tile, data) => coloured(data, tile.tiledImage.source.table), 1, 1);
  viewer.addHandler("tile-invalidated", async event => {
    const table = event.tiledImage.source.table;
    if (!table) return;
    const data = await event.getData(VALUES);
    if (data && !event.outdated()) await event.setData(coloured(data, table), "context2d");
  });
}

function coloured({values, width, height}, table) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let index = 0; index < values.length; index++) pixels[index] = table[values[index]];
  context.putImageData(image, 0, 0);
  return context;
}

export function slideSource(facts) {
  return source("slide", facts);
}

export function mapSource(facts, table) {
  const made = source(facts.name, facts);
  made.table = table;
  made.hasTransparency = () => true;
  made.downloadTileStart = job => {
    const [halving, row, column] = job.src.split("/").slice(-3).map(Number);
    const side = (size, index) => Math.min(facts.tile, Math.ceil(size / 2 ** halving) - index * facts.tile);
    const [width, height] = [side(facts.width, column), side(facts.height, row)];
    job.userData.stop = new AbortController();
    bytes(job.src, job.userData.stop.signal).then(
      buffer => job.finish({values: new Uint8Array(buffer), width, height}, null, VALUES),
      error => job.fail(error.message, null),
    );
  };
  made.downloadTileAbort = job => job.userData.stop?.abort();
  return made;
}

function source(name, {width, height, halvings, tile}) {
  // OpenSeadragon counts levels so that level k has 2^k pixels for one of level 0; here the last one is the image.
  const made = new OpenSeadragon.TileSource({width, height, tileSize: tile, tileOverlap: 0, minLevel: 0, maxLevel: halvings - 1});
  made.getTileUrl = (level, x, y) => `${name}/${halvings - 1 - level}/${y}/${x}`;
  return made;
}
