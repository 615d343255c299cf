package independent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// limit bounds the whole use of a browser, on a machine that may be busy.
const limit = 3 * time.Minute

// browse opens the page in Chromium, from its file. The second result returns the addresses other
// than the file's that the page has asked for.
func browse(t *testing.T) (context.Context, func() []string) {
	file, err := filepath.Abs("../page/verify.html")
	if err != nil {
		t.Fatal(err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox) // it opens our own file only
	ctx, stop := context.WithTimeout(t.Context(), limit)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	address := (&url.URL{Scheme: "file", Path: file}).String()
	var mu sync.Mutex
	var asked []string
	err = chromedp.Listen(ctx, func(event any) {
		if r, ok := event.(*network.EventRequestWillBeSent); ok && r.Request.URL != address && !strings.HasPrefix(r.Request.URL, "data:") {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, r.Request.URL)
		}
	})
	if err == nil {
		_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	}
	if err == nil {
		err = chromedp.Do(ctx, chromedp.Navigate(address))
	}
	if err != nil {
		t.Fatalf("open the page in Chromium (apt-get install chromium): %v", err)
	}
	return ctx, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

// TestPage drops packages on the page as a person would, and reads what it says.
func TestPage(t *testing.T) {
	v := readVectors(t)
	ctx, asked := browse(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	packages := map[string]string{}
	for _, p := range v.Packages {
		packages[p.Name] = p.Text
	}
	proof := packages["as a tlog-proof"]
	packages["an extra line that is not UTF-8"] = "c2sp.org/tlog-proof@v1\nextra " +
		base64.StdEncoding.EncodeToString([]byte(`{"leaf":"`+"\xd0"+`","opening":{"salt":null}}`)) + proof[strings.Index(proof, "\nindex "):]
	for i, c := range []struct {
		pack, key, payload, url, witness string
		wanted                           string // how many witnesses
		state                            string
		says                             string // part of the result
	}{
		{"leaf 3 of 21", v.PublicKey, "", "", "", "", "proven", "number 1 of delivery dlv_01jdxqk4v8e0ht6zq3m9w20003"},
		{"leaf 3 of 21", v.LogKey, `{"number":3}`, "https://example.com/hook", "", "", "proven", "The URL that was given is the one of the record."},
		{"leaf 3 of 21", v.LogKey, `{"number":4}`, "", "", "", "refused", "The payload: it is not what the leaf has a commitment to."},
		{"leaf 3 of 21", v.LogKey, "", "https://example.com/", "", "", "refused", "The URL: it is not what the leaf has a commitment to."},
		{"leaf 3 of 21", v.OtherKey, "", "", "", "", "refused", "is signed by none of the keys that were given"},
		{"leaf 3 of 21", "nonsense", "", "", "", "", "refused", "A key is the base64 of 32 bytes"},
		{"leaf 3 of 21", v.LogKey, "", "", v.WitnessKey, "", "refused", "The witness witness.example/w1 has not signed this head."},
		{"leaf 3 of 21", "", "", "", "", "", "empty", "Choose a package"},
		{"the leaf says another status", v.LogKey, "", "", "", "", "refused", "the text was changed"},
		{"a bit of a hash", v.LogKey, "", "", "", "", "refused", "does not lead from the leaf"},
		{"as a tlog-proof", v.OtherKey + "\n" + v.LogKey, "", "", v.WitnessKey, "", "proven", "The witness witness.example/w1 saw this head at 2024-11-29T11:00:30.000Z"},
		{"as a tlog-proof", v.LogKey, "", "", v.WitnessKey + "\n" + v.Cosignatures[1].WitnessKey, "", "refused", "has not signed this head."},
		{"as a tlog-proof", v.LogKey, "", "", v.WitnessKey + "\n" + v.Cosignatures[1].WitnessKey, "1", "proven", "The witness witness.example/w1 saw this head"},
		{"as a tlog-proof", v.LogKey, "", "", v.WitnessKey + "\n" + v.Cosignatures[1].WitnessKey, "2", "refused", "1 of the witnesses have signed this head, and 2 are wanted"},
		{"as a tlog-proof", v.LogKey, "", "", v.WitnessKey, "2", "refused", "is a number from 1 to 1"},
		{"a tlog-proof without a salt", v.LogKey, "", "", "", "", "proven", "the package has no salt"},
		{"cut off", v.LogKey, "", "", "", "", "refused", "not JSON"},
		{"an extra line that is not UTF-8", v.LogKey, "", "", "", "", "refused", "it is not text"},
	} {
		actions := []chromedp.Action[chromedp.Void]{chromedp.Reload()}
		if c.payload != "" {
			actions = append(actions, chromedp.SetUploadFiles("#payload", []string{file("payload", c.payload)}))
		}
		for id, text := range map[string]string{"key": c.key, "url": c.url, "witness": c.witness, "wanted": c.wanted} {
			actions = append(actions, run(`field(`+quote(id)+`).value = `+quote(text)))
		}
		actions = append(actions,
			chromedp.SetUploadFiles("#package", []string{file("package", packages[c.pack])}),
			// The page checks when something is entered. The result of the last entry is the one that counts.
			run(`update()`))
		if err := chromedp.Do(ctx, actions...); err != nil {
			t.Fatalf("case %d: %v", i, err)
		}
		state, says := result[string](t, ctx, `field('result').dataset.state`), result[string](t, ctx, `field('result').textContent`)
		if state != c.state || !strings.Contains(says, c.says) {
			t.Errorf("%s with the key %q: the page says %s: %s, want %s: %s", c.pack, c.key, state, says, c.state, c.says)
		}
	}
	if all := asked(); len(all) > 0 {
		t.Errorf("the page asked for %v", all)
	}
}

// TestPage_Vectors has the page's code judge all examples of package receipt.
func TestPage_Vectors(t *testing.T) {
	v := readVectors(t)
	text, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	ctx, _ := browse(t)
	err = chromedp.Do(ctx,
		run(`var v = JSON.parse(`+quote(string(text))+`), wrong = [], n = 0;
			var check = async (name, f) => { try { if (!await f()) wrong.push(name); } catch (e) { wrong.push(name + ': ' + e.message); } };
			var refuses = async f => { try { await f(); return false; } catch (e) { return e instanceof Refusal; } };
			var unhex = text => Uint8Array.from(text.match(/../g), d => parseInt(d, 16));`),
		run(`(async () => {
			for (const c of v.commitments) await check('commitment to ' + c.value, async () => await commitment(unhex(c.salt), c.label, utf8(c.value)) === c.commitment);
			for (const l of v.leaves) await check(l.text, async () => parseLeaf(l.text) && base64(await leafHash(l.text)) === l.hash);
			for (const l of v.no_leaves) await check(l, () => refuses(() => parseLeaf(l)));
			for (const c of v.consistency) {
				const proof = c.proof_hashes.map(h => fromBase64(h)), from = fromBase64(v.roots[c.from]), to = fromBase64(v.roots[c.to]);
				await check('from ' + c.from + ' to ' + c.to, () => consistent(c.from, c.to, from, to, proof));
				const other = Uint8Array.from(from, b => b ^ 1);
				await check('from another ' + c.from + ' to ' + c.to, async () => !await consistent(c.from, c.to, other, to, proof));
				await check('from ' + c.from + ' to ' + c.to + ' with a hash too many', async () => !await consistent(c.from, c.to, from, to, [...proof, other]));
			}
			const log = await parseKey(v.log_key), alone = await parseKey(v.log_public_key), other = await parseKey(v.other_key), witness = await parseKey(v.witness_key);
			for (const c of v.cosignatures) {
				const by = await parseKey(c.witness_key);
				await check('cosignature at ' + c.time, async () => {
					const head = await openCheckpoint(c.checkpoint + c.line, [log, by]);
					return head.cosignatures.length === 1 && head.cosignatures[0].at === c.time && witnessesOf(head) === 1;
				});
				await check('cosignature at ' + c.time + ' by the key of another name', async () => witnessesOf(await openCheckpoint(c.checkpoint + c.line, [log, {...by, name: 'another.example'}])) === 0);
			}
			await check('a signature without a time is no cosignature', () => refuses(async () => {
				const [line] = v.cosignatures[0].checkpoint.split('\n').slice(-2), [, name, text] = line.split(' ');
				const id = await keyID(name, WITNESS, log.key), own = fromBase64(text).slice(4);
				return openCheckpoint(v.cosignatures[0].checkpoint + '\u2014 ' + name + ' ' + base64(concat(unhex(id), own)) + '\n', [log, {...log, kind: WITNESS}]);
			}));
			for (const p of v.packages) {
				n++;
				const bytes = utf8(p.text);
				await check(p.name + ' with another key', () => refuses(() => verify(bytes, [other, witness])));
				if (!p.valid) { await check(p.name, () => refuses(() => verify(bytes, [log, witness]))); continue; }
				await check(p.name + ' with the key alone', () => verify(bytes, [alone]));
				await check(p.name, async () => {
					const proven = await verify(bytes, [log, witness]);
					const at = proven.head.cosignatures.map(c => new Date(c.at * 1000).toISOString().replace('.000', ''));
					if (p.payload !== null) await compare(proven, 'payload', utf8(p.payload));
					return at.join() === (p.witnessed || []).join() && (p.payload === null) === (proven.salt === null);
				});
			}
		})()`))
	if err != nil {
		t.Fatal(err)
	}
	wrong, packages := result[[]string](t, ctx, `wrong`), result[int](t, ctx, `n`)
	if len(wrong) > 0 || packages != len(v.Packages) {
		t.Errorf("of %d packages: %s", packages, strings.Join(wrong, "\n"))
	}
}

// TestPage_WithoutEd25519 checks that a browser without Ed25519 says so, and does not call a package
// wrong.
func TestPage_WithoutEd25519(t *testing.T) {
	v := readVectors(t)
	ctx, _ := browse(t)
	path := filepath.Join(t.TempDir(), "package")
	if err := os.WriteFile(path, []byte(v.Packages[0].Text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := chromedp.Do(ctx,
		run(`crypto.subtle.importKey = async () => { throw new DOMException('Unrecognized name.', 'NotSupportedError'); }; field('key').value = `+quote(v.LogKey)),
		chromedp.SetUploadFiles("#package", []string{path}),
		run(`update()`))
	if err != nil {
		t.Fatal(err)
	}
	says := result[string](t, ctx, `field('result').textContent`)
	if err := chromedp.Do(ctx, run(`Object.defineProperty(crypto, 'subtle', {value: undefined}); update()`)); err != nil {
		t.Fatal(err)
	}
	elsewhere := result[string](t, ctx, `field('result').textContent`)
	if !strings.Contains(says, "This browser cannot verify Ed25519 signatures. Nothing is wrong with the package") {
		t.Errorf("without Ed25519 the page says %s", says)
	}
	if !strings.Contains(elsewhere, "only to pages from HTTPS or from a file") {
		t.Errorf("without WebCrypto the page says %s", elsewhere)
	}
}

// run returns an action that runs a script and, if its value is a promise, waits for it.
func run(script string) chromedp.Action[chromedp.Void] {
	return chromedp.Evaluate[chromedp.Void](script, chromedp.EvalAwaitPromise)
}

// result returns the value of an expression.
func result[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// quote returns a text as a literal of JavaScript.
func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string is always JSON
	}
	return string(b)
}
