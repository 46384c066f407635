// The pages of what has a provider: latency, findings, a trace, events.

import { h, count } from './dom.js';
import { card, code, commands, empty, hostLink, mono, timeText, when } from './parts.js';

// latency is the matrix of round trips. Few hosts are a table, many a picture of cells.
export function latency(l, ui) {
  if (!l) return [h('h1', null, 'Latency'), empty('Nothing was measured yet.')];
  const known = l.rtt.flatMap((row, i) => row.filter((v, j) => i !== j && v >= 0)).sort((a, b) => a - b);
  const at = (q) => known[Math.min(known.length - 1, Math.floor(q * known.length))] ?? 0;
  const scale = { low: at(0.05), high: Math.max(at(0.99), at(0.5) * 2, 0.001) };
  const worst = pairs(l).sort((a, b) => b.loss - a.loss || b.rtt - a.rtt).slice(0, 8);
  return [
    h('div.title', null, h('h1', null, 'Latency'), h('span.note', null, 'measured ', when(l.at))),
    h('div.columns.wide', null,
      card('Round trips', `median ${ms(at(0.5))}, 99 % below ${ms(at(0.99))}`,
        l.hosts.length <= 16 ? grid(l, scale) : picture(l, scale), scaleOf(scale)),
      card('Worst pairs', null, worst.length ? h('ol.worst', null, worst.map((p) => h('li', null,
        h('span', null, hostLink(l.hosts[p.i]), ' → ', hostLink(l.hosts[p.j])),
        h('span.mono', null, p.rtt >= 0 ? ms(p.rtt) : '–'),
        h('span', { class: p.loss > 0 ? 'bad' : 'note' }, p.loss >= 0 ? `${(100 * p.loss).toFixed(p.loss && p.loss < 0.1 ? 1 : 0)} % lost` : ''))))
        : empty('No pair was measured.'), h('p.hint', { id: 'cell' }, ui.cell ?? ''))),
  ];
}

const ms = (v) => (v < 10 ? v.toFixed(2) : v.toFixed(0)) + ' ms';

function pairs(l) {
  const out = [];
  l.rtt.forEach((row, i) => row.forEach((rtt, j) => {
    if (i !== j && (rtt >= 0 || l.loss[i][j] > 0)) out.push({ i, j, rtt, loss: l.loss[i][j] });
  }));
  return out;
}

// heat is a step from 0 to 6; 'lost' where packets are lost, 'none' where nothing is known.
function heat(rtt, loss, { low, high }) {
  if (loss > 0) return 'lost';
  if (rtt < 0) return 'none';
  return String(Math.round(6 * Math.min(1, Math.max(0, (Math.log(rtt + 0.01) - Math.log(low + 0.01)) / (Math.log(high + 0.01) - Math.log(low + 0.01) || 1)))));
}

function grid(l, scale) {
  return h('div.scroll', { tabindex: '0', role: 'region', 'aria-label': 'round trips between hosts' }, h('table.matrix', null,
    h('thead', null, h('tr', null, h('th', { scope: 'col' }, h('span.sr', null, 'from, to')), l.hosts.map((n) => h('th', { scope: 'col' }, h('span', null, n))))),
    h('tbody', null, l.hosts.map((n, i) => h('tr', null, h('th', { scope: 'row' }, n), l.hosts.map((m, j) => (i === j ? h('td.self', null, '')
      : h('td', { class: 'heat-' + heat(l.rtt[i][j], l.loss[i][j], scale), title: `${n} → ${m}` },
        l.loss[i][j] > 0 ? `${Math.round(100 * l.loss[i][j])} %` : l.rtt[i][j] >= 0 ? ms(l.rtt[i][j]).replace(' ms', '') : '–')))))) ));
}

function picture(l, scale) {
  const n = l.hosts.length;
  return h('canvas.cells', {
    width: n * 4, height: n * 4, role: 'img', 'aria-label': `round trips between ${n} hosts; the worst pairs are listed beside`,
    'data-cells': '',
    paint: (el) => {
      const css = getComputedStyle(document.documentElement);
      const colour = Object.fromEntries([...'0123456'].map((k) => [k, css.getPropertyValue('--heat-' + k)])
        .concat([['lost', css.getPropertyValue('--bad')], ['none', css.getPropertyValue('--line')]]));
      const c = el.getContext('2d');
      c.clearRect(0, 0, n * 4, n * 4);
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) {
          if (i === j) continue;
          c.fillStyle = colour[heat(l.rtt[i][j], l.loss[i][j], scale)];
          c.fillRect(j * 4, i * 4, n > 60 ? 4 : 3.5, n > 60 ? 4 : 3.5);
        }
      }
      el.tell = (x, y) => {
        const [i, j] = [Math.floor(y * n), Math.floor(x * n)];
        if (i === j || !l.hosts[i] || !l.hosts[j]) return '';
        return `${l.hosts[i]} → ${l.hosts[j]}: ${l.rtt[i][j] >= 0 ? ms(l.rtt[i][j]) : 'not measured'}${l.loss[i][j] > 0 ? `, ${(100 * l.loss[i][j]).toFixed(1)} % lost` : ''}`;
      };
    },
  });
}

const scaleOf = (s) => h('div.scale', { 'aria-hidden': 'true' }, h('span', null, ms(s.low)),
  [...'0123456'].map((k) => h('i', { class: 'heat-' + k })), h('span', null, ms(s.high)), h('i', { class: 'heat-lost' }), h('span', null, 'loss'));

const signs = { ok: '✓', warning: '!', failed: '✗', unchecked: '–' };
const order = ['failed', 'warning', 'unchecked', 'ok'];

// findings are the doctor's: what is wrong first, what passed folded.
export function findings(list) {
  if (!list) return [h('h1', null, 'Doctor'), empty('Nothing was checked yet.')];
  const by = (o) => list.filter((f) => f.outcome === o);
  const item = (f) => h('li.fault', { class: f.outcome, 'data-key': [f.outcome, f.code, f.check, f.item, f.node].join('|') },
    h('div.head', null, h('span.sign', { class: f.outcome }, signs[f.outcome], h('span.sr', null, f.outcome)), code(f.code),
      h('strong', null, [f.check, f.item].filter(Boolean).join(' · ')), f.node && h('span.where', null, hostLink(f.node))),
    h('p', null, f.what), f.evidence && h('pre', null, f.evidence),
    f.remedy && h('p.remedy', null, h('span', { 'aria-hidden': 'true' }, '→ '), commands(f.remedy)));
  return [
    h('div.title', null, h('h1', null, 'Doctor'), h('span.note', null,
      order.filter((o) => by(o).length).map((o) => `${by(o).length} ${o === 'ok' ? 'passed' : o === 'unchecked' ? 'not checked' : o}`).join(', '))),
    h('ul.faults', null, order.filter((o) => o !== 'ok').flatMap((o) => by(o).map(item))),
    by('ok').length > 0 && h('details.passed', null, h('summary', null, count(by('ok').length, 'check') + ' passed'), h('ul.faults', null, by('ok').map(item))),
  ];
}

// trace asks for the way of a packet and draws it.
export function trace(state, ui) {
  const q = ui.trace;
  const field = (id, label, attrs) => h('label', null, h('span', null, label), h('input', { id, name: id, autocomplete: 'off', spellcheck: 'false', value: q[id] ?? '', ...attrs }));
  return [
    h('h1', null, 'Trace'),
    h('form.trace', { 'data-form': 'trace' },
      field('from', 'from', { placeholder: 'host1/c1', list: 'hosts', required: true }), field('to', 'to', { placeholder: '10.1.65.2', required: true }),
      h('label', null, h('span', null, 'protocol'), h('select', { id: 'protocol', name: 'protocol' },
        ['icmp', 'tcp', 'udp'].map((p) => h('option', { value: p, selected: (q.protocol ?? 'icmp') === p }, p)))),
      field('port', 'port', { type: 'number', min: '1', max: '65535', placeholder: '443' }),
      h('button.primary', { type: 'submit' }, ui.tracing ? 'Tracing…' : 'Trace')),
    h('datalist', { id: 'hosts' }, state.hosts.slice(0, 200).map((x) => h('option', { value: x.name + '/' }))),
    h('div', { 'aria-live': 'polite' }, ui.traceError && h('div.well.bad', null, h('span.tick', { 'aria-hidden': 'true' }, '✗'), h('p', null, commands(ui.traceError))),
      ui.traced && path(ui.traced)),
  ];
}

// rail is the whole way in one line: who sends, the hosts, who receives, and where it ended.
function rail(t) {
  const ended = t.hops.findIndex((hop) => hop.steps.some((s) => s.outcome === 'failed'));
  const stop = (state, sign, name, note) => h('li.stop', { class: state }, h('i', { 'aria-hidden': 'true' }, sign),
    h('b', null, name), note && h('span.note', null, note));
  const reached = t.delivered ? 'ok' : 'unreached';
  return h('ol.rail', { 'aria-label': 'the way in short' },
    stop('ok', '•', t.from.split(/[ (]/)[0], 'sends'),
    t.hops.map((hop, i) => {
      const failed = i === ended && !t.delivered;
      const last = hop.steps.at(-1);
      return stop(failed ? 'failed' : 'ok', failed ? signs.failed : signs.ok, hostLink(hop.node), failed ? `ends in ${last.stage}` : hop.wire ? 'into the tunnel' : null);
    }),
    stop(reached, t.delivered ? signs.ok : '?', t.to.split(/[ (]/)[0], t.delivered ? 'receives it' : 'is not reached'));
}

function path(t) {
  return h('section.path', { 'aria-label': 'the way of the packet' },
    h('p.packet', null, mono(t.from), ' → ', mono(t.to), h('span.note', null, t.packet)),
    rail(t),
    h('ol.hops', null, t.hops.map((hop) => h('li.hop', null, h('h2', null, hostLink(hop.node)),
      h('ol.steps', null, hop.steps.map((s) => h('li.step', { class: s.outcome }, h('span.sign', { class: s.outcome }, signs[s.outcome], h('span.sr', null, s.outcome)),
        h('b', null, s.stage), h('span', null, s.what, s.evidence && h('span.evidence', null, s.evidence))))),
      hop.wire && h('p.wire', null, hop.wire)))),
    h('div.well', { class: t.delivered ? 'good' : 'bad', id: 'verdict' }, h('span.tick', { 'aria-hidden': 'true' }, t.delivered ? '✓' : '✗'),
      h('div', null, h('p', null, h('strong', null, t.verdict), ' ', code(t.code)), t.remedy && h('p.remedy', null, '→ ', commands(t.remedy)))));
}

// events are drawn on a line of time, and listed, the newest first.
export function events(list) {
  if (!list?.length) return [h('h1', null, 'Events'), empty('Nothing has happened yet.')];
  const sorted = [...list].sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
  const last = Date.parse(sorted[0].at);
  const first = Date.parse(sorted.at(-1).at);
  const share = (e) => `${((100 * (Date.parse(e.at) - first)) / (last - first || 1)).toFixed(2)}%`;
  const lanes = ['error', 'warning', 'change'];
  const ticks = (innerWidth > 600 ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.5, 1]).map((q) => first + q * (last - first));
  return [
    h('div.title', null, h('h1', null, 'Events'), h('span.note', null, count(list.length, 'event'))),
    card('Time line', null, h('div.lanes', { role: 'img', 'aria-label': `${list.length} events from ${timeText(first)} to ${timeText(last)}` },
      lanes.map((l) => h('hr', { class: 'lane-' + l })),
      sorted.slice(0, 1000).map((e) => h('i', { class: e.severity || 'change', style: { left: share(e) }, title: `${timeText(e.at)} ${e.item ?? ''} ${e.what}` }))),
    h('div.ticks', { 'aria-hidden': 'true' }, ticks.map((t) => h('span', null, timeText(t)))),
    h('ul.legend', null, ['error', 'warning', 'change'].map((s) => h('li', null, h('i.lanekey', { class: s }), s)))),
    h('ol.events', null, sorted.slice(0, 300).map((e) => h('li', { class: e.severity || 'change', 'data-key': e.at + e.what + (e.item ?? '') },
      when(e.at), h('div', null, h('p', null, code(e.code), ' ', h('strong', null, e.item), ' ', e.what),
        (e.node || e.network) && h('p.note', null, e.node && hostLink(e.node), ' ', e.network))))),
  ];
}
