package images

import (
	"errors"
	"fmt"
)

// named is an item of a list that has a name of its own there.
type named interface {
	// named returns the list's key, the item's name, where the definition has it, and
	// whether it shall replace an inherited one.
	named() (kind, name, at string, replace bool)
}

// mergeNamed adds the items of the child to the inherited ones. One that says so takes the
// place of the inherited one of its name; two of a name that stay are found by
// checkTwice.
func mergeNamed[T named](base, child []T) []T {
	if len(base) == 0 {
		return child
	}
	replaced := make(map[string]bool)
	for _, c := range child {
		if _, name, _, replace := c.named(); replace {
			replaced[name] = true
		}
	}
	var out []T
	for _, b := range base {
		if _, name, _, _ := b.named(); !replaced[name] {
			out = append(out, b)
		}
	}
	return append(out, child...)
}

// checkTwice names every two items of one name.
func checkTwice[T named](items []T) error {
	var errs []error
	first := make(map[string]string)
	for _, item := range items {
		kind, name, at, _ := item.named()
		if other, ok := first[name]; ok {
			errs = append(errs, twiceError(kind, name, other, at))
			continue
		}
		first[name] = at
	}
	return errors.Join(errs...)
}

func twiceError(kind, name, first, second string) error {
	if first == "" || second == "" {
		return fmt.Errorf("%s: %s is there twice", kind, name)
	}
	return fmt.Errorf("%s: %s is at %s and at %s; leave one out, or say replace: true at the one that shall take the place of an inherited one", kind, name, first, second)
}
