//go:build browser

package console

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
)

var screenshots = flag.String("screenshots", "", "write the pictures of the documents into this `DIRECTORY`")

// whole is a console with everything on it, on an etcd with n hosts.
func whole(t *testing.T, n int) (etcd, base string) {
	t.Helper()
	etcd = etcdtest.Start(t)
	put(t, etcd, madeUp(n)...)
	_, base = serve(t, Config{
		Version: "v0.2.0", Topology: follow(t, etcd), Agent: cell(agentOf("host1")), Latency: cell(matrixOf(min(n, 200))),
		Findings: cell(findingsOf()), Events: cell(eventsOf()), Rates: cell(ratesOf()), Tracer: tracer{},
	})
	return etcd, base
}

// A fault appears on the page when it does in etcd, and goes with it, without a reload.
func TestFaultComesAndGoes(t *testing.T) {
	etcd, base := whole(t, 3)
	p := open(chromium(t), t, desktop, base, "")
	p.awaitText(".summary", "3\nready")
	p.awaitText(".summary", "0\nfaults")
	js[bool](p, "window.still = true")

	alive := keyOf(topology.Liveness{Node: "host2"})
	etcdtest.Delete(t, etcd, alive)
	p.awaitText(".summary", "1\ndown")
	p.await(`document.querySelector('.tile.down[data-host="host2"]')`)
	p.awaitText("#tabs .badge", "1")
	p.click(`#tabs a[href="#/faults"]`)
	p.awaitText(".fault", "its agent is not alive")
	p.awaitText(".fault .remedy", "baize node remove host2")
	p.click(".fault .where a")
	p.awaitText("h1", "host2")
	p.awaitText(".title .pill", "down")
	p.awaitText(".fault", "BZ0205")

	put(t, etcd, topology.Liveness{Node: "host2", ID: "host2"})
	p.awaitText(".title .pill", "ready")
	p.await("!document.querySelector('.fault')")
	p.awaitText(".summary", "0\nfaults")
	p.click(`#tabs a[href="#/faults"]`)
	p.awaitText("main", "Nothing is wrong.")
	assert.True(t, js[bool](p, "window.still"), "the page was not loaded again")
	p.clean()
}

// Every page is reached by clicks, has an address of its own, and back goes back.
func TestClickThrough(t *testing.T) {
	_, base := whole(t, 3)
	p := open(chromium(t), t, desktop, base, "")
	p.await("document.querySelectorAll('.tile').length === 3")
	assert.Equal(t, 4, js[int](p, "document.querySelectorAll('.arc').length"), "an arc for each tunnel and network")
	p.click(`.tile[data-host="host1"]`)
	p.awaitText("h1", "host1")
	p.awaitText("main", "192.168.77.11 → 192.168.77.12")
	p.awaitText("main", "shop-web-1")
	p.awaitText("main", "vx-host2")
	p.awaitText("main", "940 Mbit/s")
	p.awaitText("main", "12.5 Mbit/s")
	p.click(`main a.net[href="#/networks/blue"]`)
	p.awaitText("h1", "blue")
	p.awaitText("main", "3 of 255 /24 leased")
	p.click(`.row[href="#/hosts/host3"]`)
	p.awaitText("h1", "host3")
	p.awaitText("main", "known on their host alone")
	js[bool](p, "(history.back(), true)")
	p.awaitText("h1", "blue")
	js[bool](p, "(history.forward(), true)")
	p.awaitText("h1", "host3")

	for tab, text := range map[string]string{
		"networks": "10.3.0.0/20", "latency": "Worst pairs", "doctor": "64 bytes pass, 1450 do not", "events": "alive again",
	} {
		p.click(fmt.Sprintf(`#tabs a[href="#/%s"]`, tab))
		p.awaitText("main", text)
		assert.Equal(t, "#/"+tab, js[string](p, "location.hash"))
		assert.Equal(t, 1, js[int](p, "document.querySelectorAll('#tabs [aria-current]').length"))
	}
	p.clean()
}

func TestTrace(t *testing.T) {
	_, base := whole(t, 3)
	p := open(chromium(t), t, desktop, base, "#/trace")
	p.await("document.getElementById('from')")
	fill := func(id, text string) {
		p.click("#" + id)
		js[bool](p, fmt.Sprintf("(document.getElementById(%q).value = '', true)", id))
		p.press(text)
	}
	fill("from", "host1/web")
	fill("to", "10.1.3.9")
	js[bool](p, "(document.getElementById('protocol').value = 'tcp', true)")
	fill("port", "443")
	p.press(kb.Enter)
	p.awaitText("#verdict", "Dropped on host3")
	assert.Equal(t, []string{"host1", "host3"}, js[[]string](p, "[...document.querySelectorAll('.hop h2')].map((x) => x.innerText)"))
	assert.Equal(t, "local", js[string](p, "document.querySelector('.step.failed b').innerText"))
	assert.Equal(t, []string{"host1/web", "host1", "host3", "10.1.3.9"},
		js[[]string](p, "[...document.querySelectorAll('.rail .stop b')].map((x) => x.innerText)"))
	assert.Equal(t, "stop failed", js[string](p, "document.querySelectorAll('.rail .stop')[2].className"))
	assert.Equal(t, "stop unreached", js[string](p, "document.querySelectorAll('.rail .stop')[3].className"))
	if *screenshots != "" {
		p.shoot(filepath.Join(*screenshots, "console-trace.png"))
	}
	fill("to", "10.1.3.2")
	p.press(kb.Enter)
	p.awaitText("#verdict", "Delivered")
	assert.Empty(t, js[[]string](p, "[...document.querySelectorAll('.step.failed')].map((x) => x.innerText)"))
	p.clean()
	fill("from", "host1/nobody")
	p.press(kb.Enter)
	p.awaitText("main", "endpoint host1/nobody: there is none")
}

// Everything can be done with the keyboard, and the focus is to be seen.
func TestKeyboard(t *testing.T) {
	_, base := whole(t, 200)
	p := open(chromium(t), t, desktop, base, "")
	p.await("document.querySelectorAll('.tile').length === 200")
	p.press("/")
	p.await("document.activeElement.id === 'search'")
	p.press("host19")
	p.await("document.querySelectorAll('.tile').length === 11")
	p.press(kb.Escape)
	p.await("document.querySelectorAll('.tile').length === 200")

	focused := func() string { return js[string](p, "document.activeElement.dataset.host ?? ''") }
	p.press(kb.ArrowDown)
	assert.Equal(t, "host1", focused())
	p.press(kb.ArrowRight)
	assert.Equal(t, "host2", focused())
	columns := js[int](p, "getComputedStyle(document.querySelector('.tiles')).gridTemplateColumns.split(' ').length")
	p.press(kb.ArrowDown)
	assert.Equal(t, fmt.Sprintf("host%d", 2+columns), focused())
	p.awaitText("#inspector", fmt.Sprintf("host%d", 2+columns))
	assert.NotEqual(t, "none", js[string](p, "getComputedStyle(document.activeElement).outlineStyle"))
	p.press(kb.ArrowUp)
	p.press(kb.Enter)
	p.awaitText("h1", "host2")
	p.press(kb.Escape)
	p.await("document.querySelectorAll('.tile').length === 200")

	p.press("?")
	p.await("document.getElementById('keys').open")
	p.awaitText("#keys", "walk through hosts")
	p.press(kb.Escape)
	p.await("!document.getElementById('keys').open")
	p.press("3")
	p.awaitText("h1", "Faults")
	before := js[string](p, "getComputedStyle(document.body).backgroundColor")
	p.press("t")
	p.await(fmt.Sprintf("getComputedStyle(document.body).backgroundColor !== %q", before))
	p.clean()
}

// Two hundred hosts: filters, tunnels of the host pointed at, and a page that stays light.
func TestTwoHundredHosts(t *testing.T) {
	etcd, base := whole(t, 200)
	p := open(chromium(t), t, desktop, base, "")
	p.await("document.querySelectorAll('.tile').length === 200")
	assert.Equal(t, 5, js[int](p, "document.querySelectorAll('.segment').length"))
	assert.Less(t, js[int](p, "document.querySelectorAll('*').length"), 3000, "elements grow with hosts, not with pairs")

	p.click(`.chip[data-arg="lab"]`)
	p.await("document.querySelectorAll('.tile').length === 16")
	p.click(`.chip[data-arg="lab"]`)
	p.await("document.querySelectorAll('.tile').length === 200")

	// An update keeps what is focused, and elements that did not change.
	js[bool](p, `(document.querySelector('[data-host="host42"]').focus(), document.querySelector('[data-host="host7"]').same = true)`)
	p.awaitText("#inspector", "vxlan, 199 peers")
	etcdtest.Delete(t, etcd, keyOf(topology.Liveness{Node: "host17"}))
	p.await(`document.querySelector('.tile.down[data-host="host17"]')`)
	assert.Equal(t, "host42", js[string](p, "document.activeElement.dataset.host"))
	assert.True(t, js[bool](p, `document.querySelector('[data-host="host7"]').same === true`))
	p.click(".chip[data-act=trouble]")
	p.await("document.querySelectorAll('.tile').length === 1")

	p.click(`.tile[data-host="host17"]`)
	p.await("document.querySelectorAll('table tbody tr').length > 199")
	p.click(`#tabs a[href="#/latency"]`)
	p.await("document.querySelector('canvas.cells')")
	p.awaitText(".worst", "12 % lost")
	p.clean()
}

// On a phone everything is in one column, and nothing scrolls sideways.
func TestPhone(t *testing.T) {
	for n, hosts := range map[string]int{"few": 3, "many": 200} {
		t.Run(n, func(t *testing.T) {
			_, base := whole(t, hosts)
			p := open(chromium(t), t, phone, base, "")
			for _, page := range []string{"", "hosts/host1", "networks", "networks/blue", "faults", "latency", "doctor", "trace", "events"} {
				js[bool](p, fmt.Sprintf("(location.hash = '#/%s', true)", page))
				p.await("document.querySelector('main').innerText.length > 40 && !document.querySelector('main').innerText.includes('Reading')")
				p.fits()
				small := js[[]string](p, `[...document.querySelectorAll('#tabs a, .tile, .chip, button')].filter((x) => x.getBoundingClientRect().height < 30 && x.getBoundingClientRect().height > 0).map((x) => x.outerHTML)`)
				assert.Empty(t, small, "too small for a finger on %s", page)
			}
			p.clean()
		})
	}
}

// Text can be read in both colour schemes: 4.5 to 1 or better (WCAG 2.2, 1.4.3).
func TestContrast(t *testing.T) {
	_, base := whole(t, 3)
	chrome := chromium(t)
	for _, dark := range []bool{false, true} {
		p := open(chrome, t, look{width: 1440, height: 900, scale: 1, dark: dark}, base, "")
		p.await("document.querySelectorAll('.tile').length === 3")
		assert.Equal(t, dark, js[bool](p, "getComputedStyle(document.documentElement).colorScheme === 'dark'"))
		for _, page := range []string{"", "hosts/host1", "networks/blue", "doctor", "latency", "events"} {
			js[bool](p, fmt.Sprintf("(location.hash = '#/%s', true)", page))
			p.await("document.querySelector('main').innerText.length > 40 && !document.querySelector('main').innerText.includes('Reading')")
			assert.Empty(t, js[[]string](p, faint), "dark %t, page %q", dark, page)
		}
		p.clean()
		p.close()
	}
}

// faint lists texts whose contrast with what is behind them is too low.
const faint = `(() => {
  const c = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (s) => { c.clearRect(0, 0, 1, 1); c.fillStyle = s; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = (el) => { const layers = []; for (let e = el; e; e = e.parentElement) { const k = rgba(getComputedStyle(e).backgroundColor);
      if (k[3]) { layers.push(k); if (k[3] === 255) break; } }
    return layers.reverse().reduce((a, k) => a.map((v, i) => v + (k[i] - v) * k[3] / 255), [255, 255, 255]); };
  const out = [];
  for (const el of document.querySelectorAll('body *')) {
    if (![...el.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !el.checkVisibility() || el.closest('svg')) continue;
    const [a, b] = [light(rgba(getComputedStyle(el).color)), light(behind(el))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) out.push(el.className + ' ' + el.textContent.slice(0, 30) + ' ' + ratio.toFixed(2));
  }
  return out;
})()`

// The token in the address opens the console, is not kept there, and a wrong one is
// asked for again.
func TestTokenInTheBrowser(t *testing.T) {
	_, base := serve(t, Config{Topology: threeHosts(), Token: "correct-horse-battery"})
	chrome := chromium(t)
	p := open(chrome, t, desktop, base, "#token=correct-horse-battery")
	p.await("document.querySelectorAll('.tile').length === 3")
	assert.Equal(t, "#/", js[string](p, "location.hash"))
	p.clean()
	p.close()

	p = open(chrome, t, desktop, base, "")
	p.await("document.getElementById('token')")
	p.click("#token")
	p.press("guess", kb.Enter)
	p.awaitText(".door .bad", "not the right one")
	js[bool](p, "(document.getElementById('token').value = '', true)")
	p.press("correct-horse-battery", kb.Enter)
	p.await("document.querySelectorAll('.tile').length === 3")
	assert.Empty(t, p.foreign)
}

// A page says that it lost the console, and catches up by itself when it is back.
func TestConsoleAwayAndBack(t *testing.T) {
	topo := threeHosts()
	door, err := Access{Listen: "127.0.0.1:0"}.Check()
	require.NoError(t, err)
	start := func() (url string, stop func()) {
		l, url, err := door.Open(t.Context())
		require.NoError(t, err)
		door.access.Listen = strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- New(Config{Topology: topo}).Serve(ctx, l) }()
		return url, func() { cancel(); assert.NoError(t, <-ended) }
	}
	base, stop := start()
	p := open(chromium(t), t, desktop, base, "")
	p.await("document.querySelectorAll('.tile').length === 3")
	stop()
	p.awaitText("#notice", "Connection lost")
	assert.Equal(t, 3, js[int](p, "document.querySelectorAll('.tile').length"), "what was known stays")
	topo.Set(Topology{Snapshot: snapshotOf(madeUp(5)...)})
	_, stop = start()
	defer stop()
	p.await("document.querySelectorAll('.tile').length === 5")
	p.await("document.getElementById('notice').innerText === ''")
}

// While etcd does not answer, the page says how old it is.
func TestStaleTopology(t *testing.T) {
	topo := threeHosts()
	_, base := serve(t, Config{Topology: topo})
	p := open(chromium(t), t, desktop, base, "")
	p.await("document.querySelectorAll('.tile').length === 3")
	topo.Set(Topology{Snapshot: topo.Get().Snapshot, Err: fmt.Errorf("etcd: no answer")})
	p.awaitText("#notice", "etcd: no answer")
	p.awaitText(".live", "stale")
	assert.Equal(t, []string{"Map", "Networks", "Faults"},
		js[[]string](p, "[...document.querySelectorAll('#tabs a')].map((x) => x.firstChild.data)"), "no panels that nothing is known for")
	p.clean()
}

// TestScreenshots writes the pictures of docs/console.md and the README, with
// -screenshots ../../../docs.
func TestScreenshots(t *testing.T) {
	dir := *screenshots
	if dir == "" {
		dir = t.TempDir()
	}
	chrome := chromium(t)
	large := cell(Topology{Snapshot: snapshotOf(without(madeUp(200), "host17", "host130", "host131")...)})
	small := cell(Topology{Snapshot: snapshotOf(madeUp(3)...)})
	for name, s := range map[string]struct {
		look     look
		topology *part.Cell[Topology]
		fragment string
		ready    string
	}{
		"console.png":       {look{width: 1280, height: 720, scale: 1}, large, "", "document.querySelectorAll('.tile').length === 200"},
		"console-dark.png":  {look{width: 1280, height: 700, scale: 1, dark: true}, small, "", "document.querySelector('.ring')"},
		"console-phone.png": {look{width: 390, height: 780, scale: 1.5, phone: true}, large, "#/networks/blue", "document.querySelector('.row')"},
	} {
		_, base := serve(t, Config{Version: "v0.2.0", Topology: s.topology, Agent: cell(agentOf("host1"))})
		p := open(chrome, t, s.look, base, s.fragment)
		p.await(s.ready)
		p.await("document.querySelector('.live.on')")
		file := filepath.Join(dir, name)
		p.shoot(file)
		info, err := os.Stat(file)
		require.NoError(t, err)
		assert.Less(t, info.Size(), int64(150_000), name)
		p.clean()
		p.close()
	}
}

// without leaves out the liveness of hosts.
func without(records []topology.Record, hosts ...string) (out []topology.Record) {
	dead := strings.Join(hosts, " ") + " "
	for _, r := range records {
		if l, ok := r.(topology.Liveness); !ok || !strings.Contains(dead, l.Node+" ") {
			out = append(out, r)
		}
	}
	return out
}
