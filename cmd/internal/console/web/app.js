// The page: what is known, where we are, and what keys do.

import { h, show, count } from './dom.js';
import { ask, follow, setToken, takeToken } from './stream.js';
import { colours, empty, mark } from './parts.js';
import { inspected, map } from './map.js';
import * as records from './records.js';
import * as panels from './panels.js';

const $ = (id) => document.getElementById(id);
const known = {}; // sections by name
const ui = {
  filter: { text: '', network: '', trouble: false }, hover: '', tunnels: new Map(), trace: {},
  colour: (n) => ui.colours?.get(n) ?? 'slate', agent: null, link: 'connecting', heard: null, why: '',
};

// tabs are the pages, in their order; those of a panel are there when it is.
const tabs = [
  { name: 'Map', at: '', page: () => map(known.state, ui) },
  { name: 'Networks', at: 'networks', page: (a) => (a ? records.network(known.state, ui, a) : records.networks(known.state, ui)) },
  { name: 'Faults', at: 'faults', page: () => records.faults(known.state), badge: () => known.state?.faults.length },
  { name: 'Latency', at: 'latency', panel: 'latency', page: () => panels.latency(known.latency, ui) },
  { name: 'Doctor', at: 'doctor', panel: 'findings', page: () => panels.findings(known.findings) },
  { name: 'Trace', at: 'trace', panel: 'trace', page: () => panels.trace(known.state, ui) },
  { name: 'Events', at: 'events', panel: 'events', page: () => panels.events(known.events) },
];
const there = () => tabs.filter((t) => !t.panel || known.state?.panels.includes(t.panel));

function where() {
  const [page = '', arg] = location.hash.replace(/^#\/?/, '').split('/').map((p) => {
    try { return decodeURIComponent(p); } catch { return p; }
  });
  return { page, arg };
}

let drawn = '';
function draw() {
  const { page, arg } = where();
  show($('top'), header());
  show($('tabs'), there().map((t, i) => h('a', {
    href: '#/' + t.at, 'data-key': t.name, 'aria-current': (t.at === page || (page === 'hosts' && t.at === '')) ? 'page' : null, 'aria-keyshortcuts': String(i + 1),
  }, t.name, t.badge?.() > 0 && h('span.badge', null, t.badge()))));
  show($('notice'), notice());
  if (ui.link === 'denied') show($('main'), door());
  else if (!known.state) show($('main'), empty(ui.link === 'lost' ? 'No answer yet: ' + ui.why : 'Reading the topology from etcd…'));
  else if (page === 'hosts' && arg) show($('main'), records.host(known.state, ui, arg));
  else {
    const tab = there().find((t) => t.at === page);
    show($('main'), tab ? tab.page(arg) : empty('There is no such page.'));
  }
  highlight();
  document.title = [arg || (page && page[0].toUpperCase() + page.slice(1)), 'Baize'].filter(Boolean).join(' · ');
  if (drawn !== page + '/' + arg) document.querySelector('#tabs [aria-current]')?.scrollIntoView({ inline: 'center', block: 'nearest' });
  if (drawn !== page + '/' + arg && drawn !== '') {
    scrollTo(0, 0);
    if (!$('main').contains(document.activeElement)) $('main').focus({ preventScroll: true });
  }
  drawn = page + '/' + arg;
}

function header() {
  const s = known.state;
  const ready = s?.hosts.filter((x) => x.status === 'ready').length;
  const down = s?.hosts.filter((x) => x.status === 'down').length;
  return [
    h('a.brand', { href: '#/', 'aria-label': 'Baize, to the map' }, h('img', { src: 'icon.svg', alt: '', width: 28, height: 28 }), h('span', null, 'Baize')),
    h('ul.summary', { 'aria-label': 'The cluster' }, s && [
      h('li', null, mark('ready'), h('b', null, ready), h('span', null, 'ready')),
      down > 0 && h('li', { 'data-key': 'down' }, mark('down'), h('b', null, down), h('span', null, 'down')),
      h('li.wide', { 'data-key': 'nets' }, h('b', null, s.networks.length), h('span', null, s.networks.length === 1 ? 'network' : 'networks')),
      h('li', { 'data-key': 'faults', class: s.faults.length ? 'bad' : '' }, h('a', { href: '#/faults' }, h('b', null, s.faults.length), h('span', null, s.faults.length === 1 ? 'fault' : 'faults'))),
    ]),
    h('div.tools', null,
      h('span.live', { class: ui.link === 'live' && !s?.stale ? 'on' : 'off', title: s ? `etcd revision ${s.revision}; Baize ${s.version}` : '' }, h('i', { 'aria-hidden': 'true' }),
        ui.link === 'live' ? (s?.stale ? 'stale' : 'live') : ui.link),
      h('button.tool', { 'data-act': 'theme', 'aria-label': 'Dark or light', title: 'dark or light (t)' }, '◐'),
      h('button.tool', { 'data-act': 'keys', 'aria-label': 'Keys', title: 'keys (?)' }, '?')),
  ];
}

function notice() {
  if (ui.link === 'lost') {
    return h('p.notice.bad', null, h('strong', null, 'Connection lost: '), ui.why, '. ',
      ui.heard ? `This is how it was at ${ui.heard.toLocaleTimeString('en-GB')}. ` : '', 'Trying again…');
  }
  if (ui.link === 'live' && known.state?.stale) {
    return h('p.notice', null, h('strong', null, `As of revision ${known.state.revision}: `), known.state.stale);
  }
  return null;
}

const door = () => h('form.door', { 'data-form': 'token' }, h('h1', null, 'This console asks for a token'),
  h('p', null, 'It is in the file that was given to it with --token-file.'), ui.why && h('p.bad', { role: 'alert' }, ui.why),
  h('label', null, h('span', null, 'token'), h('input', { id: 'token', type: 'password', autocomplete: 'off', required: true })),
  h('button.primary', { type: 'submit' }, 'Open'));

// highlight shows whom the host under the pointer has tunnels to.
function highlight() {
  const box = document.querySelector('.segments');
  if (!box || !known.state) return;
  const peers = new Set();
  if (ui.hover) for (const n of known.state.networks) if (n.members.includes(ui.hover)) n.members.forEach((m) => peers.add(m));
  box.classList.toggle('pointed', peers.size > 0);
  for (const t of box.querySelectorAll('.tile')) t.classList.toggle('peer', peers.has(t.dataset.host));
}

function hover(name) {
  if (name === ui.hover) return;
  ui.hover = name;
  if ($('inspector')) {
    show($('inspector'), inspected(known.state, ui));
    highlight();
  } else if (document.querySelector('.ring')) later();
}

let due = 0;
function later() { due ||= requestAnimationFrame(() => { due = 0; draw(); }); }

// --- what people do

function toggleTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  setTheme(dark ? 'light' : 'dark');
}
function setTheme(t) {
  document.documentElement.dataset.theme = t;
  try { localStorage.setItem('baize-theme', t); } catch { /* a browser may refuse */ }
  later();
}

const acts = {
  network: (n) => { ui.filter.network = ui.filter.network === n ? '' : n; later(); },
  trouble: () => { ui.filter.trouble = !ui.filter.trouble; later(); },
  theme: toggleTheme,
  keys: () => keys(),
  open: (href) => { location.hash = href; },
  close: () => $('keys').close(),
};

addEventListener('click', (e) => {
  const el = e.target.closest('[data-act]');
  if (el) acts[el.dataset.act](el.dataset.arg);
});
addEventListener('input', (e) => {
  if (e.target.id === 'search') { ui.filter.text = e.target.value; later(); }
});
addEventListener('pointerover', (e) => {
  if (e.pointerType === 'touch') return;
  hover(e.target.closest?.('[data-host]')?.dataset.host ?? (document.activeElement?.dataset?.host || ''));
});
addEventListener('pointermove', (e) => {
  if (!e.target.matches?.('[data-cells]')) return;
  const r = e.target.getBoundingClientRect();
  ui.cell = e.target.tell?.((e.clientX - r.left) / r.width, (e.clientY - r.top) / r.height);
  if ($('cell')) $('cell').textContent = ui.cell;
});
addEventListener('focusin', (e) => hover(e.target.dataset?.host ?? ''));
addEventListener('submit', async (e) => {
  e.preventDefault();
  if (e.target.dataset.form === 'token') {
    setToken($('token').value);
    connection.again();
  } else if (e.target.dataset.form === 'trace' && !ui.tracing) await runTrace();
});

async function runTrace() {
  ui.trace = Object.fromEntries(['from', 'to', 'protocol', 'port'].map((k) => [k, $(k).value.trim()]));
  if (ui.trace.protocol === 'icmp') ui.trace.port = '';
  [ui.tracing, ui.traceError, ui.traced] = [true, '', null];
  draw();
  try {
    ui.traced = await ask('trace?' + new URLSearchParams(ui.trace));
  } catch (err) {
    ui.traceError = err.message;
  }
  ui.tracing = false;
  draw();
}

function keys() {
  const rows = [['/', 'find a host'], ['← ↑ → ↓', 'walk through hosts'], ['Enter', 'open'], ['Esc', 'close, clear, back to the map'],
    ['1 – ' + there().length, there().map((t) => t.name).join(', ')], ['t', 'dark or light'], ['?', 'these keys']];
  show($('keys'), h('h2', { id: 'keys-title' }, 'Keys'), h('dl.keys', null, rows.map(([k, what]) => h('div', null, h('dt', null, h('kbd', null, k)), h('dd', null, what)))),
    h('button.primary', { 'data-act': 'close' }, 'Close'));
  if (!$('keys').open) $('keys').showModal();
}

addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || $('keys').open) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.nodeName);
  if (e.key === 'Escape') escape(typing);
  else if (e.key.startsWith('Arrow')) {
    if (typing && !(document.activeElement.id === 'search' && e.key === 'ArrowDown')) return;
    if (walk(e.key.slice(5))) e.preventDefault();
  } else if (typing) {
    if (e.key === 'Enter' && document.activeElement.id === 'search') walk('Down')?.click();
  } else if (e.key === '/') {
    e.preventDefault();
    if (where().page !== '') { location.hash = '#/'; draw(); }
    $('search')?.focus();
  } else if (e.key === '?') keys();
  else if (e.key === 't') toggleTheme();
  else if (/^[1-9]$/.test(e.key) && there()[e.key - 1]) location.hash = '#/' + there()[e.key - 1].at;
});

function escape(typing) {
  if (typing && document.activeElement.id === 'search') {
    ui.filter.text = '';
    document.activeElement.value = '';
    document.activeElement.blur();
    later();
  } else if (typing) document.activeElement.blur();
  else if (ui.filter.network || ui.filter.trouble || ui.filter.text) {
    ui.filter = { text: '', network: '', trouble: false };
    if ($('search')) $('search').value = '';
    later();
  } else if (where().page !== '') location.hash = '#/';
}

// walk moves the focus to the nearest stop in a direction, by where they are on the page.
function walk(direction) {
  const stops = [...document.querySelectorAll('[data-walk] [data-stop]')];
  if (!stops.length) return null;
  const now = document.activeElement;
  let best = stops[0];
  if (stops.includes(now)) {
    const from = now.getBoundingClientRect();
    const [dx, dy] = { Left: [-1, 0], Right: [1, 0], Up: [0, -1], Down: [0, 1] }[direction];
    best = null;
    let least = Infinity;
    for (const s of stops) {
      if (s === now) continue;
      const to = s.getBoundingClientRect();
      const [x, y] = [to.left + to.width / 2 - from.left - from.width / 2, to.top - from.top];
      const ahead = x * dx + y * dy;
      const aside = Math.abs(x * dy) + Math.abs(y * dx);
      if (ahead < 4 || (dx && aside > from.height)) continue;
      if (ahead + 3 * aside < least) [least, best] = [ahead + 3 * aside, s];
    }
    if (!best && dx) best = stops[stops.indexOf(now) + dx]; // the next line
  }
  best?.focus();
  best?.scrollIntoView({ block: 'nearest' });
  return best;
}

// --- what comes

async function fetchTunnels() {
  const { page, arg } = where();
  if (page !== 'hosts' || !arg || !known.state) return;
  try {
    ui.tunnels.set(arg, await ask('hosts/' + encodeURIComponent(arg)));
  } catch (e) {
    ui.tunnels.set(arg, { error: e.message });
  }
  later();
}

takeToken();
try {
  const t = localStorage.getItem('baize-theme');
  if (t) document.documentElement.dataset.theme = t;
} catch { /* a browser may refuse */ }
addEventListener('hashchange', () => {
  if (/[#&]token=/.test(location.hash)) { takeToken(); connection.again(); }
  ui.hover = '';
  draw();
  fetchTunnels();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', later);

const connection = follow((name, value) => {
  known[name] = value;
  if (name === 'state') {
    ui.colours = colours(value.networks);
    fetchTunnels();
  }
  if (name === 'agent') ui.agent = value;
  if (name === 'rates') ui.rates = value;
  later();
}, (link, why) => {
  if (link === 'live') ui.heard = new Date();
  if (link === ui.link && (why ?? '') === ui.why) return;
  [ui.link, ui.why] = [link, why ?? ''];
  later();
});
draw();
