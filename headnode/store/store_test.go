package store_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"muster/headnode/store"
	"muster/headnode/store/storetest"
)

// writerDir makes this test binary a process that writes records to the named
// folder until it is killed.
const writerDir = "MUSTER_TEST_STORE_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		writer(dir)
		return
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Interface { return open(t, t.TempDir()) })
}

func put(kind, id string, expect uint64, data string) store.Op {
	return store.Op{Kind: kind, ID: id, Expect: expect, Data: []byte(data)}
}

func commit(t testing.TB, s store.Interface, ops ...store.Op) uint64 {
	t.Helper()
	rev, err := s.Commit(context.Background(), ops...)
	if err != nil {
		t.Fatalf("Commit = %v", err)
	}
	return rev
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	commit(t, s, put("job", "1", 0, "one"), put("job", "2", 0, "two"), put("node", "a", 0, "x"))
	rev := commit(t, s, put("job", "2", store.AnyRev, "two again"))
	commit(t, s, store.Op{Kind: "job", ID: "1", Expect: store.AnyRev})
	if err := s.Append(context.Background(), "jobs", "1", []byte("ended")); err != nil {
		t.Fatal(err)
	}
	last := s.Rev()
	s.Close()
	if _, err := s.Commit(context.Background(), put("job", "3", 0, "late")); err == nil {
		t.Error("Commit on a closed store succeeded")
	}

	s = open(t, dir)
	want := []store.Record{{Kind: "job", ID: "2", Rev: rev, Data: []byte("two again")}}
	if diff := cmp.Diff(want, s.List("job")); diff != "" {
		t.Errorf("records after opening again differ (-want +got):\n%s", diff)
	}
	if s.Rev() != last {
		t.Errorf("Rev() = %d, want %d", s.Rev(), last)
	}
	// The slot that the first job left is used again, and the second job's is not.
	commit(t, s, put("job", "4", 0, "four"), put("job", "2", rev, "three"))
	h, err := s.History(context.Background(), "jobs", 0, 10)
	if err != nil || len(h) != 1 || h[0].ID != "1" {
		t.Errorf("History = %v, %v, want the ended job", h, err)
	}
}

// writer writes batches of three records and a history entry, deletes every
// other batch again, and says on its output what was acknowledged.
func writer(dir string) {
	s, err := store.Open(context.Background(), store.Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	base := int64(s.Rev())
	var n atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				i := strconv.FormatInt(base+n.Add(1), 10)
				_, err := s.Commit(ctx, put("a", i, 0, i), put("b", i, 0, strings.Repeat(i, 30)), put("c", i, 0, i))
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println("put", i)
				mu.Unlock()
				if len(i)%2 == 0 || i[len(i)-1]%2 == 0 {
					continue
				}
				if _, err := s.Commit(ctx, store.Op{Kind: "a", ID: i, Expect: store.AnyRev}, store.Op{Kind: "b", ID: i, Expect: store.AnyRev},
					store.Op{Kind: "c", ID: i, Expect: store.AnyRev}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println("delete", i)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// runWriter kills the writer after it acknowledged n things, and returns
// all that it acknowledged.
func runWriter(t *testing.T, dir string, n int) (put, deleted map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerDir+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	put, deleted = map[string]bool{}, map[string]bool{}
	lines := bufio.NewReader(out)
	for i := 0; ; i++ {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == n {
			cmd.Process.Kill()
		}
		verb, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "put":
			put[id] = true
		case "delete":
			deleted[id] = true
		}
	}
	cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("writer: %s", stderr.String())
	}
	return put, deleted
}

func TestKillLosesNothing(t *testing.T) {
	dir := t.TempDir()
	put, deleted := map[string]bool{}, map[string]bool{}
	for round := range 4 {
		p, d := runWriter(t, dir, 150+100*round)
		for id := range p {
			put[id] = true
		}
		for id := range d {
			deleted[id] = true
		}
	}
	if len(put) < 400 || len(deleted) < 50 {
		t.Fatalf("only %d records were put and %d deleted", len(put), len(deleted))
	}
	s := open(t, dir)
	for id := range put {
		if deleted[id] {
			continue
		}
		// Its delete may have begun without being acknowledged; then the
		// whole batch is gone.
		var there []string
		for _, kind := range []string{"a", "b", "c"} {
			if _, ok := s.Get(kind, id); ok {
				there = append(there, kind)
			}
		}
		mayBeGone := !(len(id)%2 == 0 || id[len(id)-1]%2 == 0)
		if len(there) != 3 && !(mayBeGone && len(there) == 0) {
			t.Errorf("of the acknowledged batch %s only %v is there", id, there)
		}
	}
	for id := range deleted {
		if _, ok := s.Get("a", id); ok {
			t.Errorf("record %s is there again after its delete was acknowledged", id)
		}
	}
	for _, r := range s.List("a") {
		if _, ok := s.Get("c", r.ID); !ok {
			t.Errorf("batch %s is there in part", r.ID)
		}
	}
}

// TestDeletedStaysDeleted removes the index of JetStream's files, as a power
// cut may, after deleted records left their slots.
func TestDeletedStaysDeleted(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 50 {
		commit(t, s, put("job", strconv.Itoa(i), 0, "old"))
	}
	for i := range 25 {
		commit(t, s, store.Op{Kind: "job", ID: strconv.Itoa(2 * i), Expect: store.AnyRev})
	}
	for i := range 10 {
		commit(t, s, put("node", strconv.Itoa(i), 0, "new"))
	}
	s.Close()
	index, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs", "index.db"))
	if err != nil || len(index) == 0 {
		t.Fatalf("no index found: %v", err)
	}
	for _, f := range index {
		os.Remove(f)
	}
	s = open(t, dir)
	if got := len(s.List("job")); got != 25 {
		t.Errorf("%d jobs, want 25", got)
	}
	if got := len(s.List("node")); got != 10 {
		t.Errorf("%d nodes, want 10", got)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=40m,mode=0700"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir)
	data := strings.Repeat("x", 500<<10)
	var acked int
	var err error
	for acked < 200 {
		if _, err = s.Commit(context.Background(), put("job", strconv.Itoa(acked), 0, data), put("node", strconv.Itoa(acked), 0, "x")); err != nil {
			break
		}
		acked++
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("after %d batches on a small disk Commit = %v, want ErrFull", acked, err)
	}
	if s.Err() != nil {
		t.Errorf("the store gave up: %v", s.Err())
	}
	if got := len(s.List("job")); got != acked {
		t.Errorf("%d records, want the %d that were acknowledged", got, acked)
	}
	s.Close()
	s = open(t, dir)
	if got := len(s.List("job")); got != acked {
		t.Errorf("%d records after opening again, want %d", got, acked)
	}
	// Room comes back when records are deleted and the disk is no longer full.
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	commit(t, s, put("job", "more", 0, data))
}

// TestDiskErrorInTheMiddle lets the reserve be, so that the disk itself refuses.
func TestDiskErrorInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=20m,mode=0700"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir)
	s.SetFree(func(string) (uint64, error) { return 1 << 40, nil })
	data := strings.Repeat("x", 400<<10)
	var acked int
	var err error
	for acked < 200 {
		if _, err = s.Commit(context.Background(), put("a", strconv.Itoa(acked), 0, data), put("b", strconv.Itoa(acked), 0, data)); err != nil {
			break
		}
		acked++
	}
	if !errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("after %d batches on a small disk Commit = %v, want ErrFull or ErrUnknown", acked, err)
	}
	s.Close()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=100m"); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	a, b := len(s.List("a")), len(s.List("b"))
	if a != b || a < acked || a > acked+1 {
		t.Errorf("%d and %d records after opening again, want the %d that were acknowledged and at most the one in doubt", a, b, acked)
	}
	commit(t, s, put("a", "more", 0, data))
}

func TestStateFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, err := store.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state folder: %v, %v, want mode 0700", info, err)
	}
	_, err = store.OpenState(dir)
	want := fmt.Sprintf("state folder %s is in use by another head (process %d); stop it, or name another folder with --state", dir, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("opening twice = %v, want %s", err, want)
	}
	s.Close()
	os.WriteFile(filepath.Join(dir, "VERSION"), []byte("99\n"), 0o600)
	if _, err := store.OpenState(dir); err == nil || !strings.Contains(err.Error(), "format 99") {
		t.Errorf("opening a newer format = %v, want an error that names it", err)
	}
	os.WriteFile(filepath.Join(dir, "VERSION"), []byte("junk\n"), 0o600)
	if _, err := store.OpenState(dir); err == nil {
		t.Error("opening a folder with a broken VERSION succeeded")
	}
}

func BenchmarkCommit(b *testing.B) {
	record := strings.Repeat("x", 200)
	for _, sync := range []bool{true, false} {
		s, err := store.Open(context.Background(), store.Config{Dir: b.TempDir(), NoSync: !sync})
		if err != nil {
			b.Fatal(err)
		}
		name := map[bool]string{true: "sync", false: "nosync"}[sync]
		var id atomic.Int64
		b.Run(name+"/one writer", func(b *testing.B) {
			for b.Loop() {
				commit(b, s, put("job", strconv.FormatInt(id.Add(1)%5000, 10), store.AnyRev, record))
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
		b.Run(name+"/64 writers", func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					commit(b, s, put("job", strconv.FormatInt(id.Add(1)%5000, 10), store.AnyRev, record))
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
		b.Run(name+"/batches of 1000", func(b *testing.B) {
			for b.Loop() {
				ops := make([]store.Op, 1000)
				for i := range ops {
					ops[i] = put("job", strconv.Itoa(i), store.AnyRev, record)
				}
				commit(b, s, ops...)
			}
			b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
		s.Close()
	}
}
