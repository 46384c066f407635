// Elements, and how those on the page become those that are wanted.

const SVG = 'http://www.w3.org/2000/svg';
const svgTags = new Set(['svg', 'g', 'path', 'circle', 'rect', 'line', 'text', 'title', 'desc']);

// h makes an element: h('a.tile', {href: '#x'}, 'text', child, [children]). What is
// null, undefined or false is left out. A class stands behind the tag.
export function h(spec, attrs, ...children) {
  const [tag, ...classes] = spec.split('.');
  const svg = svgTags.has(tag) && !(tag === 'title' && attrs?.html);
  const el = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (classes.length) el.setAttribute('class', classes.join(' '));
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'class') el.setAttribute('class', [...classes, value].join(' '));
    else if (name === 'style') for (const [k, v] of Object.entries(value)) el.style.setProperty(k, v);
    else if (name === 'paint') el.paint = value;
    else el.setAttribute(name, value === true ? '' : value);
  }
  for (const c of children.flat(Infinity)) {
    if (c === null || c === undefined || c === false) continue;
    el.append(c instanceof Node ? c : String(c));
  }
  return el;
}

// show makes the children of el those that are wanted. What is the same stays the same
// element, so that focus, selection and scroll positions survive an update.
export function show(el, ...wanted) {
  const next = wanted.flat(Infinity).filter((c) => c instanceof Node || c || c === 0)
    .map((c) => (c instanceof Node ? c : document.createTextNode(String(c))));
  const wantedKeys = new Set(next.map((c) => c.dataset?.key));
  const byKey = new Map();
  for (const c of [...el.childNodes]) {
    if (!c.dataset?.key) continue;
    // What has gone goes first: an element that is moved would lose the focus.
    if (wantedKeys.has(c.dataset.key)) byKey.set(c.dataset.key, c);
    else c.remove();
  }
  let at = el.firstChild;
  for (const want of next) {
    let have = want.dataset?.key ? byKey.get(want.dataset.key) : at;
    if (have && have !== at && want.dataset?.key) el.insertBefore(have, at);
    if (have && alike(have, want)) {
      patch(have, want);
      at = have.nextSibling;
      continue;
    }
    el.insertBefore(want, at);
    paint(want);
    if (have && have === at && !have.dataset?.key) {
      at = have.nextSibling;
      have.remove();
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;

function patch(have, want) {
  if (have.nodeType === Node.TEXT_NODE) {
    if (have.data !== want.data) have.data = want.data;
    return;
  }
  for (const a of [...have.attributes]) if (!want.hasAttribute(a.name) && a.name !== 'open') have.removeAttribute(a.name);
  for (const a of want.attributes) {
    if (a.name === 'style') {
      if (have.style.cssText !== want.style.cssText) have.style.cssText = want.style.cssText;
    } else if (have.getAttribute(a.name) !== a.value) have.setAttribute(a.name, a.value);
  }
  if (have.nodeName === 'INPUT' || have.nodeName === 'SELECT') {
    if (have !== document.activeElement && have.value !== want.value && want.hasAttribute('value')) have.value = want.value;
    if (have.nodeName === 'INPUT') return;
  }
  show(have, [...want.childNodes]);
  if (want.paint) {
    have.paint = want.paint;
    have.paint(have);
  }
}

// paint lets canvases draw themselves once they are on the page.
function paint(el) {
  if (el.nodeType !== Node.ELEMENT_NODE) return;
  if (el.paint) el.paint(el);
  for (const c of el.querySelectorAll('canvas')) c.paint?.(c);
}

// count is "1 host", "200 hosts".
export const count = (n, what, many = what + 's') => `${n.toLocaleString('en')} ${n === 1 ? what : many}`;
