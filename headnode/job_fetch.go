package headnode

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"muster/api"
	"muster/headnode/store"
)

// Limits of files that users want back.
const (
	maxFetchNames = 100       // of one task
	maxFetchFiles = 10000     // of all tasks of a job
	maxFetchBytes = 4 << 30   // of all tasks of a job, as they are kept with its output
	partSuffix    = ".part"   // of a file that is on its way
	filesSuffix   = ".files"  // of the list of a task's files
	putHash       = 256 << 10 // bytes that are read at a time to hash what is there
)

// fetched are the files that tasks brought back, in the folder of the job's output:
//
//	INDEX.FILE.SHA256       a file, whole
//	INDEX.FILE.SHA256.part  one that is on its way
//	INDEX.files             what became of the files of a task that has ended, as JSON
//
// All methods may be called from any goroutine, those for one task one after the other.
type fetched struct {
	out *outputs

	mu    sync.Mutex
	parts map[api.TaskRef]*fetchPart
	sizes map[uint64]map[string]int64 // bytes by INDEX.FILE of the jobs that were asked for
}

// fetchPart is a file that is on its way; a task sends one at a time.
type fetchPart struct {
	name string // INDEX.FILE.SHA256
	f    *os.File
	have int64
	hash hash.Hash
}

func newFetched(out *outputs) *fetched {
	return &fetched{out: out, parts: map[api.TaskRef]*fetchPart{}, sizes: map[uint64]map[string]int64{}}
}

func fetchName(index, file int, sum string) string {
	return strconv.Itoa(index) + "." + strconv.Itoa(file) + "." + sum
}

func (x *fetched) path(job uint64, name string) string { return filepath.Join(x.out.jobDir(job), name) }

// put takes a piece of a file and returns the position of the next one that is wanted: the
// file's size when it is there, whole, verified and durable.
func (x *fetched) put(p api.FilePut) (int64, error) {
	if !isSHA256(p.SHA256) || p.Size < 0 || p.Offset < 0 || p.Offset+int64(len(p.Data)) > p.Size || len(p.Data) > api.MaxChunk {
		return 0, invalid("", "a piece of %d bytes at %d of %d is none of a file", len(p.Data), p.Offset, p.Size)
	}
	name := fetchName(p.Index, p.File, p.SHA256)
	if st, err := os.Stat(x.path(p.Job, name)); err == nil && st.Size() == p.Size {
		return p.Size, nil
	}
	part, err := x.part(p, name)
	if err != nil {
		return 0, err
	}
	if p.Offset == part.have && len(p.Data) > 0 {
		if err := x.out.room(int64(len(p.Data))); err != nil {
			return part.have, fetchRoom(p, err)
		}
		if _, err := part.f.WriteAt(p.Data, part.have); err != nil {
			return part.have, fetchRoom(p, err)
		}
		part.hash.Write(p.Data)
		part.have += int64(len(p.Data))
	}
	if part.have < p.Size {
		return part.have, nil
	}
	x.forgetPart(p.TaskRef)
	if got := hex.EncodeToString(part.hash.Sum(nil)); got != p.SHA256 {
		part.f.Close()
		os.Remove(part.f.Name())
		return 0, invalid("run it again", "what came of it has SHA-256 %s, the node says %s", got, p.SHA256)
	}
	defer part.f.Close()
	if err := store.PlaceDurable(part.f, x.path(p.Job, name), 0o600); err != nil {
		return 0, fetchRoom(p, err)
	}
	return p.Size, nil
}

func fetchRoom(p api.FilePut, err error) error {
	return outputError(logKey{p.Job, p.Index}, err)
}

// part is the file that a task sends, begun or found as an earlier connection or head left it.
func (x *fetched) part(p api.FilePut, name string) (*fetchPart, error) {
	x.mu.Lock()
	now := x.parts[p.TaskRef]
	x.mu.Unlock()
	if now != nil && now.name == name {
		return now, nil
	}
	if now != nil {
		x.forgetPart(p.TaskRef)
		now.f.Close()
	}
	if err := x.book(p); err != nil {
		return nil, err
	}
	dir := x.out.jobDir(p.Job)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fetchRoom(p, err)
	}
	part := &fetchPart{name: name, hash: sha256.New()}
	var err error
	if part.f, err = os.OpenFile(x.path(p.Job, name+partSuffix), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fetchRoom(p, err)
	}
	if part.have, err = io.CopyBuffer(part.hash, part.f, make([]byte, putHash)); err != nil || part.have > p.Size {
		part.hash.Reset()
		part.have = 0
		err = part.f.Truncate(0)
	}
	if err == nil {
		err = store.SyncDir(x.out.cfg.Dir)
	}
	if err != nil {
		part.f.Close()
		return nil, fetchRoom(p, err)
	}
	x.mu.Lock()
	x.parts[p.TaskRef] = part
	x.mu.Unlock()
	return part, nil
}

// book counts a file that comes, or says that the job's files are too many.
func (x *fetched) book(p api.FilePut) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	sizes := x.sizes[p.Job]
	if sizes == nil {
		sizes = x.measure(p.Job)
		x.sizes[p.Job] = sizes
	}
	key := strconv.Itoa(p.Index) + "." + strconv.Itoa(p.File)
	sum := p.Size
	for k, n := range sizes {
		if k != key {
			sum += n
		}
	}
	if p.Size > maxFileSize || sum > maxFetchBytes {
		return tooLarge("have it written into a share", "with its %d bytes the files of the job are more than the %d MiB that the head keeps of one", p.Size, maxFetchBytes>>20)
	}
	sizes[key] = p.Size
	return nil
}

// measure finds what an earlier head has of a job's files.
func (x *fetched) measure(job uint64) map[string]int64 {
	sizes := map[string]int64{}
	entries, _ := os.ReadDir(x.out.jobDir(job)) // none is no file
	for _, e := range entries {
		f := strings.SplitN(e.Name(), ".", 3)
		if st, err := e.Info(); err == nil && len(f) == 3 {
			sizes[f[0]+"."+f[1]] = st.Size()
		}
	}
	return sizes
}

func (x *fetched) forgetPart(ref api.TaskRef) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.parts, ref)
}

// ended keeps what a node says of the files of a task that has ended, durably.
func (x *fetched) ended(ev api.TaskEvent, names []string) error {
	x.mu.Lock()
	part := x.parts[ev.TaskRef]
	delete(x.parts, ev.TaskRef)
	x.mu.Unlock()
	if part != nil {
		part.f.Close()
	}
	list := make([]api.FetchedFile, len(names))
	for i, name := range names {
		list[i] = api.FetchedFile{Task: ev.Index, File: i, Path: taskFile(name, ev.Job, ev.Index), Error: "its node says nothing of it"}
	}
	for _, f := range ev.Fetched {
		if f.File < 0 || f.File >= len(list) {
			continue
		}
		at := &list[f.File]
		at.Size, at.Mode, at.SHA256, at.Error = f.Size, f.Mode&0o777, f.SHA256, cleanText(f.Error)
		if f.Error == "" {
			st, err := os.Stat(x.path(ev.Job, fetchName(ev.Index, f.File, f.SHA256)))
			if !isSHA256(f.SHA256) || err != nil || st.Size() != f.Size {
				at.Error = "it did not come from the node"
			}
		}
		if at.Error != "" {
			at.Size, at.Mode, at.SHA256 = 0, 0, ""
		}
	}
	return x.writeList(ev.Job, ev.Index, list)
}

func (x *fetched) listPath(job uint64, index int) string {
	return x.path(job, strconv.Itoa(index)+filesSuffix)
}

func (x *fetched) writeList(job uint64, index int, list []api.FetchedFile) error {
	dir := x.out.jobDir(job)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, ".files-"); err == nil {
			defer os.Remove(f.Name())
			defer f.Close()
			if _, err = f.Write(mustJSON(list)); err == nil {
				err = store.PlaceDurable(f, x.listPath(job, index), 0o600)
			}
		}
	}
	if err == nil {
		err = store.SyncDir(x.out.cfg.Dir)
	}
	if err != nil {
		return outputError(logKey{job, index}, err)
	}
	return nil
}

// list is what became of a task's files; ok is false when that is not known.
func (x *fetched) list(job uint64, index int) (list []api.FetchedFile, ok bool, err error) {
	b, err := os.ReadFile(x.listPath(job, index))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading the list of files of task %d of job %d: %w", index, job, err)
	}
	return list, true, nil
}

// forget drops what is counted of a job; its files stay.
func (x *fetched) forget(job uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.sizes, job)
	for ref, p := range x.parts {
		if ref.Job == job {
			p.f.Close()
			delete(x.parts, ref)
		}
	}
}

// checkFetch refuses files to bring back that cannot be.
func checkFetch(s api.JobSpec) error {
	switch {
	case len(s.Fetch) == 0:
		return nil
	case len(s.Fetch) > maxFetchNames:
		return tooLarge("have the command make an archive of them", "%d files are wanted back; at most %d can be", len(s.Fetch), maxFetchNames)
	case len(s.Fetch)*s.Tasks > maxFetchFiles:
		return tooLarge("have them written into a share", "%d files of %d tasks each are wanted back; at most %d of one job can be", len(s.Fetch), s.Tasks, maxFetchFiles)
	}
	seen := map[string]bool{}
	for _, p := range s.Fetch {
		at := api.DecodeText(p)
		switch {
		case len(at) > maxPath:
			return tooLarge("", "the path of a file to bring back has %d bytes; Linux takes at most %d", len(at), maxPath)
		case at == "" || at != path.Clean(at) || !filepath.IsLocal(at) || at == "." || strings.IndexByte(at, 0) >= 0:
			return invalid("name files below the working directory", "file path %q is not a clean relative path", at)
		case seen[at]:
			return invalid("", "file %s is wanted back twice", at)
		}
		seen[at] = true
	}
	return nil
}

// TaskFile implements taskSink.
func (js *jobs) TaskFile(_ context.Context, node string, p api.FilePut) (int64, error) {
	js.mu.Lock()
	j, t := js.task(node, p.TaskRef)
	wanted := j != nil && (t.phase == phasePlaced || t.phase == phaseRunning)
	names := 0
	if j != nil {
		names = len(j.spec.Fetch)
	}
	js.mu.Unlock()
	if !wanted {
		return max(p.Size, 0), nil // nobody wants it any more: let the node go on
	}
	if p.File < 0 || p.File >= names {
		return 0, invalid("", "task %s was not asked for a file %d", p.TaskRef, p.File)
	}
	return js.fetched.put(p)
}

// noteFetched keeps what an ending task's node says of its files.
func (js *jobs) noteFetched(node string, ev api.TaskEvent) error {
	js.mu.Lock()
	j, t := js.task(node, ev.TaskRef)
	var names []string
	if j != nil && (t.phase == phasePlaced || t.phase == phaseRunning) {
		names = j.spec.Fetch
	}
	js.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	return js.fetched.ended(ev, names)
}

// Files lists what became of the files that a job's user wants back, of the tasks that have
// ended.
func (js *jobs) Files(ctx context.Context, id uint64) ([]api.FetchedFile, error) {
	v, err := js.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	all := []api.FetchedFile{}
	if len(v.Spec.Fetch) == 0 {
		return all, nil
	}
	for _, t := range v.Tasks {
		if !t.State.Ended() {
			continue
		}
		list, ok, err := js.fetched.list(id, t.Index)
		if err != nil {
			return nil, err
		}
		if !ok {
			why := "the task ended without it: " + t.Error
			if t.Error == "" {
				why = "it was removed to make room for newer jobs"
			}
			for i, name := range v.Spec.Fetch {
				list = append(list, api.FetchedFile{Task: t.Index, File: i, Path: taskFile(name, id, t.Index), Error: why})
			}
		}
		all = append(all, list...)
	}
	return all, nil
}

// openFile opens a file that a task has brought back.
func (js *jobs) openFile(id uint64, index, file int) (*os.File, api.FetchedFile, error) {
	list, _, err := js.fetched.list(id, index)
	if err != nil {
		return nil, api.FetchedFile{}, err
	}
	if file >= 0 && file < len(list) && list[file].Error == "" {
		f, err := os.Open(js.fetched.path(id, fetchName(index, file, list[file].SHA256)))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, list[file], err
		}
	}
	return nil, api.FetchedFile{}, &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("the head has no file %d of task %d of job %d", file, index, id), Hint: "see which there are: muster job show " + jobID(id)}
}
