"use strict";
// Shows one tile's soft label at a time: of the tile that is pointed at, focused or tapped.
document.documentElement.classList.add("with-script");
for (const image of document.querySelectorAll(".image")) {
  const tiles = [...image.querySelectorAll(".tile")];
  const show = (chosen) => {
    for (const tile of tiles) {
      const label = tile.getAttribute("aria-controls");
      document.getElementById(label).hidden = tile !== chosen;
      tile.setAttribute("aria-pressed", String(tile === chosen));
      for (const origin of image.querySelectorAll(".origin-of")) {
        if (origin.dataset.tile === label) origin.classList.toggle("chosen", tile === chosen && tiles.length > 1);
      }
    }
  };
  for (const tile of tiles) {
    for (const event of ["pointerenter", "focus", "click"]) tile.addEventListener(event, () => show(tile));
  }
  if (tiles.length) show(tiles[0]);
}
