//go:build browser

package console

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// chromium starts a headless Chromium for a test.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(t, err, "run 'make test-console', which installs it")
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
		stop()
	})
	require.NoError(t, chromedp.Do(ctx))
	return ctx
}

// tab is a page of the browser, and what it did.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string
	// close closes it: a browser has six connections to a server at the most.
	close context.CancelFunc

	mu      sync.Mutex
	foreign []string // requests to anywhere but the console
	errors  []string // of scripts, of the policy, of loading
}

// look is how a page is looked at.
type look struct {
	width, height int64
	scale         float64
	dark, phone   bool
}

var (
	desktop = look{width: 1440, height: 900, scale: 1}
	phone   = look{width: 390, height: 844, scale: 2, phone: true}
)

// open opens a page of the console at base.
func open(chrome context.Context, t *testing.T, l look, base, fragment string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(chrome)
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx, base: base, close: cancel}
	require.NoError(t, chromedp.Do(ctx)) // opens it, with a context that lasts
	require.NoError(t, chromedp.Listen(ctx, p.note))
	scheme := "light"
	if l.dark {
		scheme = "dark"
	}
	call(p, network.Enable, network.EnableParams{})
	call(p, log.Enable, cdp.Empty{})
	call(p, runtime.Enable, cdp.Empty{})
	call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: l.width, Height: l.height, DeviceScaleFactor: l.scale, Mobile: l.phone,
	})
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	p.do(chromedp.Navigate(base + fragment))
	return p
}

// call sends a command of the DevTools protocol.
func call[P, R any](p *tab, c cdp.Command[P, R], params P) R {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, testkit.Patience)
	defer cancel()
	out, err := chromedp.Call(ctx, c, params)
	require.NoError(p.t, err, c.Method)
	return out
}

// note keeps what must not happen.
func (p *tab) note(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(ev.Request.URL); err != nil || !strings.HasPrefix(p.base, u.Scheme+"://"+u.Host+"/") {
			p.foreign = append(p.foreign, ev.Request.URL)
		}
	case *runtime.EventExceptionThrown:
		what := ev.ExceptionDetails.Text
		if e := ev.ExceptionDetails.Exception; e != nil {
			what += " " + e.Description
		}
		p.errors = append(p.errors, what)
	case *runtime.EventConsoleAPICalled:
		if ev.Type == "error" || ev.Type == "warning" {
			p.errors = append(p.errors, fmt.Sprintf("console.%s %v", ev.Type, ev.Args))
		}
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.EntryLevelError || ev.Entry.Level == log.EntryLevelWarning {
			p.errors = append(p.errors, fmt.Sprintf("%s %s", ev.Entry.Text, ev.Entry.URL))
		}
	}
}

// clean fails the test where a page asked elsewhere, or had an error.
func (p *tab) clean() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	assert.Empty(p.t, p.foreign, "requests to anywhere but the console")
	assert.Empty(p.t, p.errors, "errors of the page")
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, testkit.Patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, steps...))
}

// js evaluates an expression; what it gives has to be of type T in JSON.
func js[T any](p *tab, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, testkit.Patience)
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	require.NoError(p.t, err, expression)
	return out
}

// await waits until an expression is true.
func (p *tab) await(expression string) {
	p.t.Helper()
	testkit.Await(p.t, expression, func() (bool, string) {
		if js[bool](p, "Boolean("+expression+")") {
			return true, ""
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return false, fmt.Sprint(p.errors)
	})
}

// awaitText waits until an element has a text.
func (p *tab) awaitText(selector, text string) {
	p.t.Helper()
	testkit.Await(p.t, selector+" says "+text, func() (bool, string) {
		saw := js[string](p, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
		return strings.Contains(saw, text), saw
	})
}

func (p *tab) click(selector string) { p.t.Helper(); p.do(chromedp.Click(chromedp.CSS(selector))) }

// press types keys and texts. A single character is one event with its text, as a
// keyboard makes it: a page that handles the key can keep it from being typed.
func (p *tab) press(keys ...string) {
	p.t.Helper()
	for _, k := range keys {
		if len(k) != 1 || k < " " {
			p.do(chromedp.KeyEvent(k))
			continue
		}
		call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "keyDown", Key: k, Text: k})
		call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "keyUp", Key: k})
	}
}

// fits checks that nothing is wider than the page.
func (p *tab) fits() {
	p.t.Helper()
	assert.LessOrEqual(p.t, js[float64](p, "document.documentElement.scrollWidth - innerWidth"), 0.0,
		"the page scrolls sideways at %s", js[string](p, "location.hash"))
}

// shoot writes a picture of what is to be seen.
func (p *tab) shoot(file string) {
	p.t.Helper()
	shot := call(p, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	require.NoError(p.t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(p.t, os.WriteFile(file, shot.Data, 0o644))
}
