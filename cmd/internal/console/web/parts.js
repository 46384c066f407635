// What several pages show: states, networks, faults, links.

import { h } from './dom.js';

export const pages = 'https://github.com/baize-net/baize/blob/main/docs/';

// A network that is called after a colour has it; the others have the next one of these.
const palette = ['blue', 'violet', 'amber', 'pink', 'teal', 'lime', 'cyan', 'orange'];
const alias = { red: 'pink', green: 'lime', purple: 'violet', yellow: 'amber', black: 'slate', grey: 'slate', white: 'slate' };

// colours gives each network a colour, in the order of their names.
export function colours(networks) {
  const out = new Map();
  const taken = new Set();
  for (const n of networks) {
    const c = palette.includes(n.name) ? n.name : alias[n.name];
    if (c && !taken.has(c)) { out.set(n.name, c); taken.add(c); }
  }
  let i = 0;
  for (const n of networks) {
    if (out.has(n.name)) continue;
    for (let tries = 0; tries < palette.length && taken.has(palette[i % palette.length]); tries++) i++;
    const c = palette[i++ % palette.length];
    out.set(n.name, c);
    taken.add(c);
  }
  return out;
}

const words = { ready: 'ready', down: 'down', unknown: 'unknown' };
export const stateClass = (s) => (s in words ? s : 'other');
export const mark = (status) => h('span.mark', { class: stateClass(status), 'aria-hidden': 'true' });
export const pill = (status) => h('span.pill', { class: stateClass(status) }, mark(status), status);
export const dot = (colour, title) => h('span.dot', { class: 'c-' + colour, title, 'aria-hidden': 'true' });

export const hostLink = (name) => h('a', { href: '#/hosts/' + encodeURIComponent(name) }, name);
export const networkLink = (name, colour) => h('a.net', { href: '#/networks/' + encodeURIComponent(name) },
  dot(colour ?? 'slate'), name);

export const empty = (text) => h('p.empty', null, text);
export const mono = (text) => h('span.mono', null, text);

// facts is a list of names and values; those without a value are left out.
export const facts = (...rows) => h('dl.facts', null, rows.filter(([, v]) => v !== '' && v !== null && v !== undefined)
  .map(([k, v]) => h('div', null, h('dt', null, k), h('dd', null, v))));

export function table(caption, head, rows, attrs) {
  return h('div.scroll', { tabindex: rows.length > 12 ? '0' : null, role: 'region', 'aria-label': caption },
    h('table', attrs, h('thead', null, h('tr', null, head.map((c) => h('th', { scope: 'col' }, c)))),
      h('tbody', null, rows.map((r) => h('tr', null, r.map((c, i) => h('td', { 'data-label': head[i] }, c)))))));
}

export const card = (title, note, ...body) => h('section.card', null,
  h('h2', null, title, note !== null && note !== undefined && h('span.note', null, note)), body);

export const code = (c) => c && h('a.code', {
  href: pages + 'faults.md', target: '_blank', rel: 'noreferrer', title: 'what this code means (documentation, new tab)',
}, c);

// fault is one thing that is wrong, and what to do.
export function fault(f, withLinks = true) {
  return h('li.fault', { class: f.severity, 'data-key': [f.code, f.item, f.what].join('|') },
    h('div.head', null,
      h('span.severity', null, f.severity), code(f.code), h('strong', null, f.item),
      withLinks && f.host && h('span.where', null, hostLink(f.host)),
      withLinks && f.network && h('span.where', null, h('a', { href: '#/networks/' + encodeURIComponent(f.network) }, f.network))),
    h('p', null, f.what),
    f.evidence && h('pre', null, f.evidence),
    f.remedy && h('p.remedy', null, h('span', { 'aria-hidden': 'true' }, '→ '), commands(f.remedy)),
    f.since && h('p.since', null, 'since ', when(f.since)));
}

// commands sets what stands in quotes like 'baize status' as code.
export function commands(text) {
  return text.split(/('(?:baize|systemctl|journalctl|ovs-)[^']*')/).map((part) => (
    part.startsWith("'") && part.length > 2 ? h('code', null, part.slice(1, -1)) : part));
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
export const timeText = (t) => {
  const d = new Date(t);
  return d.toDateString() === new Date().toDateString() ? clock.format(d) : day.format(d);
};
export const when = (t) => h('time', { datetime: t, title: new Date(t).toString() }, timeText(t));

// bigNumber is 255, 65,535 or 2.8 × 10¹⁴.
export function bigNumber(n) {
  if (n < 1e7) return n.toLocaleString('en');
  const e = Math.floor(Math.log10(n));
  const sup = String(e).split('').map((d) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[d]).join('');
  return `${(n / 10 ** e).toFixed(1)} × 10${sup}`;
}

// bits writes bits a second; a negative number is not known.
export function bits(n) {
  if (!(n >= 0)) return '–';
  for (const [unit, of] of [['G', 1e9], ['M', 1e6], ['k', 1e3]]) {
    if (n >= of) return `${(n / of).toFixed(n >= 100 * of ? 0 : n >= 10 * of ? 1 : 2)} ${unit}bit/s`;
  }
  return `${Math.round(n)} bit/s`;
}

// ratesOf finds what goes from a host to a peer and back; null where nobody counts.
export function ratesOf(rates) {
  if (!rates?.links.length) return null;
  const of = new Map(rates.links.flatMap((l) => [[[l.a, l.b, l.encap].join(' '), [l.ab, l.ba]], [[l.b, l.a, l.encap].join(' '), [l.ba, l.ab]]]));
  return (from, to, encap) => of.get([from, to, encap].join(' ')) ?? [-1, -1];
}
