package builder

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/builder/deb/debtest"
)

func TestSnapshotMirror(t *testing.T) {
	now := debtest.Time()
	for name, c := range map[string]struct {
		mirror string
		locked time.Time
		want   string
	}{
		"no snapshot":  {"http://x/debian", now, "http://x/debian"},
		"no lock":      {"http://x/debian/{date}", time.Time{}, "http://x/debian/20261121T091544Z"},
		"lock":         {"http://x/debian/{date}/", now.AddDate(0, 0, -10), "http://x/debian/20261111T211544Z/"},
		"lock of now":  {"http://x/debian/{date}", now.Add(-time.Hour), "http://x/debian/20261121T091544Z"},
		"named a date": {"http://x/debian/20250101T000000Z", now, "http://x/debian/20250101T000000Z"},
	} {
		if got := snapshotMirror(c.mirror, c.locked, now); got != c.want {
			t.Errorf("%s: snapshotMirror() = %s, want %s", name, got, c.want)
		}
	}
}

// TestBuildFromSnapshot builds from an archive of snapshots long after the indexes ran
// out, and again from the lock when the mirror has dropped the packages.
func TestBuildFromSnapshot(t *testing.T) {
	a := testArchive(t) // trixie-updates is good for a day
	var mu sync.Mutex
	var seen []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.URL.Path)
		mu.Unlock()
		parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
		if len(parts) < 3 || parts[1] != "20261121T211544Z" || parts[0] != "debian" && parts[0] != "debian-security" ||
			strings.Contains(parts[2], "-security") != (parts[0] == "debian-security") && strings.HasPrefix(parts[2], "dists") {
			http.NotFound(w, r)
			return
		}
		http.StripPrefix("/"+parts[0]+"/"+parts[1], a).ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	cfg := testConfig(t, a, testDefinition)
	cfg.Definition.Mirror = s.URL + "/debian/20261121T211544Z"
	cfg.Now = func() time.Time { return debtest.Time().AddDate(1, 0, 0) }
	want := mustBuild(t, cfg)

	cfg.Definition.Mirror = s.URL + "/debian/{date}"
	cfg.Cache = t.TempDir()
	if m := mustBuild(t, cfg); m.ID != want.ID {
		t.Errorf("from the snapshot of the lock's date the image is %s, want %s", m.ID, want.ID)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, path := range seen {
		if !strings.Contains(path, "/20261121T211544Z/") {
			t.Errorf("%s was asked for, and the lock is of %v", path, debtest.Time())
		}
	}
}
