package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/alecthomas/kong"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

type completionCmd struct {
	Shell string   `arg:"" enum:"bash,zsh,fish,words" help:"bash, zsh or fish."`
	Words []string `arg:"" optional:"" hidden:""`
}

// Help has examples.
func (completionCmd) Help() string {
	return `Examples:
  source <(kapsel completion bash)      # in ~/.bashrc
  source <(kapsel completion zsh)       # in ~/.zshrc, after compinit
  kapsel completion fish | source       # in ~/.config/fish/config.fish`
}

// The shells ask the program itself what may come next: kapsel completion words -- WORDS.
var completions = map[string]string{
	"bash": `_kapsel() {
	local IFS=$'\n'
	COMPREPLY=($(compgen -W "$(kapsel completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]#=}"))
}
complete -o default -F _kapsel kapsel
`,
	"zsh": `#compdef kapsel
_kapsel() { compadd -- ${(f)"$(kapsel completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"} || _files }
compdef _kapsel kapsel
`,
	"fish": `complete -c kapsel -a '(kapsel completion words -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
`,
}

// Run prints a shell's script, or the words that may come next.
func (c completionCmd) Run(ctx context.Context, k *kong.Context, to streams) error {
	text, ok := completions[c.Shell]
	if !ok {
		text = strings.Join(candidates(k.Model.Node, c.Words, func(kind string, s said) []string { return askNames(ctx, kind, s) }), "\n")
	}
	return printed(fmt.Fprintln(to.out, strings.TrimRight(text, "\n")))
}

// said holds the words of a command line before the last one, as far as completion needs them.
type said struct {
	arguments []string // those that are no command's name
	tenant    string   // the value of --tenant
}

// candidates returns what may stand in place of the last word: commands, flags after a dash, or the values
// of a flag or an argument, if they can be listed. ask returns the values of a kind that depend on other
// words or that only the service knows.
func candidates(node *kong.Node, words []string, ask func(kind string, s said) []string) []string {
	if len(words) > 1 && words[0] == "help" {
		words = words[1:]
	}
	last := ""
	if len(words) > 0 {
		last = words[len(words)-1]
		words = words[:len(words)-1]
	}
	// bash splits --flag=value into three words.
	if last == "=" {
		last = ""
	} else if len(words) > 0 && words[len(words)-1] == "=" {
		words = words[:len(words)-1]
	}
	var s said
	var valueOf *kong.Flag
	for _, word := range words {
		if valueOf != nil {
			if valueOf.Name == "tenant" && word != "=" {
				s.tenant = word
			}
			if word != "=" {
				valueOf = nil
			}
			continue
		}
		if tenant, ok := strings.CutPrefix(word, "--tenant="); ok {
			s.tenant = tenant
			continue
		}
		if strings.HasPrefix(word, "-") {
			valueOf = takesValue(node, word)
			continue
		}
		before := node
		for _, child := range node.Children {
			if child.Name == word || slices.Contains(child.Aliases, word) {
				node = child
				break
			}
		}
		if node == before {
			s.arguments = append(s.arguments, word)
		}
	}
	var found []string
	prefix := ""
	name, value, assigned := strings.Cut(last, "=")
	switch {
	case valueOf != nil:
		prefix, last, found = listed(valueOf.Value, last, s, ask)
	case strings.HasPrefix(last, "--") && assigned:
		if f := takesValue(node, name); f != nil {
			prefix, last, found = listed(f.Value, value, s, ask)
			prefix = name + "=" + prefix
		}
	case strings.HasPrefix(last, "-"):
		for _, flags := range node.AllFlags(true) {
			for _, f := range flags {
				found = append(found, "--"+f.Name)
			}
		}
	default:
		for _, child := range node.Children {
			if child.Type == kong.CommandNode && !child.Hidden {
				found = append(found, child.Name)
			}
		}
		if n := len(s.arguments); n < len(node.Positional) {
			prefix, last, found = listed(node.Positional[n], last, s, ask)
		}
	}
	found = slices.DeleteFunc(found, func(s string) bool { return !strings.HasPrefix(s, last) })
	for i := range found {
		found[i] = prefix + found[i]
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// takesValue returns the flag that a word names if a value must follow it, otherwise nil.
func takesValue(node *kong.Node, word string) *kong.Flag {
	for _, flags := range node.AllFlags(false) {
		for _, f := range flags {
			if (word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short)) && !f.IsBool() {
				return f
			}
		}
	}
	return nil
}

// listed returns the values that a flag or an argument may have, none if they cannot be listed. In a list
// with commas only the last value is completed: prefix is what precedes it, rest the value so far.
func listed(v *kong.Value, last string, s said, ask func(kind string, s said) []string) (prefix, rest string, values []string) {
	if v.IsCumulative() {
		if i := strings.LastIndexByte(last, ','); i >= 0 {
			prefix, last = last[:i+1], last[i+1:]
		}
	}
	switch kind := v.Tag.Get("complete"); {
	case slices.Contains([]string{"endpoint", "source", "app", "event-type", "origin", "tenant", "key", "provider", "sample"}, kind):
		values = ask(kind, s)
	case kind != "":
		values = strings.Split(kind, ",")
	default:
		values = slices.DeleteFunc(v.EnumSlice(), func(s string) bool { return s == "" })
	}
	return prefix, last, values
}

// askWait is how long completion waits for the service at most.
const askWait = time.Second

// askNames returns the names of the objects of a kind, and the ID in place of a name that a shell does not
// take as one word. It returns none if the service does not answer.
func askNames(ctx context.Context, kind string, said said) (names []string) {
	switch kind {
	case "provider":
		return append(signature.Providers(), signature.None)
	case "sample":
		for _, sample := range signature.Samples(said.arguments[0]) {
			if oneWord(sample.Event) {
				names = append(names, sample.Event)
			}
		}
		return names
	}

	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	settings := clientSettings{
		Server: cmp.Or(os.Getenv("KAPSEL_URL"), "http://127.0.0.1:8080"), APIKey: secret.NewText(os.Getenv("KAPSEL_API_KEY")),
		AdminKey: secret.NewText(os.Getenv("KAPSEL_ADMIN_KEY")), DatabaseURL: os.Getenv("DATABASE_URL"),
	}
	s, err := settings.connect(streams{io.Discard, io.Discard})
	if err != nil {
		return nil
	}
	add := func(id, name string, err error) bool {
		if err == nil {
			if !oneWord(name) {
				name = id
			}
			names = append(names, name)
		}
		return err == nil
	}
	tenant, err := s.tenantNamed(ctx, said.tenant)
	if err != nil {
		return nil
	}
	switch kind {
	case "tenant":
		for t, err := range s.ListTenants(ctx) {
			if !add(t.ID, t.Name, err) {
				break
			}
		}
	case "key":
		if tenant, err = s.theTenant(ctx, tenant); err != nil {
			return nil
		}
		for k, err := range s.ListKeys(ctx, tenant) {
			if k.RevokedAt == nil && !add(k.ID, k.Name, err) {
				break
			}
		}
	case "endpoint":
		for e, err := range s.ListEndpoints(ctx, client.ListEndpointsFilter{TenantID: tenant}) {
			if !add(e.ID, e.Name, err) {
				break
			}
		}
	case "source":
		for v, err := range s.ListSources(ctx, client.ListSourcesFilter{TenantID: tenant}) {
			if !add(v.ID, v.Name, err) {
				break
			}
		}
	case "app":
		for v, err := range s.ListApps(ctx, client.ListAppsFilter{TenantID: tenant}) {
			if !add(v.ID, cmp.Or(there(v.UID), v.Name), err) {
				break
			}
		}
	case "event-type":
		for v, err := range s.ListEventTypes(ctx, client.ListEventTypesFilter{TenantID: tenant}) {
			if !add(v.Name, v.Name, err) {
				break
			}
		}
	case "origin":
		names = append(names, kapsel.Publish)
		for o, err := range s.origins(ctx, tenant) {
			if !add(o.id, o.name, err) {
				break
			}
		}
	}
	return names
}

// oneWord reports whether every shell takes a name as one word without quotes.
func oneWord(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./", r)
	})
}
