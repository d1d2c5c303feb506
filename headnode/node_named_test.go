package headnode

import (
	"fmt"
	"testing"
	"time"
)

// TestNamed: a name finds its machine whatever it found before.
func TestNamed(t *testing.T) {
	n := &Nodes{machines: map[string]*machine{}}
	add := func(id, name string) *machine {
		m := &machine{id: id, machineRecord: machineRecord{Name: name}}
		n.machines[id] = m
		return m
	}
	a, b := add("a", "n1"), add("b", "n2")
	check := func(what, name string, want *machine) {
		t.Helper()
		for range 2 { // found, and remembered
			if got := n.named(name); got != want {
				t.Errorf("%s: named(%q) = %v, want %v", what, name, got, want)
			}
		}
	}
	check("at first", "n1", a)
	check("at first", "n2", b)
	check("at first", "", nil)
	check("at first", "n3", nil)
	a.Name, b.Name = "n2", "n1"
	check("names changed places", "n1", b)
	check("names changed places", "n2", a)
	b.Name = "n9"
	check("another name", "n1", nil)
	check("another name", "n9", b)
	delete(n.machines, "a")
	check("removed", "n2", nil)
	c := add("a", "n2")
	check("another machine with its id", "n2", c)
}

// TestManyNames: the names of all nodes are found in a time that is that of one look at each.
func TestManyNames(t *testing.T) {
	const nodes = 10_000
	n := &Nodes{machines: map[string]*machine{}}
	names := make([]string, nodes)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i+1)
		m := &machine{id: names[i], machineRecord: machineRecord{Name: names[i]}}
		n.machines[m.id] = m
	}
	start := time.Now()
	for range 100 {
		for _, name := range names {
			if n.named(name) == nil {
				t.Fatalf("%s is not found", name)
			}
		}
	}
	// A million looks at a map; looking through all machines each time would be 10,000 times as many.
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("a million names were found in %v", took)
	}
}
