// The map: hosts by segment of the underlay, and the tunnels where they are few.

import { h, count } from './dom.js';
import { bits, card, dot, empty, mark, ratesOf, stateClass } from './parts.js';

// chosen are the hosts that the filters leave.
export function chosen(state, filter) {
  const text = filter.text.trim().toLowerCase();
  const inNetwork = filter.network && new Set(state.networks.find((n) => n.name === filter.network)?.members ?? []);
  return state.hosts.filter((x) => (!inNetwork || inNetwork.has(x.name))
    && (!filter.trouble || x.status !== 'ready' || state.faults.some((f) => f.host === x.name))
    && (!text || [x.name, x.hostname, x.version, ...x.vteps, ...x.leases.map((l) => l.prefix)]
      .some((v) => v?.toLowerCase().includes(text))));
}

export function map(state, ui) {
  const hosts = chosen(state, ui.filter);
  const few = state.hosts.length <= 12 && state.tunnels;
  return [
    toolbar(state, ui, hosts.length),
    h('div.layout', { class: few ? 'few' : 'many' },
      h('div.segments', { 'data-walk': '' }, segments(state, ui, hosts, few),
        hosts.length === 0 && empty(state.hosts.length ? 'No host matches.' : 'No host has joined yet: start an agent.')),
      few && hosts.length > 1 ? ring(state, ui, hosts) : inspector(state, ui)),
  ];
}

function toolbar(state, ui, shown) {
  const f = ui.filter;
  const trouble = state.hosts.filter((x) => x.status !== 'ready').length;
  return h('div.toolbar', null,
    h('label.search', null, h('span.sr', null, 'Find a host'),
      h('input', {
        id: 'search', type: 'search', placeholder: 'Find a host, address or subnet', value: f.text, autocomplete: 'off', spellcheck: 'false',
      }), h('kbd', { 'aria-hidden': 'true' }, '/')),
    h('div.chips', { role: 'group', 'aria-label': 'Only one network' }, state.networks.map((n) => h('button.chip', {
      'data-act': 'network', 'data-arg': n.name, 'data-key': 'n-' + n.name, 'aria-pressed': String(f.network === n.name),
    }, dot(ui.colour(n.name)), n.name, h('span.n', null, n.members.length))),
    trouble > 0 && h('button.chip', { 'data-act': 'trouble', 'data-key': 'trouble', 'aria-pressed': String(f.trouble) },
      mark('down'), 'not ready', h('span.n', null, trouble))),
    h('p.shown', null, shown === state.hosts.length ? count(shown, 'host') : `${shown} of ${count(state.hosts.length, 'host')}`));
}

function segments(state, ui, hosts, few) {
  const groups = Map.groupBy ? Map.groupBy(hosts, (x) => x.segment) : groupBy(hosts);
  const faults = new Set(state.faults.map((f) => f.host));
  return [...groups].map(([name, list]) => {
    const bad = list.filter((x) => x.status !== 'ready').length;
    return h('section.segment', { 'data-key': name, 'aria-label': 'segment ' + name },
      h('h2', null, h('span.mono', null, name), h('span.note', null, count(list.length, 'host'),
        bad > 0 && h('span.bad', null, `${bad} not ready`))),
      h('div.tiles', null, list.map((x) => tile(x, ui, faults.has(x.name), few))));
  });
}

function groupBy(hosts) {
  const out = new Map();
  for (const x of hosts) out.set(x.segment, [...(out.get(x.segment) ?? []), x]);
  return out;
}

function tile(x, ui, faulty, few) {
  const networks = [...new Set(x.leases.map((l) => l.network))];
  return h('a.tile', {
    class: stateClass(x.status) + (faulty && x.status === 'ready' ? ' faulty' : ''), href: '#/hosts/' + encodeURIComponent(x.name),
    'data-key': x.name, 'data-host': x.name, 'data-stop': '',
    'aria-label': `${x.name}, ${x.status}, ${networks.length ? 'in ' + networks.join(', ') : 'in no network'}${faulty ? ', with a fault' : ''}`,
  }, mark(x.status), h('span.name', null, x.name),
  h('span.address', null, x.vteps[0] ?? 'no address'),
  h('span.dots', null, networks.slice(0, 6).map((n) => dot(ui.colour(n), n)),
    networks.length > 6 && h('span.more', null, '+' + (networks.length - 6))),
  few && x.leases.length > 0 && h('span.leases', null, x.leases.slice(0, 6).map((l) => [dot(ui.colour(l.network)), h('span', null, l.prefix)])));
}

// inspector tells of the host under the pointer or the focus. It never moves the page.
function inspector(state, ui) {
  return h('aside.inspector', { 'aria-label': 'the host pointed at' }, h('div', { id: 'inspector' }, inspected(state, ui)));
}

export function inspected(state, ui) {
  const x = state.hosts.find((y) => y.name === ui.hover);
  if (!x) {
    const down = state.hosts.filter((y) => y.status !== 'ready');
    return [h('h2', null, 'At a glance'),
      h('dl.facts.narrow', null, state.networks.map((n) => h('div', null, h('dt', null, dot(ui.colour(n.name)), n.name),
        h('dd', null, meshText(n))))),
      down.length > 0 && h('div.downlist', null, h('h3', null, 'Not ready'), h('ul', null, down.slice(0, 8).map((y) => h('li', null,
        h('a', { href: '#/hosts/' + encodeURIComponent(y.name) }, mark(y.status), y.name)))),
      down.length > 8 && h('p.hint', null, `and ${down.length - 8} more`)),
      h('p.hint', null, 'Point at a host, or walk with the arrow keys, to see its tunnels.')];
  }
  const nets = state.networks.filter((n) => n.members.includes(x.name));
  return [h('h2', null, mark(x.status), x.name),
    h('dl.facts.narrow', null,
      h('div', null, h('dt', null, 'state'), h('dd', null, x.status)),
      x.vteps.map((a) => h('div', null, h('dt', null, 'VTEP'), h('dd.mono', null, a))),
      nets.map((n) => h('div', null, h('dt', null, dot(ui.colour(n.name)), n.name), h('dd', null, toOthers(n))))),
    state.faults.filter((f) => f.host === x.name).slice(0, 3).map((f) => h('p.trouble', { class: f.severity }, f.what)),
    h('p.hint', null, 'Enter opens its page.')];
}

const tunnelled = (n) => n.transport !== 'route';
const toOthers = (n) => (tunnelled(n)
  ? `${n.transport}, ${count(n.members.length - 1, 'peer')}` : `routed, ${count(n.members.length - 1, 'peer')}`);
export const meshText = (n) => (n.members.length < 2 ? count(n.members.length, 'host')
  : `${n.members.length} hosts, ${tunnelled(n) ? count(pairs(n), n.transport + ' tunnel') : 'routed'}`);
const pairs = (n) => (n.members.length * (n.members.length - 1)) / 2;

// ring draws few hosts on a circle with an arc for each tunnel and network.
function ring(state, ui, hosts) {
  const w = 560;
  const height = hosts.length <= 4 ? 360 : 430;
  const [cx, cy, rx, ry] = [w / 2, height / 2 + (hosts.length === 3 ? 28 : 0), 195, height / 2 - (hosts.length === 3 ? 42 : 60)];
  const at = new Map(hosts.map((x, i) => {
    const a = -Math.PI / 2 + (2 * Math.PI * i) / hosts.length;
    return [x.name, [cx + rx * Math.cos(a), cy + ry * Math.sin(a)]];
  }));
  const lines = state.tunnels.filter((t) => at.has(t.a) && at.has(t.b)).flatMap((t) => t.networks
    .filter((n) => !ui.filter.network || n === ui.filter.network).map((n) => ({ ...t, network: n })));
  const order = new Map();
  const rates = ratesOf(ui.rates);
  const arc = (t) => {
    const [ab, ba] = rates?.(t.a, t.b, t.encap) ?? [-1, -1];
    const pair = t.a + ' ' + t.b;
    const i = order.get(pair) ?? 0;
    order.set(pair, i + 1);
    const [[x1, y1], [x2, y2]] = [at.get(t.a), at.get(t.b)];
    const [mx, my] = [(x1 + x2) / 2, (y1 + y2) / 2];
    const long = Math.hypot(x2 - x1, y2 - y1) || 1;
    const bend = 18 + i * 22;
    const out = (mx - cx) * (y1 - y2) + (my - cy) * (x2 - x1) < 0 ? -1 : 1;
    const [qx, qy] = [mx + (out * bend * (y1 - y2)) / long, my + (out * bend * (x2 - x1)) / long];
    const down = [t.a, t.b].some((n) => state.hosts.find((x) => x.name === n)?.status !== 'ready');
    return h('path.arc', {
      class: 'c-' + ui.colour(t.network) + (down ? ' down' : '') + lit(ui, t.a, t.b), d: `M${x1} ${y1}Q${qx} ${qy} ${x2} ${y2}`,
      'data-key': pair + t.encap + t.network, style: { '--busy': busy(Math.max(ab, ba)) },
    }, h('title', null, `${t.a} ↔ ${t.b}: ${t.network}, ${t.encap}, ${t.addressA} ↔ ${t.addressB}`
      + (ab >= 0 || ba >= 0 ? `; → ${bits(ab)}, ← ${bits(ba)}` : '')));
  };
  return card('Tunnels', count(new Set(lines.map((t) => t.a + ' ' + t.b + t.encap)).size, 'tunnel'),
    h('svg.ring', { viewBox: `0 0 ${w} ${height}`, role: 'img', 'aria-label': 'hosts and the tunnels between them' },
      h('g', { class: ui.hover ? 'pointed' : '' }, lines.map(arc)),
      h('g', null, hosts.map((x) => node(x, at.get(x.name), ui)))),
    h('ul.legend', null, state.networks.map((n) => h('li', null, dot(ui.colour(n.name)), n.name, h('span.note', null, meshText(n))))));
}

// busy is how much wider a tunnel is drawn, in pixels: one for each power of ten from
// 100 kbit/s on.
const busy = (rate) => `${Math.min(5, Math.max(0, Math.log10(Math.max(rate, 1) / 1e5))).toFixed(1)}px`;

const lit = (ui, ...names) => (ui.hover && names.includes(ui.hover) ? ' lit' : '');

function node(x, [px, py], ui) {
  const name = x.name.length > 17 ? x.name.slice(0, 16) + '…' : x.name;
  const width = 44 + name.length * 8;
  return h('g.node', {
    class: stateClass(x.status) + lit(ui, x.name), 'data-key': x.name, 'data-act': 'open', 'data-arg': '#/hosts/' + encodeURIComponent(x.name), 'data-host': x.name,
  }, h('rect', { x: px - width / 2, y: py - 17, width, height: 34, rx: 17 }),
  h('circle', { cx: px - width / 2 + 18, cy: py, r: 5 }),
  h('text', { x: px - width / 2 + 31, y: py + 5 }, name), h('title', null, `${x.name}, ${x.status}`));
}
