package need

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Variable is the environment variable that decides between skip and failure.
const Variable = "MUSTER_NEED"

// All reports whether everything that a test needs has to be there.
func All() bool { return os.Getenv(Variable) == "all" }

// Missing ends the test because of something that is not there: as skipped,
// or as failed when everything has to be there. The reason should name the
// thing and how to get it.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	reason := fmt.Sprintf(format, args...)
	if All() {
		t.Fatalf("%s (%s=all: a failure, not a skip)", reason, Variable)
	}
	t.Skip(reason)
}

// Program returns the path of a program, or ends the test when it is not
// installed. The package is the Debian package that has it. Folders of
// system programs are searched too, since a user's PATH may lack them.
func Program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	Missing(t, "%s is not installed; get it with: apt-get install %s", name, debianPackage)
	return ""
}

// File returns path when it exists, and ends the test with the remedy when
// it does not.
func File(t testing.TB, path, remedy string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		Missing(t, "%s is not there; %s", path, remedy)
	}
	return path
}

// Root ends the test when it does not run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}
