package headnode

import (
	"crypto/sha256"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/api"
)

// A token has the rights of its user's account, and those of an administrator only where its line says so.
func TestTokenRights(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	var text strings.Builder
	for _, line := range []string{"root r", "nobody n", "nobody na admin", "no-such-user u", "no-such-user ua admin", "nobody bad boss"} {
		w := strings.Fields(line)
		fmt.Fprintln(&text, w[0], fmt.Sprintf("%x", sha256.Sum256([]byte(w[1]))), strings.Join(w[2:], " "))
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &httpServer{cfg: httpConfig{Tokens: file, HeadUID: 12345}, accounts: &accounts{now: time.Now}}
	for token, want := range map[string]struct {
		user    string // "": refused
		admin   bool
		account bool
	}{
		"r": {"root", true, true}, "n": {"nobody", false, true}, "na": {"nobody", true, true},
		"u": {"no-such-user", false, false}, "ua": {"no-such-user", true, false},
		"bad": {}, "x": {}, "": {},
	} {
		r := httptest.NewRequest("GET", "/v1/jobs", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		c, err := s.byToken(r)
		if want.user == "" {
			if api.CodeOf(err) != api.CodeUnauthenticated {
				t.Errorf("token %q: %+v, %v; want unauthenticated", token, c, err)
			}
			continue
		}
		if err != nil || c.owner.User != want.user || c.admin != want.admin || (c.noAccount == "") != want.account {
			t.Errorf("token %q: %+v, %v; want %+v", token, c, err, want)
		}
	}
}
