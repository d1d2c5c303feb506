package headnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"muster/api"
)

func newTestFetched(t *testing.T, dir string) *fetched {
	t.Helper()
	out, err := newOutputs(outputsConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return newFetched(out)
}

func sumOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func TestFetchedPut(t *testing.T) {
	dir := t.TempDir()
	x := newTestFetched(t, dir)
	data := bytes.Repeat([]byte("0123456789"), 10)
	ref := api.TaskRef{Job: 7, Index: 1, Epoch: 1}
	put := func(off int, b []byte) int64 {
		t.Helper()
		next, err := x.put(api.FilePut{TaskRef: ref, File: 2, SHA256: sumOf(data), Size: int64(len(data)), Offset: int64(off), Data: b})
		if err != nil {
			t.Fatalf("put at %d: %v", off, err)
		}
		return next
	}
	steps := []struct {
		off  int
		data []byte
		want int64
	}{
		{0, nil, 0}, {0, data[:40], 40}, {0, data[:40], 40}, {80, data[80:], 40}, {40, data[40:50], 50},
	}
	for _, s := range steps {
		if got := put(s.off, s.data); got != s.want {
			t.Errorf("after %d bytes at %d the head wants %d, want %d", len(s.data), s.off, got, s.want)
		}
	}
	// Another head goes on where this one was.
	x = newTestFetched(t, dir)
	if got := put(0, nil); got != 50 {
		t.Errorf("a new head wants %d, want 50", got)
	}
	if got := put(50, data[50:]); got != 100 {
		t.Errorf("at the end it wants %d", got)
	}
	if got := put(0, nil); got != 100 {
		t.Errorf("of a file that is there it wants %d", got)
	}
	got, err := os.ReadFile(filepath.Join(dir, "7", "1.2."+sumOf(data)))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file has %q, %v", got, err)
	}
	empty := api.FilePut{TaskRef: ref, File: 3, SHA256: sumOf(nil)}
	if next, err := x.put(empty); next != 0 || err != nil {
		t.Errorf("an empty file: %d, %v", next, err)
	}
	ev := api.TaskEvent{TaskRef: ref, State: api.JobFinished, Fetched: []api.FetchedFile{
		{File: 2, Size: 100, SHA256: sumOf(data), Mode: 0o4755},
		{File: 3, SHA256: sumOf(nil)},
		{File: 1, Error: "no\nsuch"},
		{File: 0, Size: 5, SHA256: sumOf(data)},
		{File: 99},
		{File: -1},
	}}
	if err := x.ended(ev, []string{"a", "b", "c-%t", "d", "e"}); err != nil {
		t.Fatal(err)
	}
	list, ok, err := x.list(7, 1)
	if err != nil || !ok || len(list) != 5 {
		t.Fatalf("%+v, %v, %v", list, ok, err)
	}
	if f := list[2]; f.Error != "" || f.Mode != 0o755 || f.Path != "c-1" || f.Size != 100 {
		t.Errorf("%+v", f)
	}
	if f := list[3]; f.Error != "" || f.Size != 0 {
		t.Errorf("%+v", f)
	}
	for i, want := range map[int]string{0: "did not come", 1: "no", 4: "says nothing"} {
		if f := list[i]; !strings.Contains(f.Error, want) || strings.Contains(f.Error, "\n") || f.SHA256 != "" {
			t.Errorf("%+v, want the error %q", f, want)
		}
	}
}

func TestFetchedPutRefuses(t *testing.T) {
	x := newTestFetched(t, t.TempDir())
	good := api.FilePut{TaskRef: api.TaskRef{Job: 7}, SHA256: sumOf([]byte("abc")), Size: 3, Data: []byte("abc")}
	for name, change := range map[string]func(*api.FilePut){
		"another content":   func(p *api.FilePut) { p.Data = []byte("abd") },
		"no hash":           func(p *api.FilePut) { p.SHA256 = "../../etc/passwd" },
		"beyond its end":    func(p *api.FilePut) { p.Size = 2 },
		"negative":          func(p *api.FilePut) { p.Offset = -1 },
		"too large":         func(p *api.FilePut) { p.Size = maxFileSize + 1 },
		"more than a job's": func(p *api.FilePut) { p.File, p.Size = 1, maxFetchBytes-1 },
	} {
		t.Run(name, func(t *testing.T) {
			p := good
			p.TaskRef.Epoch++
			if _, err := x.put(api.FilePut{TaskRef: p.TaskRef, File: 5, SHA256: sumOf([]byte("other")), Size: 5}); err != nil {
				t.Fatal(err)
			}
			change(&p)
			if next, err := x.put(p); err == nil || api.CodeOf(err) != api.CodeInvalid && api.CodeOf(err) != api.CodeTooLarge {
				t.Errorf("put() = %d, %v", next, err)
			}
		})
	}
	if next, err := x.put(good); next != 3 || err != nil {
		t.Errorf("the right content afterwards: %d, %v", next, err)
	}
}

// What is fetched from tasks of a whole job, over HTTP.
func TestJobFiles(t *testing.T) {
	r := newRig(t, "n1")
	data := bytes.Repeat([]byte("result\n"), 50000)
	j := r.submit(api.JobSpec{Argv: []string{"sleep"}, Private: true, Fetch: []string{"out-%t.dat", "log"}})
	r.running(j.ID)
	ref := api.TaskRef{Job: j.ID, Epoch: 1}
	send := func(node string, ref api.TaskRef) (next int64) {
		for off := int64(0); ; off = next {
			piece := api.FilePut{TaskRef: ref, SHA256: sumOf(data), Size: int64(len(data)), Offset: off, Data: data[off:min(off+api.MaxChunk, int64(len(data)))]}
			var err error
			if next, err = r.js.TaskFile(t.Context(), node, piece); err != nil {
				t.Fatal(err)
			}
			if next >= int64(len(data)) {
				return next
			}
		}
	}
	// Nodes that do not have the task, or had it before, change nothing.
	send("n2", ref)
	send("n1", api.TaskRef{Job: j.ID, Epoch: 0})
	if n, err := os.ReadDir(r.js.out.jobDir(j.ID)); len(n) > 0 {
		t.Errorf("a stranger's file is kept: %v, %v", n, err)
	}
	if _, err := r.js.TaskFile(t.Context(), "n1", api.FilePut{TaskRef: ref, File: 2, SHA256: sumOf(nil)}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a file that nobody asked for: %v", err)
	}
	if files, err := r.client.JobFiles(t.Context(), j.ID); err != nil || len(files) > 0 {
		t.Errorf("files of a task that runs: %+v, %v", files, err)
	}
	send("n1", ref)
	err := r.js.TaskEvent(t.Context(), "n1", api.TaskEvent{TaskRef: ref, State: api.JobFinished, Fetched: []api.FetchedFile{
		{File: 0, Size: int64(len(data)), SHA256: sumOf(data), Mode: 0o640}, {File: 1, Error: "the command left no such file"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.ended(j.ID)
	files, err := r.client.JobFiles(t.Context(), j.ID)
	if err != nil || len(files) != 2 || files[0].Path != "out-0.dat" || files[0].Mode != 0o640 || files[1].Error == "" {
		t.Fatalf("%+v, %v", files, err)
	}
	var got bytes.Buffer
	if err := r.client.JobFile(context.Background(), j.ID, files[0], &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes came, %v; want %d", got.Len(), err, len(data))
	}
	if err := r.client.JobFile(context.Background(), j.ID, api.FetchedFile{Task: 0, File: 1, Size: 1, SHA256: sumOf(nil)}, &got); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestCheckFetchSpec(t *testing.T) {
	many := make([]string, maxFetchNames+1)
	for i := range many {
		many[i] = strings.Repeat("x", i+1)
	}
	for name, c := range map[string]struct {
		spec api.JobSpec
		code api.Code
	}{
		"one":           {api.JobSpec{Fetch: []string{"out"}, Tasks: 1}, ""},
		"twice":         {api.JobSpec{Fetch: []string{"out", "out"}, Tasks: 1}, api.CodeInvalid},
		"above":         {api.JobSpec{Fetch: []string{"../out"}, Tasks: 1}, api.CodeInvalid},
		"absolute":      {api.JobSpec{Fetch: []string{"/etc/shadow"}, Tasks: 1}, api.CodeInvalid},
		"not clean":     {api.JobSpec{Fetch: []string{"a//b"}, Tasks: 1}, api.CodeInvalid},
		"too many":      {api.JobSpec{Fetch: many, Tasks: 1}, api.CodeTooLarge},
		"of many tasks": {api.JobSpec{Fetch: []string{"a", "b"}, Tasks: maxFetchFiles}, api.CodeTooLarge},
	} {
		if got := api.CodeOf(checkFetch(c.spec)); got != c.code {
			t.Errorf("%s: %q, want %q", name, got, c.code)
		}
	}
}

func TestSurplus(t *testing.T) {
	kept := []keptOutput{
		{job: 9, bytes: 60, uid: 1}, // the latest of its user
		{job: 8, bytes: 1, uid: 1},  // more than half of 100
		{job: 7, bytes: 30, uid: 2},
		{job: 6, bytes: 30, uid: 2}, // more than all
		{job: 5, bytes: 5, uid: unknownUID},
		{job: 4, bytes: 1, uid: 3}, // one too many
	}
	var got []uint64
	for _, k := range surplus(kept, 100, 5) {
		got = append(got, k.job)
	}
	want := []uint64{8, 6, 4}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("surplus() = %v, want %v", got, want)
	}
}
