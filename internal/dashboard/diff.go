package dashboard

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

// diffs registers the page that compares two attempts of a delivery.
func (d *Dashboard) diffs() {
	d.get("/deliveries/{id}/compare", access.Read, func(p *page) (result, error) {
		id, err := kapsel.ParseDeliveryID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		v := &comparison{}
		if v.Delivery, err = d.Manage.Delivery(p.ctx, p.caller, id); err != nil {
			return result{}, err
		}
		for i, name := range []string{"a", "b"} {
			n, err := strconv.Atoi(p.query.Get(name))
			if err != nil || n < 1 {
				return result{}, kapsel.Invalid(400, kapsel.FieldError{Field: name, Detail: "must be the number of an attempt"})
			}
			found, err := d.Manage.ListAttempts(p.ctx, p.caller, id, n-1, 1)
			if err != nil {
				return result{}, err
			}
			if len(found) == 0 || found[0].Number != n {
				return result{}, kapsel.Errorf(kapsel.NotFound, "the delivery has no attempt %d", n)
			}
			v.of[i] = found[0]
		}
		return p.show("/events", "Attempts compared", comparePage(p, v))
	})
}

// comparison is two attempts of a delivery.
type comparison struct {
	manage.Delivery
	of [2]manage.Attempt
}

// attemptsPath returns the path of the comparison.
func (v *comparison) attemptsPath() string { return "/deliveries/" + v.ID.String() + "/compare" }

// compared is a fact of two attempts.
type compared struct{ name, a, b string }

// facts returns what the attempts have in common and where they differ, but for headers and bodies.
func (v *comparison) facts() []compared {
	of := func(name string, text func(*manage.Attempt) string) compared {
		return compared{name, text(&v.of[0]), text(&v.of[1])}
	}
	return []compared{
		of("Outcome", outcome),
		of("Error", func(a *manage.Attempt) string { return orDash(visible(a.Error)) }),
		of("Code", func(a *manage.Attempt) string { return orDash(string(a.ErrorCode)) }),
		of("Began", func(a *manage.Attempt) string { return exact(a.StartedAt) }),
		of("Took", func(a *manage.Attempt) string { return span(a.Duration) }),
		of("Leaf", func(a *manage.Attempt) string {
			if a.LeafIndex == nil {
				return "–"
			}
			return count(*a.LeafIndex)
		}),
	}
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// headerLines returns the fields of a header, a line each.
func headerLines(h kapsel.Header) (lines []string) {
	for _, f := range shownHeader(h) {
		lines = append(lines, f.Name+": "+f.Value)
	}
	return lines
}

// bodyLines returns a body as lines of text: JSON indented, and what is no text in hexadecimal.
func bodyLines(body []byte) []string {
	if len(body) == 0 {
		return nil
	}
	var indented bytes.Buffer
	if json.Indent(&indented, body, "", "  ") == nil {
		body = indented.Bytes()
	}
	return strings.Split(strings.TrimSuffix(answerText(body), "\n"), "\n")
}

// diffLine is a line of a comparison: only in the first text ('-'), only in the second ('+'), or in both (' ').
type diffLine struct {
	sign byte
	text string
}

// maxDiff is how many lines of each text a comparison looks at.
const maxDiff = 1000

// diff compares two texts by their lines: it keeps a longest common subsequence, and says what is in one of
// them only. whole is false if it left out lines beyond maxDiff.
func diff(a, b []string) (lines []diffLine, whole bool) {
	whole = len(a) <= maxDiff && len(b) <= maxDiff
	a, b = a[:min(len(a), maxDiff)], b[:min(len(b), maxDiff)]
	// common[i][j] is how many lines a[i:] and b[j:] have in common.
	common := make([][]uint16, len(a)+1)
	for i := range common {
		common[i] = make([]uint16, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, diffLine{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, diffLine{'-', a[i]})
			i++
		default:
			lines = append(lines, diffLine{'+', b[j]})
			j++
		}
	}
	return lines, whole
}

// same reports whether a comparison found no difference.
func same(lines []diffLine) bool {
	for _, l := range lines {
		if l.sign != ' ' {
			return false
		}
	}
	return true
}
