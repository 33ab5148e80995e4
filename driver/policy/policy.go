package policy

import (
	"slices"
	"strings"

	"github.com/closured/closured/internal/redact"
	"github.com/closured/closured/nixstore"
)

// Decision is what a namespace may do with a source that it may use.
type Decision struct {
	Build bool // false: substitute only
}

// Policy is a list of rules. Default and Parse make one; it never changes.
type Policy struct {
	name   string // "the policy", or "the default policy"
	rules  []rule
	redact *redact.Redactor
}

// rule is one rule, checked.
type rule struct {
	namespaces []string
	sources    []nixstore.SourceKind
	flakes     []flakePattern
	build      bool
}

// kinds gives the words that a rule's sources may hold, in the order of the documentation.
func kinds() []nixstore.SourceKind {
	return []nixstore.SourceKind{
		nixstore.SourceStorePath, nixstore.SourcePackages, nixstore.SourceImage, nixstore.SourceFlake, nixstore.SourceExpr,
	}
}

// Default gives the rules of an agent without a policy file: store paths, packages
// and images for all, with builds; flakes and expressions for none.
func Default() *Policy {
	return &Policy{
		name:   "the default policy",
		redact: redact.New(),
		rules: []rule{{
			namespaces: []string{"*"},
			sources:    []nixstore.SourceKind{nixstore.SourceStorePath, nixstore.SourcePackages, nixstore.SourceImage},
			build:      true,
		}},
	}
}

// Check tells what namespace may do with src; an empty namespace is a request of
// nobody's. A refusal is nixstore.ErrForbidden.
func (p *Policy) Check(namespace string, src nixstore.Source) (Decision, error) {
	number, r := p.ruleFor(namespace)
	switch {
	case r == nil:
		return Decision{}, nixstore.Fail(nixstore.ErrForbidden, "ask the operator to add one",
			"%s has no rule for %s, which asks for %s", p.name, asker(namespace), src.Kind)
	case !slices.Contains(r.sources, src.Kind):
		return Decision{}, nixstore.Fail(nixstore.ErrForbidden, "use one of those, or ask the operator to allow "+string(src.Kind)+" in that rule",
			"rule %d of %s allows %s %s, not %s", number, p.name, asker(namespace), listing(r.sources), src.Kind)
	case src.Kind == nixstore.SourceFlake:
		if problem := r.flakeProblem(src.Flake); problem != "" {
			return Decision{}, nixstore.Fail(nixstore.ErrForbidden, "ask the operator, who can add a pattern to the flakes of that rule",
				"rule %d of %s does not allow %s the flakeRef %s: %s",
				number, p.name, asker(namespace), nixstore.Quote(p.redact.Text(src.Flake)), problem)
		}
	}
	return Decision{Build: r.build}, nil
}

// ruleFor gives the rule that decides for namespace, and its number from 1.
func (p *Policy) ruleFor(namespace string) (int, *rule) {
	for i := range p.rules {
		if slices.ContainsFunc(p.rules[i].namespaces, func(pattern string) bool { return matchesNamespace(pattern, namespace) }) {
			return i + 1, &p.rules[i]
		}
	}
	return 0, nil
}

func matchesNamespace(pattern, namespace string) bool {
	if namespace == "" {
		return pattern == "*"
	}
	return glob(pattern, namespace)
}

// flakeProblem says why no pattern allows ref, or "": the reason of the pattern
// that comes nearest.
func (r *rule) flakeProblem(ref string) string {
	problem := "no pattern matches it"
	for _, pattern := range r.flakes {
		switch reason := pattern.problem(ref); reason {
		case "":
			return ""
		case elsewhere:
		default:
			problem = reason
		}
	}
	return problem
}

func asker(namespace string) string {
	if namespace == "" {
		return "a request without a namespace"
	}
	return "namespace " + nixstore.Quote(namespace)
}

func listing(sources []nixstore.SourceKind) string {
	if len(sources) == 0 {
		return "nothing"
	}
	words := make([]string, len(sources))
	for i, s := range sources {
		words[i] = string(s)
	}
	return strings.Join(words, ", ")
}
