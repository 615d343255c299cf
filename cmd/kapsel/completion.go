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
		text = strings.Join(candidates(k.Model.Node, c.Words, func(kind string) []string { return askNames(ctx, kind) }), "\n")
	}
	return printed(fmt.Fprintln(to.out, strings.TrimRight(text, "\n")))
}

// candidates are what may stand where the last word is: commands, after a dash flags, and values
// of flags and arguments that have a list of them. ask returns those that only the service knows.
// An argument that is no command's name is passed over.
func candidates(node *kong.Node, words []string, ask func(kind string) []string) []string {
	last := ""
	if len(words) > 0 {
		last = words[len(words)-1]
		words = words[:len(words)-1]
	}
	// bash makes words of a flag, = and a value.
	if last == "=" {
		last = ""
	} else if len(words) > 0 && words[len(words)-1] == "=" {
		words = words[:len(words)-1]
	}
	arguments := 0
	var valueOf *kong.Flag
	for _, word := range words {
		if valueOf != nil {
			valueOf = nil
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
			arguments++
		}
	}
	var found []string
	prefix := ""
	name, value, assigned := strings.Cut(last, "=")
	switch {
	case valueOf != nil:
		prefix, last, found = listed(valueOf.Value, last, ask)
	case strings.HasPrefix(last, "--") && assigned:
		if f := takesValue(node, name); f != nil {
			prefix, last, found = listed(f.Value, value, ask)
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
		if arguments < len(node.Positional) {
			prefix, last, found = listed(node.Positional[arguments], last, ask)
		}
	}
	found = slices.DeleteFunc(found, func(s string) bool { return !strings.HasPrefix(s, last) })
	for i := range found {
		found[i] = prefix + found[i]
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// takesValue is the flag that a word names, if a value follows it.
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

// listed are the values that a flag or an argument may have, as far as there is a list of them.
// Of a comma list only the part behind the last comma is completed.
func listed(v *kong.Value, last string, ask func(kind string) []string) (prefix, rest string, values []string) {
	if v.IsCumulative() {
		if i := strings.LastIndexByte(last, ','); i >= 0 {
			prefix, last = last[:i+1], last[i+1:]
		}
	}
	switch kind := v.Tag.Get("complete"); {
	case kind == "endpoint" || kind == "tenant" || kind == "provider":
		values = ask(kind)
	case kind != "":
		values = strings.Split(kind, ",")
	default:
		values = slices.DeleteFunc(v.EnumSlice(), func(s string) bool { return s == "" })
	}
	return prefix, last, values
}

// askWait is how long who presses a key waits for the service's names.
const askWait = time.Second

// askNames are the names of the service's objects of a kind that a shell takes as one word, and
// the ids of those with another name; none when it does not answer.
func askNames(ctx context.Context, kind string) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	settings := clientSettings{
		Server: cmp.Or(os.Getenv("KAPSEL_URL"), "http://127.0.0.1:8080"), APIKey: secret.NewText(os.Getenv("KAPSEL_API_KEY")),
		AdminKey: secret.NewText(os.Getenv("KAPSEL_ADMIN_KEY")), DatabaseURL: os.Getenv("DATABASE_URL"),
	}
	if kind == "provider" {
		return append(signature.Providers(), signature.None)
	}
	s, err := settings.connect(streams{io.Discard, io.Discard})
	if err != nil {
		return nil
	}
	add := func(id, name string, err error) bool {
		switch {
		case err != nil:
			return false
		case strings.ContainsFunc(name, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.", r)
		}):
			name = id
		}
		names = append(names, name)
		return true
	}
	if kind == "tenant" {
		for t, err := range s.ListTenants(ctx) {
			if !add(t.ID, t.Name, err) {
				break
			}
		}
		return names
	}
	for e, err := range s.ListEndpoints(ctx, client.ListEndpointsFilter{}) {
		if !add(e.ID, e.Name, err) {
			break
		}
	}
	return names
}
