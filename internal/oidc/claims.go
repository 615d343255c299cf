package oidc

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
)

// claims are what a provider says of a person.
type claims map[string]any

// Match is a value that a claim must have, or that must be among its values. A name with dots, such as
// realm_access.roles, is that of a member of an object, unless a claim has it as it is.
type Match struct{ Claim, Value string }

// TenantRule gives a person to a tenant if it is true of the person. Without a Value the claim itself is the tenant's
// ID.
type TenantRule struct {
	Match
	Tenant kapsel.TenantID
}

// Rules say what a provider's claims give a person here.
type Rules struct {
	Admin  []Match      // one of them makes the operator of the instance
	Tenant []TenantRule // which tenant a person belongs to
	Write  []Match      // one of them lets a person of a tenant change things; others only read
}

// ParseMatches reads a comma list of CLAIM=VALUE.
func ParseMatches(list string) (all []Match, err error) {
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		claim, value, ok := strings.Cut(item, "=")
		if claim, value = strings.TrimSpace(claim), strings.TrimSpace(value); !ok || claim == "" || value == "" {
			return nil, fmt.Errorf("%.60q is not CLAIM=VALUE, such as groups=kapsel-admins", item)
		}
		all = append(all, Match{claim, value})
	}
	return all, nil
}

// ParseTenantRules reads a comma list of CLAIM, whose value is a tenant's ID, or CLAIM=VALUE:TENANT.
func ParseTenantRules(list string) (all []TenantRule, err error) {
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		if !strings.Contains(item, "=") {
			all = append(all, TenantRule{Match: Match{Claim: item}})
			continue
		}
		colon := strings.LastIndexByte(item, ':')
		if colon < 0 {
			return nil, fmt.Errorf("%.60q is neither CLAIM nor CLAIM=VALUE:TENANT, such as groups=acme:ten_…", item)
		}
		matches, err := ParseMatches(item[:colon])
		if err != nil || len(matches) != 1 {
			return nil, fmt.Errorf("%.60q is neither CLAIM nor CLAIM=VALUE:TENANT, such as groups=acme:ten_…", item)
		}
		id, err := kapsel.ParseTenantID(strings.TrimSpace(item[colon+1:]))
		if err != nil {
			return nil, fmt.Errorf("%.60q does not end in the id of a tenant, ten_…", item)
		}
		all = append(all, TenantRule{matches[0], id})
	}
	return all, nil
}

// names returns the claims that the rules look at.
func (r *Rules) names() (all []string) {
	for _, m := range slices.Concat(r.Admin, r.Write) {
		all = append(all, m.Claim)
	}
	for _, t := range r.Tenant {
		all = append(all, t.Claim)
	}
	return all
}

// find returns the value of a claim, nil if there is none.
func (c claims) find(name string) any {
	if v, ok := c[name]; ok {
		return v
	}
	first, rest, ok := strings.Cut(name, ".")
	if inner, is := c[first].(map[string]any); ok && is {
		return claims(inner).find(rest)
	}
	return nil
}

// values returns the texts of a claim: its own, or those of its list. An e-mail address that the provider
// has not verified is none, because whoever has an account may have written it.
func (c claims) values(name string) (all []string) {
	if name == "email" && !slices.Contains(c.values("email_verified"), "true") {
		return nil
	}
	v := c.find(name)
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, v := range list {
		switch v := v.(type) {
		case string:
			all = append(all, v)
		case bool, json.Number:
			all = append(all, fmt.Sprint(v))
		}
	}
	return all
}

// any reports whether one of the matches holds.
func (c claims) any(matches []Match) bool {
	return slices.ContainsFunc(matches, func(m Match) bool { return slices.Contains(c.values(m.Claim), m.Value) })
}

var (
	errNobody = errors.New("no rule gives the person anything")
	errMany   = errors.New("the claims name more than one tenant")
)

// person returns what the rules give the person whose claims a provider makes: errNobody or errMany if
// that is nothing.
func (r *Rules) person(c claims) (p access.Person, err error) {
	p.Subject, _ = c["sub"].(string)
	p.Name = called(c)
	if c.any(r.Admin) {
		p.Right = access.Operate
		return p, nil
	}
	for _, rule := range r.Tenant {
		for _, value := range c.values(rule.Claim) {
			id := rule.Tenant
			if rule.Value == "" {
				if id, err = kapsel.ParseTenantID(value); err != nil {
					continue
				}
			} else if value != rule.Value {
				continue
			}
			if !p.Tenant.IsZero() && p.Tenant != id {
				return p, errMany
			}
			p.Tenant = id
		}
	}
	if p.Tenant.IsZero() {
		return p, errNobody
	}
	if p.Right = access.Read; c.any(r.Write) {
		p.Right = access.Write
	}
	return p, nil
}

// maxName is how many bytes of a person's name are kept.
const maxName = 120

// called returns what to call a person: the e-mail address, the user name, the name or the subject, whatever
// there is first. The text is the provider's or the person's own, so only what can be seen is kept.
func called(c claims) string {
	for _, name := range []string{"email", "preferred_username", "name", "sub"} {
		text, _ := c[name].(string)
		if text = Printable(text, maxName); text != "" {
			return text
		}
	}
	return ""
}

// Printable returns the characters of a text that can be seen, and spaces, at most so many bytes. What turns
// the direction of writing, or takes no room, is left out.
func Printable(text string, most int) string {
	var kept strings.Builder
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			continue
		}
		if kept.Len()+utf8.RuneLen(r) > most {
			break
		}
		kept.WriteRune(r)
	}
	return strings.TrimSpace(kept.String())
}
