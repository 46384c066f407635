// The pages of hosts, of networks and of faults.

import { h, count } from './dom.js';
import {
  bigNumber, bits, card, dot, empty, facts, fault, hostLink, mark, mono, networkLink, pages, pill, ratesOf, table,
} from './parts.js';
import { meshText } from './map.js';

const back = (href, text) => h('p.back', null, h('a', { href }, '← ' + text));

// host is the page of one host. tunnels are asked for when it is opened.
export function host(state, ui, name) {
  const x = state.hosts.find((y) => y.name === name);
  if (!x) return [back('#/', 'map'), empty(`There is no host ${name}: it has left, or never joined.`)];
  const faults = state.faults.filter((f) => f.host === name);
  const agent = ui.agent?.status?.node === name ? ui.agent.status : null;
  return [
    back('#/', 'map'),
    h('div.title', null, h('h1', null, x.name), pill(x.status),
      x.hostname && x.hostname !== x.name && h('span.note', null, x.hostname)),
    h('div.columns', null,
      card('Host', null, facts(
        ['VTEPs', x.vteps.length ? x.vteps.map((a) => h('div.mono', null, a)) : 'none'],
        ['link address', x.mac && mono(x.mac)],
        ['underlay', `${x.segment}${x.mtu ? `, MTU ${x.mtu}` : ''}`],
        ['datapath', datapath(x.datapath)],
        ['encapsulations', x.encaps.join(', ')],
        ['version', x.version],
        ['Open vSwitch', agent?.ovsVersion],
        ['bridge', agent && `${agent.bridge}: ${count(agent.ports, 'port')}, ${count(agent.flows, 'flow')}`],
        ['dropped', agent?.drops && Object.entries(agent.drops).map(([why, n]) => h('div', null, `${count(n, 'packet')} ${why}`))],
      )),
      leases(x, ui)),
    faults.length > 0 && card('Faults', faults.length, h('ul.faults', null, faults.map((f) => fault(f, false)))),
    endpoints(x, ui, agent),
    tunnels(x, ui, agent),
  ];
}

const datapath = (d) => ({ system: 'kernel', netdev: 'userspace' }[d] ?? d);

function leases(x, ui) {
  const rows = x.leases.map((l) => [networkLink(l.network, ui.colour(l.network)), mono(l.prefix),
    [l.segment, l.reserved && 'reserved'].filter(Boolean).join(', ')]);
  const pins = (x.pins ?? []).map((p) => [networkLink(p.network, ui.colour(p.network)), mono(p.address), mono(p.mac), p.endpoint ?? '']);
  return card('Subnets', x.leases.length, rows.length
    ? table('Subnets', ['network', 'subnet', ''], rows) : empty('It leases nothing: nothing on it uses a network.'),
  pins.length > 0 && [h('h3', null, 'Pinned addresses'), table('Pinned addresses', ['network', 'address', 'MAC', 'endpoint'], pins)]);
}

function endpoints(x, ui, agent) {
  if (!agent) {
    const here = ui.agent?.status?.node;
    return card('Endpoints', null, empty(here
      ? `Endpoints are known on their host alone; this console asks the agent of ${here}.`
      : ui.agent?.error ? `The agent of the console's host does not answer: ${ui.agent.error}`
        : 'Endpoints are known on their host alone, and no agent runs where this console does.'));
  }
  return card('Endpoints', agent.endpoints.length, agent.endpoints.length ? table('Endpoints',
    ['endpoint', 'network', 'addresses', 'MAC', 'container'],
    agent.endpoints.map((e) => [e.name, networkLink(e.network, ui.colour(e.network)),
      e.ips.map((a) => h('div.mono', null, a)), mono(e.mac), [e.container, e.image].filter(Boolean).join(' · ')])) : empty('None.'));
}

function tunnels(x, ui, agent) {
  const of = ui.tunnels.get(x.name);
  if (!of) return card('Tunnels', null, empty('Reading…'));
  if (of.error) return card('Tunnels', null, empty(of.error));
  const peers = new Map((agent?.peers ?? []).map((p) => [p.node + ' ' + p.encap, p]));
  const rates = ratesOf(ui.rates);
  const head = ['peer', 'agent', 'encapsulation', 'ends', 'networks', ...(rates ? ['sent', 'received'] : []), ...(agent ? ['port'] : [])];
  return card('Tunnels', of.tunnels.length, of.tunnels.length ? table('Tunnels', head, of.tunnels.map((t) => {
    const p = peers.get(t.peer + ' ' + t.encap);
    return [hostLink(t.peer), pill(t.status), t.encap, mono(`${t.local} → ${t.remote}`),
      h('span.nets', null, t.networks.map((n) => networkLink(n, ui.colour(n)))),
      ...(rates ? rates(x.name, t.peer, t.encap).map((r) => h('span.mono.rate', null, bits(r))) : []),
      ...(agent ? [p?.error ? h('span.bad', null, p.error) : mono(p?.port ?? '–')] : [])];
  })) : empty('None: no other host carries one of its networks in tunnels.'));
}

// networks are all of them.
export function networks(state, ui) {
  if (!state.networks.length) return [h('h1', null, 'Networks'), empty('There is none yet: baize network create blue --subnet 10.1.0.0/16')];
  return [h('h1', null, 'Networks'), h('div.grid', { 'data-walk': '' }, state.networks.map((n) => h('section.card.network', {
    'data-key': n.name, class: 'c-' + ui.colour(n.name),
  }, h('h2', null, h('a', { href: '#/networks/' + encodeURIComponent(n.name), 'data-stop': '' }, dot(ui.colour(n.name)), n.name),
    n.deleting && h('span.pill.down', null, 'being deleted')),
  n.prefixes.map((p) => [h('p.mono.prefix', null, p.prefix), bar(p)]),
  facts(['hosts', meshText(n)], ['VNI', n.vni], ['transport', n.transport], ['MTU', n.mtu],
    ['faults', faultsOf(state, n.name).length || null]))))];
}

const faultsOf = (state, network) => state.faults.filter((f) => f.network === network);

// bar shows how much of a prefix is leased.
function bar(p) {
  const taken = p.leased + p.reserved;
  const share = p.subnets ? taken / p.subnets : 1;
  const percent = share > 0 && share < 0.01 ? '< 1' : Math.round(100 * share);
  const text = `${p.leased} of ${bigNumber(p.subnets)} /${p.subnetLen} leased${p.reserved ? `, ${p.reserved} reserved` : ''}`;
  const width = (n) => `${Math.min(100, (100 * n) / (p.subnets || 1)).toFixed(2)}%`;
  return h('div.usage', null,
    h('div.bar', { class: share > 0.9 ? 'full' : '', role: 'img', 'aria-label': text },
      h('span.leased', { style: { width: width(p.leased), 'min-width': p.leased ? '3px' : '0' } }),
      h('span.reserved', { style: { width: width(p.reserved), 'min-width': p.reserved ? '3px' : '0' } })),
    h('p.note', null, text, h('span', null, percent + ' %')));
}

// network is the page of one network.
export function network(state, ui, name) {
  const n = state.networks.find((x) => x.name === name);
  if (!n) return [back('#/networks', 'networks'), empty(`There is no network ${name}.`)];
  const faults = faultsOf(state, name);
  const members = state.hosts.filter((x) => n.members.includes(x.name));
  const down = members.filter((x) => x.status !== 'ready').length;
  return [
    back('#/networks', 'networks'),
    h('div.title', null, h('h1', null, dot(ui.colour(name)), name), n.deleting && h('span.pill.down', null, 'being deleted')),
    h('div.columns', null,
      card('Network', null, facts(
        ['VNI', n.vni], ['transport', n.transport], ['MTU', n.mtu],
        ['gateway', n.gateways.length ? n.gateways.map((g) => h('div.mono', null, g)) : 'none'],
        ['made by', n.by], ['hosts', meshText(n)])),
      card('Leases', null, n.prefixes.map((p) => [h('p.mono.prefix', null, p.prefix), bar(p)]),
        n.unassigned?.length > 0 && h('p.note', null, 'Reserved for nobody: ', mono(n.unassigned.join(', '))))),
    faults.length > 0 && card('Faults', faults.length, h('ul.faults', null, faults.map((f) => fault(f, false)))),
    card('Hosts', [count(members.length, 'host'), down > 0 && h('span.bad', null, `${down} not ready`)], members.length
      ? h('div.rows', { 'data-walk': '' }, members.map((x) => h('a.row', {
        href: '#/hosts/' + encodeURIComponent(x.name), 'data-stop': '', 'data-key': x.name,
      }, mark(x.status), h('span.name', null, x.name, x.status !== 'ready' && h('span.note', null, x.status)),
      h('span.mono', null, x.leases.filter((l) => l.network === name).map((l) => l.prefix + (l.segment ? ` (${l.segment})` : '')).join('  ')))))
      : empty('No host carries it yet.')),
  ];
}

// faults is the list of everything that is wrong.
export function faults(state) {
  const n = (severity) => state.faults.filter((f) => f.severity === severity).length;
  return [
    h('div.title', null, h('h1', null, 'Faults'), h('span.note', null, state.faults.length
      ? [n('error') > 0 && count(n('error'), 'error'), n('warning') > 0 && count(n('warning'), 'warning')].filter(Boolean).join(', ') : '')),
    state.faults.length ? h('ul.faults', null, state.faults.map((f) => fault(f)))
      : h('div.well', null, h('span.tick', { 'aria-hidden': 'true' }, '✓'), h('div', null, h('strong', null, 'Nothing is wrong.'),
        h('p', null, 'Every record agrees with the others, and every agent is alive.'))),
    h('p.hint', null, 'What each code means: ', h('a', { href: pages + 'faults.md', target: '_blank', rel: 'noreferrer' }, 'docs/faults.md')),
  ];
}
