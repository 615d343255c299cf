package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// serviceLinks matches what Kubernetes sets in a container for each service whose name begins
// with kapsel: KAPSEL_PORT, KAPSEL_SERVICE_HOST, KAPSEL_METRICS_PORT_9464_TCP_ADDR and so on
// (kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
var serviceLinks = regexp.MustCompile(`^KAPSEL_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// typo is how many edits away from a setting's name a name still counts as mistyped.
const typo = 2

// checkEnvironment returns an error for a variable whose name is nearly that of a setting, because the
// setting would silently keep its default. It returns the other unknown names that begin with KAPSEL_.
func checkEnvironment(model *kong.Node, environment []string) (unknown []string, err error) {
	known := settingNames(model)
	for _, variable := range environment {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "KAPSEL_") || slices.Contains(known, name) || serviceLinks.MatchString(name) {
			continue
		}
		nearest, edits := "", typo+1
		for _, k := range known {
			if n := distance(name, k); n < edits {
				nearest, edits = k, n
			}
		}
		if nearest != "" {
			return nil, settingError("%s: is no setting; is %s meant?", name, nearest)
		}
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	return unknown, nil
}

// settingNames returns the variables that any command reads, sorted.
func settingNames(node *kong.Node) (names []string) {
	for _, f := range node.Flags {
		names = append(names, f.Envs...)
	}
	for _, child := range node.Children {
		names = append(names, settingNames(child)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// distance returns how many letters must be inserted, removed or replaced to turn b into a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
