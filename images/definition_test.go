package images

import (
	"testing"
)

func TestShipped(t *testing.T) {
	for _, name := range Shipped() {
		d, err := Load(name)
		if err != nil {
			t.Fatalf("Load(%s): %v", name, err)
		}
		t.Logf("%+v", d)
		if d.Name != name {
			t.Errorf("Name = %q, want %q", d.Name, name)
		}
	}
}
