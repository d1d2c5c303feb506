package pxe

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The lease file: one header line, then a line per change, the last one for
// an address counting:
//
//	CRC32C MAC IP STATE UNTIL
//
// with the checksum of the rest of the line in hexadecimal and the time in
// seconds since 1970. A line that is damaged, as the last one after a power
// cut may be, is left out.
const leaseHeader = "muster leases 1\n"

// Bounds of the log.
const (
	logQueue = 8192 // records that wait for the disk; more are refused, their machines ask again
	logSlack = 4096 // superfluous lines before the file is written anew
)

var errLogBusy = errors.New("the disk is too slow: too many leases wait to be written")

// The states in the file.
const (
	wordBound    = "bound"
	wordFixed    = "fixed" // bound, and reserved for the machine
	wordDeclined = "declined"
)

// word is how the file says what kind of lease l is.
func (l lease) word() string {
	switch {
	case l.state == stateDeclined:
		return wordDeclined
	case l.fixed:
		return wordFixed
	}
	return wordBound
}

// logEntry is a line to be written, and whom to tell.
type logEntry struct {
	line []byte
	done func(error)
}

// leaseLog appends leases to a file. One write and one sync serve all records
// that came while the last sync ran.
type leaseLog struct {
	path  string
	live  func() []lease // what a new file would hold
	queue chan logEntry

	// The rest belongs to run.
	f     *os.File // nil after a failure: the next batch writes a new file
	lines int      // in the file
	kept  int      // of those when it was opened or written anew
}

// openLeaseLog opens path for appending, or writes it anew where what was
// read of it is damaged or mostly out of date.
func openLeaseLog(path string, read leaseFile, live func() []lease) (*leaseLog, error) {
	l := &leaseLog{path: path, live: live, queue: make(chan logEntry, logQueue), lines: read.lines, kept: len(read.leases)}
	if read.missing || read.damaged > 0 || read.lines > 2*len(read.leases)+logSlack {
		return l, l.rewrite()
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	l.f = f
	return l, nil
}

// add queues a record; done (may be nil) hears of its fate.
func (l *leaseLog) add(rec lease, done func(error)) {
	select {
	case l.queue <- logEntry{leaseLine(rec), done}:
	default:
		if done != nil {
			done(errLogBusy)
		}
	}
}

// Run writes confirmed leases until ctx is done; it writes what is queued
// then, and returns. A book without a file returns at once.
func (b *Book) Run(ctx context.Context) {
	if b.out != nil {
		b.out.run(ctx, func(err error) {
			b.log.Error("writing leases", "file", b.out.path, "err", err)
		})
	}
}

func (l *leaseLog) run(ctx context.Context, report func(error)) {
	var batch []logEntry
	for {
		select {
		case e := <-l.queue:
			batch = append(batch[:0], e)
		case <-ctx.Done():
			if batch = l.drain(batch[:0]); len(batch) > 0 {
				l.commit(batch, report)
			}
			return
		}
		l.commit(l.drain(batch), report)
	}
}

// drain adds what is waiting in the queue.
func (l *leaseLog) drain(batch []logEntry) []logEntry {
	for len(batch) < logQueue {
		select {
		case e := <-l.queue:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// commit makes a batch durable and tells everyone.
func (l *leaseLog) commit(batch []logEntry, report func(error)) {
	err := l.write(batch)
	if err != nil {
		report(err)
	}
	for _, e := range batch {
		if e.done != nil {
			e.done(err)
		}
	}
}

func (l *leaseLog) write(batch []logEntry) error {
	if l.f == nil {
		return l.rewrite() // the book has the batch's leases already
	}
	var buf bytes.Buffer
	for _, e := range batch {
		buf.Write(e.line)
	}
	_, err := l.f.Write(buf.Bytes())
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		// After a failed sync the kernel may have dropped the pages, so this
		// file is not trusted any more.
		l.f.Close()
		l.f = nil
		return err
	}
	l.lines += len(batch)
	if l.lines > 2*l.kept+logSlack {
		return l.rewrite()
	}
	return nil
}

// rewrite puts a file with the live leases in the place of the old one.
func (l *leaseLog) rewrite() error {
	live := l.live()
	slices.SortFunc(live, func(a, b lease) int { return cmp.Or(a.until.Compare(b.until), a.ip.Compare(b.ip)) })
	tmp, err := os.CreateTemp(filepath.Dir(l.path), filepath.Base(l.path)+".new*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	w := bufio.NewWriter(tmp)
	w.WriteString(leaseHeader)
	for _, rec := range live {
		w.Write(leaseLine(rec))
	}
	err = w.Flush()
	if err == nil {
		err = tmp.Sync()
	}
	if err == nil {
		err = os.Rename(tmp.Name(), l.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(l.path))
	}
	if err != nil {
		tmp.Close()
		return err
	}
	if l.f != nil {
		l.f.Close()
	}
	l.f, l.lines, l.kept = tmp, len(live), len(live)
	return nil
}

func (l *leaseLog) close() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// leaseLine is a lease as the file holds it.
func leaseLine(l lease) []byte {
	rest := fmt.Sprintf("%v %v %s %d", l.mac, l.ip, l.word(), l.until.Unix())
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum([]byte(rest), castagnoli), rest)
}

// parseLeaseLine reads what leaseLine wrote.
func parseLeaseLine(line string) (lease, bool) {
	sum, rest, ok := strings.Cut(line, " ")
	if want, err := strconv.ParseUint(sum, 16, 32); !ok || len(sum) != 8 || err != nil ||
		uint32(want) != crc32.Checksum([]byte(rest), castagnoli) {
		return lease{}, false
	}
	f := strings.Fields(rest)
	if len(f) != 4 {
		return lease{}, false
	}
	hw, err1 := net.ParseMAC(f[0])
	ip, err2 := netip.ParseAddr(f[1])
	unix, err3 := strconv.ParseInt(f[3], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || len(hw) != len(MAC{}) || !ip.Is4() {
		return lease{}, false
	}
	l := lease{mac: MAC(hw), ip: ip, until: time.Unix(unix, 0)}
	switch f[2] {
	case wordBound, wordFixed:
		l.state, l.fixed = stateBound, f[2] == wordFixed
	case wordDeclined:
		l.state = stateDeclined
	default:
		return lease{}, false
	}
	return l, true
}

// leaseFile is what was read of a lease file.
type leaseFile struct {
	leases  []lease
	lines   int
	damaged int  // lines that were left out
	missing bool // there is no file, or an empty one
}

// readLeases reads the file.
func readLeases(path string) (leaseFile, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return leaseFile{missing: true}, nil
	}
	if err != nil {
		return leaseFile{}, err
	}
	text, found := strings.CutPrefix(string(b), leaseHeader)
	switch {
	case found:
	case strings.HasPrefix(leaseHeader, string(b)): // its very start was cut off
		return leaseFile{missing: true}, nil
	default:
		return leaseFile{}, fmt.Errorf("%s is no lease file of this version: its first line is not %q; move it away to start without leases", path, strings.TrimSpace(leaseHeader))
	}
	var out leaseFile
	last := map[netip.Addr]lease{}
	for line := range strings.Lines(text) {
		out.lines++
		l, ok := parseLeaseLine(strings.TrimSuffix(line, "\n"))
		if !ok || !strings.HasSuffix(line, "\n") {
			out.damaged++
			continue
		}
		last[l.ip] = l
	}
	for _, l := range last {
		out.leases = append(out.leases, l)
	}
	return out, nil
}
