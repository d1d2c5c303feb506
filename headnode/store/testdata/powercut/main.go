// Command powercut is a machine that commits batches of records until its
// power is cut. At the start it says which records there are.
package main

import (
	"context"
	"fmt"
	"slices"

	"muster/headnode/store"
	"muster/internal/powercut/guest"
)

// So many writers commit batches of perBatch records at a time, so that
// groups of several batches are written too.
const (
	writers  = 4
	perBatch = 5
)

func main() { guest.Main(run) }

func run(ctx context.Context, args []string) error {
	s, err := store.Open(ctx, store.Config{Dir: guest.Disk + "/nats", NoSync: slices.Contains(args, "nosync")})
	if err != nil {
		return err
	}
	for _, r := range s.List("batch") {
		guest.Kept(r.ID)
	}
	guest.Started()
	failed := make(chan error)
	for w := range writers {
		go func() { failed <- write(ctx, s, w) }()
	}
	return <-failed
}

// write commits batches for ever.
func write(ctx context.Context, s *store.Store, writer int) error {
	for n := 0; ; n++ {
		batch := fmt.Sprintf("w%d-b%d", writer, n)
		var ops []store.Op
		for i := range perBatch {
			ops = append(ops, store.Op{Kind: "batch", ID: fmt.Sprintf("%s-%d", batch, i), Data: []byte(`{"schema":1}`)})
		}
		if _, err := s.Commit(ctx, ops...); err != nil {
			return fmt.Errorf("committing %s: %w", batch, err)
		}
		guest.Acknowledged(batch)
	}
}
