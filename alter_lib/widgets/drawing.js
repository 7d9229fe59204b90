// The drawing of a plan. A cell of the heat map that is pointed at, clicked or reached by the keyboard is named below:
// layer, MACs, share. A click, and Enter or Space on a focused cell, tell the kernel which cell it was.
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const HINT = "Point at a cell, click it, or Tab to it and use the arrow keys: it is named here.";

function render({ model, el }) {
  const picture = document.createElement("div");
  const named = document.createElement("div");
  picture.setAttribute("data-lm-suppress-shortcuts", "true"); // else JupyterLab takes the arrow keys
  named.className = "alter-named";
  named.setAttribute("aria-live", "polite");
  named.textContent = HINT;
  el.append(picture, named);

  let cells = []; // [expert][layer]
  let at = [0, 0]; // the one cell that Tab reaches

  const cellAt = ([expert, layer]) => cells[expert][layer];
  const name = cell => { named.textContent = cell.querySelector("title").textContent; };

  function placeOf(node) {
    const cell = node.closest(".masks g");
    const expert = cells.findIndex(row => row.includes(cell));
    return expert < 0 ? null : [expert, cells[expert].indexOf(cell)];
  }

  function moveTo(place, focus = true) {
    cellAt(at).setAttribute("tabindex", "-1");
    at = place;
    cellAt(at).setAttribute("tabindex", "0");
    if (focus) cellAt(at).focus({ preventScroll: true });
    name(cellAt(at));
  }

  function draw() {
    const hadFocus = picture.contains(document.activeElement), isNamed = named.textContent !== HINT;
    picture.innerHTML = model.get("value");
    cells = [...picture.querySelectorAll(".masks")].map(row => [...row.querySelectorAll("g")]);
    for (const cell of cells.flat()) {
      cell.setAttribute("tabindex", "-1");
      cell.setAttribute("role", "button");
    }
    cellAt(at).setAttribute("tabindex", "0");
    if (hadFocus || isNamed) moveTo(at, hadFocus);
  }

  function press(place) {
    moveTo(place);
    model.send({ expert: place[0], layer: place[1] });
  }

  picture.addEventListener("pointermove", event => {
    const place = placeOf(event.target);
    if (place) name(cellAt(place));
  });
  picture.addEventListener("click", event => {
    const place = placeOf(event.target);
    if (place) press(place);
  });
  picture.addEventListener("keydown", event => {
    const place = placeOf(event.target), step = ARROWS[event.key];
    if (!place || !(step || event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    event.stopPropagation();
    if (!step) return press(place);
    const within = (value, length) => Math.max(0, Math.min(value, length - 1));
    const expert = within(place[0] + step[0], cells.length);
    moveTo([expert, within(place[1] + step[1], cells[expert].length)]);
  });
  model.on("change:value", draw);
  draw();
  return () => model.off("change:value", draw);
}

export default { render };
