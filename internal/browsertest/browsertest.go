// Package browsertest opens pages in a headless Chromium for tests. A Browser notes what no page may cause:
// messages in the console, violations of the content security policy among them; exceptions; dialogs; and
// requests to addresses that the test has not named.
package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const (
	wholeUse = 20 * time.Minute // of a browser, on a machine that may be busy
	starting = 2 * time.Minute
	patience = 3 * time.Minute // for what a page must come to show
)

// Browser is one tab of a Chromium, or a frame of another site in it.
type Browser struct {
	t     testing.TB
	ctx   context.Context
	notes *notes
}

// notes is what went wrong, in the tab and its frames.
type notes struct {
	mu    sync.Mutex // guards what follows
	may   []string
	wrong []string
}

// Open starts a Chromium that ends with the test. Pages may ask for URLs with the given prefixes. With
// anyCertificate it takes every server for the one that its address names.
func Open(t testing.TB, anyCertificate bool, may ...string) *Browser {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), wholeUse)
	t.Cleanup(stop)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WSURLReadTimeout(starting)) // it opens our own pages only
	if anyCertificate {
		options = append(options, chromedp.IgnoreCertErrors)
	}
	ctx, stop = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	b := &Browser{t: t, ctx: ctx, notes: &notes{may: may}}
	if err := b.attach(); err != nil {
		t.Fatalf("start Chromium (apt-get install chromium): %v", err)
	}
	return b
}

// attach makes the browser note what happens.
func (b *Browser) attach() error {
	err := chromedp.Listen(b.ctx, b.notes.heard)
	for _, enable := range []func() error{
		func() error { _, err := chromedp.Call(b.ctx, network.Enable, network.EnableParams{}); return err },
		func() error { _, err := chromedp.Call(b.ctx, log.Enable, cdp.Empty{}); return err },
		func() error { _, err := chromedp.Call(b.ctx, runtime.Enable, cdp.Empty{}); return err },
	} {
		if err == nil {
			err = enable()
		}
	}
	return err
}

func (n *notes) heard(event any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			n.wrong = append(n.wrong, "console: "+e.Entry.Text+" "+e.Entry.URL)
		}
	case *runtime.EventConsoleAPICalled:
		n.wrong = append(n.wrong, fmt.Sprint("console: ", e.Type))
	case *runtime.EventExceptionThrown:
		details, _ := json.Marshal(e.ExceptionDetails) // texts and numbers always encode
		n.wrong = append(n.wrong, "exception: "+string(details))
	case *page.EventJavascriptDialogOpening:
		n.wrong = append(n.wrong, "dialog: "+e.Message)
	case *network.EventRequestWillBeSent:
		known := func(prefix string) bool { return strings.HasPrefix(e.Request.URL, prefix) }
		if !slices.ContainsFunc(n.may, known) && !known("data:") {
			n.wrong = append(n.wrong, "request: "+e.Request.URL)
		}
	}
}

// May replaces the prefixes of URLs that pages may ask for.
func (b *Browser) May(prefixes ...string) {
	b.notes.mu.Lock()
	defer b.notes.mu.Unlock()
	b.notes.may = prefixes
}

// Wrong returns what went wrong since the last call.
func (b *Browser) Wrong() []string {
	b.notes.mu.Lock()
	defer b.notes.mu.Unlock()
	wrong := b.notes.wrong
	b.notes.wrong = nil
	return wrong
}

// AllWell fails the test for what went wrong since the last call of it or of Wrong.
func (b *Browser) AllWell(where string) {
	b.t.Helper()
	for _, w := range b.Wrong() {
		b.t.Errorf("%s: %s", where, w)
	}
}

// Do runs steps in the page. It has as long as WaitFor has.
func (b *Browser) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, patience)
	defer stop()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// Open opens a page and waits until it is loaded.
func (b *Browser) Open(url string) {
	b.t.Helper()
	b.Do(chromedp.Navigate(url))
}

// Value returns the value of an expression in the page, that of a promise once it is there.
func Value[T any](b *Browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.80s: %v", expression, err)
	}
	return v
}

// WaitFor waits until a page is there as a whole and an expression is true in it. An error of the expression
// counts as false.
func (b *Browser) WaitFor(expression string) {
	b.t.Helper()
	b.Until(expression, func() bool {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](`document.readyState === "complete" && (`+expression+`)`))
		return err == nil && ok
	})
}

// Until waits until ok returns true, and says what was waited for if it never does.
func (b *Browser) Until(what string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			shown, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`)) // "" says enough
			b.t.Fatalf("it never was so: %s\nwhat went wrong: %q\nthe page: %s", what, b.Wrong(), shown)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-b.ctx.Done():
			b.t.Fatal(b.ctx.Err())
		}
	}
}

// find is a function of JavaScript: the first button, link or summary that can be seen and used and whose
// text is a label.
const find = `(label => [...document.querySelectorAll("button, a, summary")].find(e => e.innerText.trim() === label && e.checkVisibility() && !e.disabled))`

// Press presses the button or link with a label, once it is there.
func (b *Browser) Press(label string) {
	b.t.Helper()
	b.WaitFor(fmt.Sprintf(`(e => e !== undefined && (e.click(), true))(%s(%q))`, find, label))
}

// Submit presses the button of a form, once it is there, and waits until the page that answers is there as a
// whole. A page that is left before does not see its form sent.
func (b *Browser) Submit(label string) {
	b.t.Helper()
	before := Value[float64](b, "performance.timeOrigin") // each document has its own
	b.Press(label)
	b.WaitFor(fmt.Sprintf("performance.timeOrigin !== %v", before))
}

// Enter enters a text into the field that a CSS selector finds, once it can be seen and used.
func (b *Browser) Enter(field, text string) {
	b.t.Helper()
	b.Do(chromedp.WaitVisible(chromedp.CSS(field)), chromedp.Clear(chromedp.CSS(field)), chromedp.SendKeys(chromedp.CSS(field), text))
}

// Look sets the width and theme of what follows, and waits until the colours of the old theme have faded.
func (b *Browser) Look(width int64, theme string) {
	b.t.Helper()
	b.Do(chromedp.EmulateViewport(width, 900))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.WaitFor(`document.getAnimations().every(a => a.playState !== "running" || a.effect.getComputedTiming().iterations === Infinity)`)
}

// Picture returns the page as it looks, in PNG.
func (b *Browser) Picture() []byte {
	b.t.Helper()
	r, err := chromedp.Call(b.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	if err != nil {
		b.t.Fatal(err)
	}
	return r.Data
}

// Frame returns the frame of another site whose URL begins with a prefix, once the page has it. Chromium runs
// it in a process of its own.
func (b *Browser) Frame(prefix string) *Browser {
	b.t.Helper()
	inner := &Browser{t: b.t, notes: b.notes}
	b.Until("a frame has "+prefix, func() bool {
		all, err := chromedp.Targets(b.ctx)
		if err != nil {
			return false
		}
		for _, at := range all {
			if at.Type == "iframe" && strings.HasPrefix(at.URL, prefix) {
				var stop context.CancelFunc
				inner.ctx, stop = chromedp.NewContext(b.ctx, chromedp.WithTargetID(at.TargetID))
				b.t.Cleanup(stop)
				if err := inner.attach(); err != nil {
					b.t.Fatal(err)
				}
				return true
			}
		}
		return false
	})
	return inner
}
