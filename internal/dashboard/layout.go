package dashboard

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// staticVersion changes with the files that pages use, so that a browser never mixes those of two releases.
var staticVersion = func() string {
	sum := sha256.New()
	_ = fs.WalkDir(static, ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			b, _ := static.ReadFile(name) // embedded files can be read
			sum.Write(b)
		}
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)[:8])
}()

// asset returns the URL of a file that pages use.
func asset(name string) string { return "/static/" + name + "?v=" + staticVersion }

// entry is an entry of the navigation.
type entry struct{ path, name string }

// navigation returns the entries for who looks, in groups.
func (p *page) navigation() [][]entry {
	groups := [][]entry{
		{{"/", "Overview"}, {"/events", "Events"}, {"/endpoints", "Endpoints"}, {"/sources", "Sources"}, {"/subscriptions", "Subscriptions"}, {"/undelivered", "Undelivered"}, {"/dead-letters", "Dead letters"}, {"/replays", "Replays"}},
		{{"/providers", "Providers"}, {"/event-types", "Event types"}, {"/apps", "Apps"}},
		{{"/usage", "Usage"}, {"/changes", "Changes"}, {"/keys", "Keys"}, {"/sessions", "Sessions"}},
	}
	if p.caller.IsAdmin() {
		groups[2] = append([]entry{{"/tenants", "Tenants"}}, groups[2]...)
	}
	return groups
}

// exact returns a time as pages show it without scripts, and where the reader asks for the exact one.
func exact(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 MST") }

// machine returns a time as programs read it.
func machine(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// count returns a number with its digits in groups.
func count[N ~int | ~int64](n N) string {
	text := strconv.FormatInt(int64(n), 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

// size returns a number of bytes in the unit that suits it.
func size(n int64) string {
	v, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v < 1024 {
			break
		}
		v, unit = v/1024, next
	}
	if unit == "B" || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// span returns a duration in one or two units.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// percent returns a share with the digits that matter near 100 %.
func percent(part, whole int64) string {
	if whole == 0 {
		return "–"
	}
	v := 100 * float64(part) / float64(whole)
	if part < whole && v > 99.99 {
		v = 99.99
	}
	if part == whole {
		return "100 %"
	}
	return fmt.Sprintf("%.2f %%", v)
}

// short returns an ID without the characters in its middle, for tables. IDs of one time begin alike, so
// the end is what tells them apart.
func short(id string) string {
	prefix, rest, ok := strings.Cut(id, "_")
	if !ok || len(rest) <= 8 {
		return id
	}
	return prefix + "_…" + rest[len(rest)-8:]
}

// tone returns how a status is coloured: ok, bad, wait or off. The status is always there as a word.
func tone(status string) string {
	switch status {
	case "delivered", "active", "closed", "done", "200":
		return "ok"
	case "failed", "dead_letter", "disabled", "open", "unmatched":
		return "bad"
	case "pending", "delivering", "received", "half_open", "running":
		return "wait"
	}
	return "off"
}

// worded returns a status as people read it.
func worded(status string) string { return strings.ReplaceAll(status, "_", " ") }

// plural returns a count with its noun.
func plural(n int, noun string) string {
	if n != 1 && strings.HasSuffix(noun, "y") {
		return count(n) + " " + strings.TrimSuffix(noun, "y") + "ies"
	}
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// visible returns a text with the characters that could make it look like another one written out:
// controls, marks of direction, and what has no width.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co):
			fmt.Fprintf(&b, "\\u{%x}", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
