package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
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
	COMPREPLY=($(compgen -W "$(kapsel completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
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
func (c completionCmd) Run(k *kong.Context, io streams) error {
	text, ok := completions[c.Shell]
	if !ok {
		text = strings.Join(candidates(k.Model.Node, c.Words), "\n")
	}
	return printed(fmt.Fprintln(io.out, strings.TrimRight(text, "\n")))
}

// candidates are the commands, or after a dash the flags, that may stand where the last word
// is. An argument that is no command's name is passed over.
func candidates(node *kong.Node, words []string) []string {
	last := ""
	if len(words) > 0 {
		last = words[len(words)-1]
		words = words[:len(words)-1]
	}
	for _, word := range words {
		for _, child := range node.Children {
			if child.Name == word || slices.Contains(child.Aliases, word) {
				node = child
				break
			}
		}
	}
	var found []string
	if strings.HasPrefix(last, "-") {
		for _, flags := range node.AllFlags(true) {
			for _, f := range flags {
				found = append(found, "--"+f.Name)
			}
		}
	} else {
		for _, child := range node.Children {
			if child.Type == kong.CommandNode && !child.Hidden {
				found = append(found, child.Name)
			}
		}
	}
	found = slices.DeleteFunc(found, func(s string) bool { return !strings.HasPrefix(s, last) })
	slices.Sort(found)
	return slices.Compact(found)
}
