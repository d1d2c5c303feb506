package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/headnode/store"
)

// Run checks the behavior that every store.Interface must show. open returns
// an empty store; it may register its own cleanup.
func Run(t *testing.T, open func(t *testing.T) store.Interface) {
	for name, check := range map[string]func(*testing.T, store.Interface){
		"a batch is there as a whole":        checkBatch,
		"an unexpected revision conflicts":   checkConflict,
		"a deleted record can be made again": checkDelete,
		"names and sizes are checked":        checkNames,
		"a list is sorted and of one kind":   checkList,
		"writers at once lose nothing":       checkParallel,
		"one compare-and-set of many wins":   checkRace,
		"history is read newest first":       checkHistory,
		"a context that is done stops":       checkCanceled,
		"values are copies":                  checkCopies,
	} {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

func put(kind, id string, expect uint64, data string) store.Op {
	return store.Op{Kind: kind, ID: id, Expect: expect, Data: []byte(data)}
}

func mustCommit(t *testing.T, s store.Interface, ops ...store.Op) uint64 {
	t.Helper()
	rev, err := s.Commit(context.Background(), ops...)
	if err != nil {
		t.Fatalf("Commit(%d ops) = %v", len(ops), err)
	}
	return rev
}

func checkBatch(t *testing.T, s store.Interface) {
	before := s.Rev()
	rev := mustCommit(t, s, put("job", "1", 0, `{"schema":1}`), put("job", "2", 0, `{"schema":2}`), put("node", "a", store.AnyRev, `{}`))
	if rev < before+3 {
		t.Errorf("Commit of three = revision %d after %d, want three more at least", rev, before)
	}
	want := []store.Record{
		{Kind: "job", ID: "1", Rev: rev - 2, Data: []byte(`{"schema":1}`)},
		{Kind: "job", ID: "2", Rev: rev - 1, Data: []byte(`{"schema":2}`)},
	}
	if diff := cmp.Diff(want, s.List("job")); diff != "" {
		t.Errorf("List(job) differs (-want +got):\n%s", diff)
	}
	if got, ok := s.Get("node", "a"); !ok || got.Rev != rev {
		t.Errorf("Get(node, a) = %v, %v, want revision %d", got, ok, rev)
	}
	if s.Rev() != rev {
		t.Errorf("Rev() = %d, want %d", s.Rev(), rev)
	}
	if _, err := s.Commit(context.Background()); err != nil {
		t.Errorf("Commit of nothing = %v, want nil", err)
	}
}

func checkConflict(t *testing.T, s store.Interface) {
	ctx := context.Background()
	rev := mustCommit(t, s, put("job", "1", 0, "a"))
	for name, op := range map[string]store.Op{
		"exists":  put("job", "1", 0, "b"),
		"old":     put("job", "1", rev+7, "b"),
		"missing": put("job", "2", rev, "b"),
		"delete":  {Kind: "job", ID: "1", Expect: rev + 1},
	} {
		if _, err := s.Commit(ctx, put("job", "9", 0, "x"), op); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: Commit = %v, want ErrConflict", name, err)
		}
	}
	if _, ok := s.Get("job", "9"); ok {
		t.Error("a batch with a conflict wrote one of its records")
	}
	if got, _ := s.Get("job", "1"); string(got.Data) != "a" || got.Rev != rev {
		t.Errorf("record after conflicts = %q at %d, want a at %d", got.Data, got.Rev, rev)
	}
	next := mustCommit(t, s, put("job", "1", rev, "b"))
	mustCommit(t, s, put("job", "1", next, "c"))
	mustCommit(t, s, put("job", "1", store.AnyRev, "d"))
}

func checkDelete(t *testing.T, s store.Interface) {
	rev := mustCommit(t, s, put("job", "1", 0, "a"), put("job", "2", 0, "b"))
	mustCommit(t, s, store.Op{Kind: "job", ID: "1", Expect: rev - 1}, put("job", "3", 0, "c"))
	if _, ok := s.Get("job", "1"); ok {
		t.Error("Get after a delete finds the record")
	}
	mustCommit(t, s, store.Op{Kind: "job", ID: "gone", Expect: store.AnyRev})
	mustCommit(t, s, put("job", "1", 0, "again"))
	if got, ok := s.Get("job", "1"); !ok || string(got.Data) != "again" {
		t.Errorf("Get = %q, %v, want again", got.Data, ok)
	}
	if got := len(s.List("job")); got != 3 {
		t.Errorf("%d records, want 3", got)
	}
}

func checkNames(t *testing.T, s store.Interface) {
	ctx := context.Background()
	for _, op := range []store.Op{
		put("", "1", 0, "x"), put("job", "", 0, "x"), put("Job", "1", 0, "x"), put("job", "a.b", 0, "x"),
		put("job", "*", 0, "x"), put("job", ">", 0, "x"), put("job", "a b", 0, "x"), put("job", "a\r\nb", 0, "x"),
	} {
		if _, err := s.Commit(ctx, op); err == nil {
			t.Errorf("Commit(%q, %q) succeeded, want an error", op.Kind, op.ID)
		}
	}
	if _, err := s.Commit(ctx, put("job", "big", 0, string(make([]byte, store.MaxRecord+1)))); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("Commit of a huge record = %v, want ErrTooLarge", err)
	}
	twice := []store.Op{put("job", "1", store.AnyRev, "a"), put("job", "1", store.AnyRev, "b")}
	if _, err := s.Commit(ctx, twice...); err == nil {
		t.Error("Commit with one record twice succeeded, want an error")
	}
	if _, err := s.Commit(ctx, make([]store.Op, store.MaxBatch+1)...); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("Commit of a huge batch = %v, want ErrTooLarge", err)
	}
	if err := s.Append(ctx, "jobs", "a.b", []byte("x")); err == nil {
		t.Error("Append with a dot in the id succeeded, want an error")
	}
}

func checkList(t *testing.T, s store.Interface) {
	mustCommit(t, s, put("job", "b", 0, "1"), put("jobs", "z", 0, "2"), put("job", "a", 0, "3"), put("job", "C", 0, "4"))
	var ids []string
	for _, r := range s.List("job") {
		ids = append(ids, r.ID)
	}
	if diff := cmp.Diff([]string{"C", "a", "b"}, ids); diff != "" {
		t.Errorf("List(job) differs (-want +got):\n%s", diff)
	}
	if got := s.List("nothing"); got == nil || len(got) != 0 {
		t.Errorf("List of an unknown kind = %#v, want an empty list", got)
	}
}

func checkParallel(t *testing.T, s store.Interface) {
	const writers, each = 16, 25
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]string{}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				ids := [2]string{fmt.Sprintf("%d-%d-a", w, i), fmt.Sprintf("%d-%d-b", w, i)}
				rev, err := s.Commit(context.Background(), put("job", ids[0], 0, ids[0]), put("job", ids[1], 0, ids[1]))
				if err != nil {
					t.Errorf("Commit = %v", err)
					return
				}
				for k, id := range ids {
					got, ok := s.Get("job", id)
					if want := rev - 1 + uint64(k); !ok || got.Rev != want || string(got.Data) != id {
						t.Errorf("Get(%s) = %q at %d, %v, want revision %d", id, got.Data, got.Rev, ok, want)
					}
					mu.Lock()
					if other, dup := seen[got.Rev]; dup {
						t.Errorf("%s and %s have revision %d", other, id, got.Rev)
					}
					seen[got.Rev] = id
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if got := len(s.List("job")); got != 2*writers*each {
		t.Errorf("%d records, want %d", got, 2*writers*each)
	}
}

func checkRace(t *testing.T, s store.Interface) {
	rev := mustCommit(t, s, put("job", "1", 0, "start"))
	const writers = 12
	var wg sync.WaitGroup
	won := make(chan int, writers)
	for w := range writers {
		wg.Go(func() {
			_, err := s.Commit(context.Background(), put("job", "1", rev, fmt.Sprint(w)), put("node", fmt.Sprint(w), 0, "x"))
			switch {
			case err == nil:
				won <- w
			case !errors.Is(err, store.ErrConflict):
				t.Errorf("Commit = %v, want nil or ErrConflict", err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d writers won, want 1", len(won))
	}
	w := <-won
	if got, _ := s.Get("job", "1"); string(got.Data) != fmt.Sprint(w) {
		t.Errorf("record is %q, want that of the winner, %d", got.Data, w)
	}
	if got := len(s.List("node")); got != 1 {
		t.Errorf("%d records beside it, want that of the winner alone", got)
	}
}

func checkHistory(t *testing.T, s store.Interface) {
	ctx := context.Background()
	for i := range 25 {
		if err := s.Append(ctx, "jobs", fmt.Sprint(i), []byte(fmt.Sprint("data", i))); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			if err := s.Append(ctx, "nodes", fmt.Sprint(i), []byte("other")); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	var before uint64
	for {
		page, err := s.History(ctx, "jobs", before, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			if r.Kind != "jobs" || string(r.Data) != "data"+r.ID {
				t.Errorf("entry = %+v", r)
			}
			got = append(got, r.ID)
			before = r.Rev
		}
	}
	var want []string
	for i := 24; i >= 0; i-- {
		want = append(want, fmt.Sprint(i))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("History differs (-want +got):\n%s", diff)
	}
	if page, err := s.History(ctx, "nothing", 0, 5); err != nil || len(page) != 0 {
		t.Errorf("History of an unknown subject = %v, %v, want nothing", page, err)
	}
}

func checkCanceled(t *testing.T, s store.Interface) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Commit(ctx, put("job", "1", 0, "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit = %v, want context.Canceled", err)
	}
	if err := s.Append(ctx, "jobs", "1", []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Append = %v, want context.Canceled", err)
	}
	if _, ok := s.Get("job", "1"); ok {
		t.Error("a canceled Commit wrote")
	}
}

func checkCopies(t *testing.T, s store.Interface) {
	data := []byte("good")
	mustCommit(t, s, store.Op{Kind: "job", ID: "1", Data: data})
	data[0] = 'X'
	if got, _ := s.Get("job", "1"); string(got.Data) != "good" {
		t.Errorf("record = %q after its writer's buffer changed, want good", got.Data)
	}
}
