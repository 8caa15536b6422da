// Choosing residues with a pointer or by keyboard. One residue is a stop of the Tab key; arrow keys go to the others.
const residues = () => Array.from(element.querySelectorAll("button[data-position]"));
const residueOf = (event) => event.target.closest("button[data-position]");
const isMasked = (residue) => residue.getAttribute("aria-pressed") === "true";

function describe(residue) {
  const detail = element.querySelector(".amlm-detail");
  if (detail) detail.textContent = residue.getAttribute("aria-label");
}

function makeTabStop(residue) {
  for (const other of element.querySelectorAll('button[data-position][tabindex="0"]')) other.tabIndex = -1;
  residue.tabIndex = 0;
}

// The nearest residue of the next line above (-1) or below (1), as the browser has wrapped the lines.
function inNextLine(residue, direction) {
  const here = residue.getBoundingClientRect();
  const others = residues().map((other) => [other, other.getBoundingClientRect()]);
  const beyond = others.filter(([, box]) => direction * (box.top - here.top) > here.height / 2);
  if (!beyond.length) return residue;
  const nearest = Math.min(...beyond.map(([, box]) => direction * box.top));
  const line = beyond.filter(([, box]) => direction * box.top < nearest + here.height / 2);
  line.sort((one, two) => Math.abs(one[1].left - here.left) - Math.abs(two[1].left - here.left));
  return line[0][0];
}

let clicks = 0;
let answered = 0;
let patience = 0; // a timer

// Send what is masked. If no answer comes, the same is asked again, later each time.
function choose(seconds = 5) {
  const positions = residues().filter(isMasked).map((one) => Number(one.dataset.position));
  trigger("choose", { positions, number: clicks });
  clearTimeout(patience);
  patience = setTimeout(() => answered < clicks && choose(2 * seconds), 1000 * seconds);
}

element.addEventListener("click", (event) => {
  const residue = residueOf(event);
  if (!residue) return;
  residue.setAttribute("aria-pressed", String(!isMasked(residue)));
  makeTabStop(residue);
  clicks += 1; // a browser may deliver quick clicks in another order
  choose();
});

element.addEventListener("keydown", (event) => {
  const residue = residueOf(event);
  if (!residue || event.ctrlKey || event.altKey || event.metaKey) return;
  const all = residues();
  const at = all.indexOf(residue);
  const target = {
    ArrowRight: () => all[Math.min(at + 1, all.length - 1)],
    ArrowLeft: () => all[Math.max(at - 1, 0)],
    ArrowDown: () => inNextLine(residue, 1),
    ArrowUp: () => inNextLine(residue, -1),
    Home: () => all[0],
    End: () => all[all.length - 1],
  }[event.key];
  if (!target) return;
  event.preventDefault();
  const next = target();
  makeTabStop(next);
  next.focus();
});

for (const kind of ["focusin", "mouseover"]) {
  element.addEventListener(kind, (event) => {
    const residue = residueOf(event);
    if (residue) describe(residue);
  });
}

watch("answered", () => {
  answered = props.answered;
});

// Positions that were written into the text field. Each answer has another number, so that it is seen as new.
watch("masked", () => {
  const masked = new Set(props.masked.positions);
  for (const residue of residues()) {
    residue.setAttribute("aria-pressed", String(masked.has(Number(residue.dataset.position))));
  }
});
