package builder

import (
	"regexp"
	"strings"
	"time"
)

// The words of a mirror's URL that stand for something else, and an example of it.
const (
	snapshotDate    = "{date}" // the date of the lock
	snapshotExample = "https://snapshot.debian.org/archive/debian/{date}"

	snapshotLayout = "20060102T150405Z" // of snapshot.debian.org
	// snapshotLag is how long after a release was made a snapshot surely has it, and
	// still has what the release names.
	snapshotLag = 12 * time.Hour
)

var snapshotRE = regexp.MustCompile(`/([0-9]{8}T[0-9]{6}Z)(/|$)`)

// snapshotMirror puts the date into the URL of a mirror that asks for one. locked is
// the date of the lock, zero where there is none yet; then the newest snapshot counts.
func snapshotMirror(mirror string, locked, now time.Time) string {
	if !strings.Contains(mirror, snapshotDate) {
		return mirror
	}
	at := now
	if !locked.IsZero() && locked.Add(snapshotLag).Before(now) {
		at = locked.Add(snapshotLag)
	}
	return strings.ReplaceAll(mirror, snapshotDate, at.UTC().Format(snapshotLayout))
}

// snapshotTime is the time that a mirror's URL names. An index in it is as old as that, and
// good: who wrote the date asked for it.
func snapshotTime(mirror string) (time.Time, bool) {
	m := snapshotRE.FindStringSubmatch(mirror)
	if m == nil {
		return time.Time{}, false
	}
	t, err := time.Parse(snapshotLayout, m[1])
	return t, err == nil
}
