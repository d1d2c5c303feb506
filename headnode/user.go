package headnode

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

// adminGroup is the group whose members administrate a head.
const adminGroup = "muster-admin"

// caller is who sends a request.
type caller struct {
	owner api.Owner
	// noAccount says why jobs cannot run for this caller; "" when they can.
	noAccount string
	admin     bool
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// mustAdmin fails for everybody who is not an administrator.
func mustAdmin(ctx context.Context, what string) error {
	c := callerOf(ctx)
	if c.admin {
		return nil
	}
	return &api.Error{
		Code: api.CodeForbidden, Msg: fmt.Sprintf("user %s may not %s", c.owner.User, what),
		Hint: "run it with sudo, or become a member of the group " + adminGroup,
	}
}

// sees tells whether the caller may see and control the jobs of owner: those of one's own, to
// administrators those of all.
func (c caller) sees(owner api.Owner) bool {
	return c.admin || c.noAccount == "" && c.owner.User != "" && c.owner.UID == owner.UID
}

// mustOwn fails for everybody who is neither an administrator nor the owner.
func mustOwn(ctx context.Context, owner api.Owner, id uint64, what string) error {
	c := callerOf(ctx)
	if c.sees(owner) {
		return nil
	}
	return &api.Error{
		Code: api.CodeForbidden, Msg: fmt.Sprintf("job %d belongs to %s: user %s may not %s it", id, owner.User, c.owner.User, what),
		Hint: "muster job list shows the jobs of your own; administrators see all",
	}
}

// peer is the process at the other end of a Unix socket.
type peer struct {
	uid, gid uint32
	err      error
}

type peerKey struct{}

// peerContext is http.Server.ConnContext: it notes who connected.
func peerContext(ctx context.Context, c net.Conn) context.Context {
	l, ok := c.(*limitedConn)
	if !ok {
		return ctx
	}
	u, ok := l.Conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peerOf(u))
}

func peerOf(c *net.UnixConn) peer {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{err: err}
	}
	var p peer
	if err := raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			p.err = err
			return
		}
		p.uid, p.gid = cred.Uid, cred.Gid
	}); err != nil {
		p.err = err
	}
	return p
}

// accounts looks users up, with a memory of a minute: a directory server may
// be slow, and a job burst asks for the same user again and again.
type accounts struct {
	now clock

	mu    sync.Mutex
	known map[string]account // by user name or decimal uid
}

type account struct {
	owner api.Owner
	admin bool
	err   error
	until time.Time
}

const accountMemory = time.Minute

// lookup finds a user by name or decimal uid.
func (a *accounts) lookup(ctx context.Context, key string) account {
	now := a.now()
	a.mu.Lock()
	acc, ok := a.known[key]
	a.mu.Unlock()
	if ok && now.Before(acc.until) {
		return acc
	}
	acc = findAccount(ctx, key)
	acc.until = now.Add(accountMemory)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) > 10000 {
		a.known = map[string]account{}
	}
	a.known[key] = acc
	return acc
}

// findAccount reads the local files first and asks getent and id for users
// that come from a directory service, which a static program cannot ask itself.
func findAccount(ctx context.Context, key string) account {
	u, err := user.Lookup(key)
	if _, convErr := strconv.ParseUint(key, 10, 32); convErr == nil {
		u, err = user.LookupId(key)
	}
	var groups []string
	if err == nil {
		groups, err = u.GroupIds()
	} else {
		u, groups, err = getent(ctx, key)
	}
	if err != nil {
		return account{err: fmt.Errorf("looking up user %s: %w", key, err)}
	}
	var acc account
	acc.owner.User = u.Username
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return account{err: fmt.Errorf("looking up user %s: %w", key, err)}
	}
	acc.owner.UID, acc.owner.GID = uint32(uid), uint32(gid)
	admins, _ := user.LookupGroup(adminGroup)
	for _, g := range groups {
		if id, err := strconv.ParseUint(g, 10, 32); err == nil && uint32(id) != acc.owner.GID {
			acc.owner.Groups = append(acc.owner.Groups, uint32(id))
		}
		acc.admin = acc.admin || admins != nil && g == admins.Gid
	}
	slices.Sort(acc.owner.Groups)
	return acc
}

func getent(ctx context.Context, key string) (*user.User, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "getent", "passwd", "--", key).Output()
	if err != nil {
		return nil, nil, user.UnknownUserError(key)
	}
	f := strings.Split(strings.TrimSpace(string(out)), ":")
	if len(f) < 6 {
		return nil, nil, fmt.Errorf("getent passwd says %q", out)
	}
	groups, err := exec.CommandContext(ctx, "id", "-G", "--", f[0]).Output()
	if err != nil {
		return nil, nil, fmt.Errorf("asking for groups: %w", err)
	}
	return &user.User{Username: f[0], Uid: f[2], Gid: f[3], HomeDir: f[5]}, strings.Fields(string(groups)), nil
}

// identify tells who sends a request: by the credentials of the Unix socket,
// else by a token.
func (s *httpServer) identify(r *http.Request) (caller, error) {
	if p, ok := r.Context().Value(peerKey{}).(peer); ok {
		if p.err != nil {
			return caller{}, &api.Error{Code: api.CodeUnauthenticated, Msg: fmt.Sprintf("asking the kernel who connected: %v", p.err)}
		}
		return s.local(r.Context(), p), nil
	}
	return s.byToken(r)
}

func (s *httpServer) local(ctx context.Context, p peer) caller {
	acc := s.accounts.lookup(ctx, strconv.FormatUint(uint64(p.uid), 10))
	c := caller{owner: acc.owner, admin: acc.admin || p.uid == 0 || p.uid == s.cfg.HeadUID}
	if acc.err != nil {
		c.owner = api.Owner{User: strconv.FormatUint(uint64(p.uid), 10), UID: p.uid, GID: p.gid}
	}
	return c
}

func (s *httpServer) byToken(r *http.Request) (caller, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	hint := "send a token of this head as Authorization: Bearer TOKEN, or use the Unix socket on the head itself"
	if !ok || token == "" {
		return caller{}, &api.Error{Code: api.CodeUnauthenticated, Msg: "the request carries no token", Hint: hint}
	}
	name, admin, err := tokenUser(s.cfg.Tokens, token)
	if err != nil {
		return caller{}, fmt.Errorf("reading tokens: %w", err)
	}
	if name == "" {
		return caller{}, &api.Error{Code: api.CodeUnauthenticated, Msg: "the token is not one of this head", Hint: hint}
	}
	c := caller{owner: api.Owner{User: name}, admin: admin}
	acc := s.accounts.lookup(r.Context(), name)
	if acc.err != nil {
		c.noAccount = acc.err.Error()
		return c, nil
	}
	c.owner = acc.owner
	c.admin = admin || acc.admin || acc.owner.UID == 0 || acc.owner.UID == s.cfg.HeadUID // as on the socket
	return c, nil
}

// tokenUser finds the user of a token in a file of lines "NAME SHA256-OF-TOKEN" or, for an
// administrator whatever the account, "NAME SHA256-OF-TOKEN admin"; "" when there is none. A missing file holds none.
func tokenUser(path, token string) (name string, admin bool, err error) {
	if path == "" {
		return "", false, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	sum := sha256.Sum256([]byte(token))
	want := []byte(hex.EncodeToString(sum[:]))
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		role := len(w) == 3 && w[2] == "admin"
		if (len(w) == 2 || role) && !strings.HasPrefix(w[0], "#") && subtle.ConstantTimeCompare([]byte(strings.ToLower(w[1])), want) == 1 {
			name, admin = w[0], role
		}
	}
	return name, admin, lines.Err()
}
