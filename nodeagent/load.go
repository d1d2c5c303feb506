package nodeagent

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"muster/api"
)

const (
	// defaultHeartbeat is used where the head does not tell one; minHeartbeat
	// keeps a strange answer from making a node busy.
	defaultHeartbeat = 2 * time.Second
	minHeartbeat     = 100 * time.Millisecond
	// sampleEvery is how often runnable threads are counted for the mean.
	sampleEvery = 100 * time.Millisecond
)

// newsEvery is how often a heartbeat may be sent for something new: a task could make news
// without end.
const newsEvery = 50 * time.Millisecond

// heartbeats reports load and tasks until ctx is done, the first at once.
func (s *session) heartbeats(ctx context.Context, every time.Duration) {
	if every <= 0 {
		every = defaultHeartbeat
	}
	beat := time.NewTicker(max(every, minHeartbeat))
	defer beat.Stop()
	sample := time.NewTicker(sampleEvery)
	defer sample.Stop()
	var load loadMeter
	defer load.close()
	facts := s.a.cfg.Facts()
	var told *api.Software // that the head knows; nil: nothing yet
	load.sample()
	for {
		told = s.heartbeat(facts, load.report(), told)
		last := time.Now()
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-sample.C:
				load.sample()
			case <-beat.C:
				waiting = false
			case <-s.a.news:
				waiting = false
				pause(ctx, newsEvery-time.Since(last))
			}
		}
	}
}

// heartbeat sends one, with what the machine runs unless the head was told just
// that before. It returns what the head was told.
func (s *session) heartbeat(facts api.JoinRequest, load api.Load, told *api.Software) *api.Software {
	a := s.a
	tasks := a.tasks.Statuses()
	for _, t := range tasks {
		if t.State == api.JobRunning {
			load.Tasks++
		}
	}
	hb := api.Heartbeat{BootID: facts.BootID, Seq: a.beats.Add(1), Speed: a.speed.value(), Load: load, Tasks: tasks}
	// In this order: the stage is that of a node with the configuration that is named, and a stage that has ended has
	// left its result.
	a.mu.Lock()
	hb.ConfigVersion = a.configVersion
	a.mu.Unlock()
	hb.Stage = a.stage()
	if a.cfg.Shares != nil {
		hb.Mounts = a.cfg.Shares.Status()
	}
	software := a.cfg.software(facts.Software)
	if told == nil || *told != software {
		hb.Software = &software
	}
	a.show(func(st *Status) { st.Tasks, st.Stage = load.Tasks, hb.Stage })
	body, err := json.Marshal(hb)
	if err == nil {
		err = s.nc.Publish(api.SubjectHB+a.key.public, body)
	}
	if err != nil {
		if !s.nc.IsClosed() {
			a.log.Warn("heartbeat not sent", "error", err)
		}
		return told
	}
	return &software
}

// loadMeter turns what the kernel counts into means over the time between two
// reports.
type loadMeter struct {
	runnable, samples int
	busy, total       uint64   // at the last report
	loadavg           *os.File // kept open, since it is read so often; nil: not yet
}

func (m *loadMeter) close() {
	if m.loadavg != nil {
		m.loadavg.Close()
	}
}

// sample counts the threads that want to run now, beside the one that counts.
func (m *loadMeter) sample() {
	if m.loadavg == nil {
		f, err := os.Open("/proc/loadavg")
		if err != nil {
			return
		}
		m.loadavg = f
	}
	var buf [128]byte
	k, err := m.loadavg.ReadAt(buf[:], 0)
	if err != nil && err != io.EOF {
		return
	}
	if n, ok := parseRunnable(string(buf[:k])); ok {
		m.runnable += max(n-1, 0)
		m.samples++
	}
}

// report returns the load since the last report.
func (m *loadMeter) report() api.Load {
	var l api.Load
	if m.samples > 0 {
		l.Runnable = float64(m.runnable) / float64(m.samples)
	}
	m.runnable, m.samples = 0, 0
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		if busy, total, ok := parseCPU(b); ok {
			if m.total != 0 && total > m.total && busy >= m.busy {
				l.CPUBusy = float64(busy-m.busy) / float64(total-m.total)
			}
			m.busy, m.total = busy, total
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		l.MemTotalMiB, l.MemFreeMiB = parseMemory(string(b))
	}
	if b, err := os.ReadFile("/proc/pressure/memory"); err == nil {
		l.MemPressure = parsePressure(string(b))
	}
	if b, err := os.ReadFile("/proc/uptime"); err == nil {
		l.UptimeSecond = firstFloat(string(b))
	}
	return l
}

// parseRunnable finds the running threads in /proc/loadavg, as in
// "0.20 0.18 0.12 2/163 4711".
func parseRunnable(s string) (int, bool) {
	f := strings.Fields(s)
	if len(f) < 4 {
		return 0, false
	}
	running, _, ok := strings.Cut(f[3], "/")
	n, err := strconv.Atoi(running)
	return n, ok && err == nil && n >= 0
}

// parseCPU sums the first line of /proc/stat: user, nice, system, idle, iowait,
// irq, softirq, steal. Guest time is part of user time (proc_stat(5)).
func parseCPU(b []byte) (busy, total uint64, ok bool) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) < 9 || f[0] != "cpu" {
		return 0, 0, false
	}
	for i, s := range f[1:9] {
		n, err := strconv.ParseUint(s, 10, 60) // eight of them can be added
		if err != nil {
			return 0, 0, false
		}
		total += n
		if i != 3 && i != 4 { // idle, iowait
			busy += n
		}
	}
	return busy, total, true
}

// parseMemory finds MemTotal and MemAvailable, which the kernel gives in kB.
func parseMemory(s string) (total, free int64) {
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			total = n >> 10
		case "MemAvailable:":
			free = n >> 10
		}
	}
	return total, free
}

// parsePressure finds "some avg10=N" of a pressure stall file.
func parsePressure(s string) float64 {
	for line := range strings.Lines(s) {
		if rest, ok := strings.CutPrefix(line, "some avg10="); ok {
			return firstFloat(rest)
		}
	}
	return 0
}

func firstFloat(s string) float64 {
	f := strings.Fields(s)
	if len(f) == 0 {
		return 0
	}
	v, err := strconv.ParseFloat(f[0], 64)
	if err != nil || v < 0 {
		return 0
	}
	return v
}
