package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// account is a user of the tests.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32 // further ones
}

// ada is somebody in more groups than NFS requests have room for, which is 16. bob is somebody else.
var (
	ada = account{"ada", 1000, 1000, manyGroups()}
	bob = account{"bob", 1002, 1002, nil}
)

func manyGroups() []uint32 {
	var out []uint32
	for i := range uint32(20) {
		out = append(out, 3001+i)
	}
	return out
}

// haveAccounts makes root, nobody, ada and bob the users of this computer, as far as the tests, the
// head and servers that they start see it.
func haveAccounts(t *testing.T) {
	t.Helper()
	passwd, group := "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", "root:x:0:\nnogroup:x:65534:\n"
	members := map[uint32][]string{}
	for _, a := range []account{ada, bob} {
		passwd += fmt.Sprintf("%s:x:%d:%d::/nonexistent:/bin/bash\n", a.name, a.uid, a.gid)
		group += fmt.Sprintf("%s:x:%d:\n", a.name, a.gid)
		for _, g := range a.groups {
			members[g] = append(members[g], a.name)
		}
	}
	for g, names := range members {
		group += fmt.Sprintf("g%d:x:%d:%s\n", g, g, strings.Join(names, ","))
	}
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		file, over := filepath.Join(t.TempDir(), name), "/etc/"+name
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(file, over, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("mounting over %s: %v", over, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(over, unix.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", over, err)
			}
		})
	}
}

// openToUsers lets users who are not root reach the head, and returns a copy of muster that they may run.
func (c *cluster) openToUsers() string {
	c.t.Helper()
	if c.inside != nil {
		return "/usr/bin/muster"
	}
	for dir := filepath.Dir(c.state); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "muster-bin-")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { os.RemoveAll(dir) })
	raw, err := os.ReadFile(c.bin)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "muster"), raw, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return filepath.Join(dir, "muster")
}

// sharedFolder is a folder of a share that two nodes have mounted, where the server has it at the same path as the
// nodes. Its server knows the users of haveAccounts and takes root for nobody.
type sharedFolder struct {
	c     *cluster
	bin   string // muster, for everybody
	dir   string // of ada, in the share
	nodes [2]string
	// waits is what becomes of a lock that has to wait for another node: "got", or the error that its
	// program sees where the server cannot do it.
	waits string
}

// newSharedFolder makes ada's folder in a share.
func newSharedFolder(t *testing.T, c *cluster, share string, nodes [2]string, waits string) sharedFolder {
	t.Helper()
	s := sharedFolder{c: c, bin: c.openToUsers(), dir: filepath.Join(share, "ada"), nodes: nodes, waits: waits}
	s.mkdir(t, s.dir)
	return s
}

// shareTime is how long one step in a share may take on an emulated machine.
const shareTime = 10 * time.Minute

// shell is what a user types in a folder.
func (s sharedFolder) shell(ctx context.Context, who account, dir, script string, args ...string) *exec.Cmd {
	all := append([]string{"/bin/bash", "-e", "-c", script, "bash"}, args...)
	env := []string{"PATH=" + filepath.Dir(s.bin) + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + s.dir, "LANG=C.UTF-8", "A=" + s.nodes[0], "B=" + s.nodes[1]}
	if s.c.inside != nil {
		return s.c.inside.command(ctx, who, dir, append(env, "MUSTER_HEAD="+insideSocket), all...)
	}
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Dir, cmd.Env = dir, append(env, "MUSTER_HEAD="+s.c.socket())
	if who.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: who.uid, Gid: who.gid, Groups: who.groups}}
	}
	return cmd
}

// server runs a script as root where the files of the share are, and returns what it prints.
func (s sharedFolder) server(t *testing.T, input, script string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shareTime)
	defer cancel()
	r := finish(t, s.shell(ctx, account{}, "/", script, args...), input)
	if r.status != 0 {
		t.Fatalf("%s %q ends with %d on the server: %s", script, args, r.status, r.stderr)
	}
	return r.stdout
}

// mkdir makes a folder of ada's on the server.
func (s sharedFolder) mkdir(t *testing.T, dir string) {
	t.Helper()
	s.server(t, "", `mkdir -m 755 "$1" && chown "$2" "$1"`, dir, fmt.Sprintf("%d:%d", ada.uid, ada.gid))
}

// write writes a file on the server, as root. The mode is octal.
func (s sharedFolder) write(t *testing.T, file, text, mode string) {
	t.Helper()
	s.server(t, text, `cat > "$1" && chmod "$2" "$1"`, file, mode)
}

// read reads a file on the server.
func (s sharedFolder) read(t *testing.T, file string) string {
	t.Helper()
	return s.server(t, "", `cat "$1"`, file)
}

// types has a user type a script in a folder and returns what it prints.
func (s sharedFolder) types(t *testing.T, who account, dir, script string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shareTime)
	defer cancel()
	return finish(t, s.shell(ctx, who, dir, script), "")
}

// on runs a script of bash on a node, as ada, in a folder, and returns what it prints.
func (s sharedFolder) on(t *testing.T, node int, dir, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shareTime)
	defer cancel()
	r := finish(t, s.shell(ctx, ada, dir, `exec muster run --on "$1" -- bash -e -o pipefail -c "$2"`, s.nodes[node], script), "")
	if r.status != 0 {
		t.Fatalf("on %s it ends with %d\n%s%s", s.nodes[node], r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// shareProgram is what people do in a folder: something on one node, and then something with what it left on
// another one.
type shareProgram struct {
	name        string
	first, then string // scripts
	want        string // what both print
}

// numbersSum is the sum of the MD5 that md5sum(1) has for the numbers 1 to 50000.
func numbersSum() string {
	var b bytes.Buffer
	for i := range 50000 {
		fmt.Fprintln(&b, i+1)
	}
	return fmt.Sprintf("%x", md5.Sum(b.Bytes()))
}

func sharePrograms() []shareProgram {
	return []shareProgram{
		{
			"a C program", `cat > primes.c <<'END'
#include <stdio.h>
int main(void) {
	int n, d, count = 0;
	for (n = 2; n < 30000; n++) {
		for (d = 2; d * d <= n && n % d; d++);
		count += d * d > n;
	}
	printf("%d primes\n", count);
	return 0;
}
END
gcc -O2 -o primes primes.c && ./primes`, `./primes && rm primes.c && ls`, "3245 primes\n3245 primes\nprimes\n",
		},
		{
			"make of a C project", `mkdir lib
for i in 1 2 3 4 5 6; do echo "int f$i(void) { return $i; }" > lib/f$i.c; done
cat > main.c <<'END'
#include <stdio.h>
int f1(void), f2(void), f3(void), f4(void), f5(void), f6(void);
int main(void) { printf("%d\n", f1() + f2() + f3() + f4() + f5() + f6()); return 0; }
END
cat > Makefile <<'END'
OBJECTS = $(patsubst %.c,%.o,$(wildcard lib/*.c))
app: main.o lib.a
	$(CC) -o $@ $^
lib.a: $(OBJECTS)
	$(AR) rcs $@ $^
END
make -s -j3 && ./app`, `make -q && echo nothing to do
echo 'int f1(void) { return 101; }' > lib/f1.c
make -s -j3 && ./app && make -q && ls lib | wc -l`, "21\nnothing to do\n121\n12\n",
		},
		{"a Go program", `../primes 20000 | cut -d' ' -f1`, `cp ../primes . && ./primes 20000 | cut -d' ' -f1`, "2262\n2262\n"},
		{
			"Python", `cat > work.py <<'END'
import mmap, os, sys
os.makedirs("a/b/c"); os.symlink("a/b", "link"); os.link("work.py", "hard")
with open("map", "wb+") as f:
    f.truncate(1 << 20)
    m = mmap.mmap(f.fileno(), 0); m[5000:5005] = b"bytes"; m.flush(); m.close()
open("old", "w").write("new"); os.rename("old", "link/name"); os.mkfifo("fifo")
f = open("gone", "w+"); f.write("still here"); os.unlink("gone"); f.flush(); f.seek(0)
print(f.read(), os.stat("hard").st_nlink, os.path.exists("gone"), sorted(os.listdir("a/b")))
os.utime("map", (1, 2)); os.chmod("map", 0o640); os.posix_fallocate(os.open("space", os.O_CREAT | os.O_RDWR), 0, 1 << 16)
END
python3 work.py`, `python3 -c 'import os
s = os.stat("map"); d = open("map", "rb").read()
print(oct(s.st_mode), int(s.st_mtime), len(d), d[4999:5006], open("a/b/name").read(), os.readlink("link"), os.stat("space").st_size)'`,
			"still here 2 False ['c', 'name']\n0o100640 2 1048576 b'\\x00bytes\\x00' new a/b 65536\n",
		},
		{
			"Perl", `seq 5000 > list && perl -pi -e 's/^(\d+)7$/seven $1/' list && grep -c seven list`,
			`perl -ne '$n++ if /seven/; END { print "$n of $.\n" }' list`, "499\n499 of 5000\n",
		},
		{
			"shell pipelines", `seq 50000 | sort -rn | tee all | awk '$1 % 2' | split -l 5000 - odd. && wc -l < all && ls odd.* | wc -l`,
			`sort -n all | md5sum | cut -c1-32; cat odd.* | sort | comm -13 - <(sort all) | wc -l`, "50000\n5\n" + numbersSum() + "\n25000\n",
		},
		{
			"sqlite", `sqlite3 db 'pragma synchronous=full; create table t(n integer primary key, s text);
with recursive c(i) as (select 1 union all select i+1 from c where i<2000) insert into t select i, hex(i) from c;'
for i in 1 2 3 4 5; do echo "insert into t(s) values('one');"; done | sqlite3 db && sqlite3 db 'select count(*) from t'`,
			`sqlite3 db "pragma integrity_check; begin; delete from t where n > 1000; rollback; update t set s='x' where n % 2; select count(*), sum(n) from t where s='x'"`,
			"2005\nok\n1003|1006009\n",
		},
		{
			"git", `git config --global user.name Ada; git config --global user.email ada@example.org; git config --global init.defaultBranch main
git init -q --bare hub.git && git clone -q hub.git one 2>/dev/null && cd one
for i in $(seq 30); do seq $i > f$i; done; git add . && git commit -q -m first && git push -q origin main && git log --format=%s`,
			`git clone -q hub.git two && cd two && seq 99 > f1 && git commit -q -a -m second && git push -q origin main
cd ../one && git pull -q --rebase origin main && git log --format=%s && git fsck 2>&1 && git gc -q && wc -l < f1`, "first\nsecond\nfirst\n99\n",
		},
		{
			"tar", `mkdir tree; for i in $(seq 100); do echo $i > "tree/file $i"; done; ln -s "file 1" tree/link; mkfifo tree/fifo; chmod 751 tree; touch -d @5 "tree/file 2"
tar -czf tree.tar.gz tree && tar -tzf tree.tar.gz | wc -l`,
			`mkdir out && tar -xzf tree.tar.gz -C out && { diff -r --no-dereference tree out/tree 2>&1 | grep -v fifo || true; }; stat -c '%a %Y %N' out/tree "out/tree/file 2" out/tree/link | sed 's/751 [0-9]*/751/'`,
			"103\n751 'out/tree'\n644 5 'out/tree/file 2'\n777 TIME 'out/tree/link' -> 'file 1'\n",
		},
	}
}

// shareFiles is how many small files are made: enough to see what is lost, on an emulated machine in a minute.
const shareFiles = 10000

// shareChecks does in a share what people do there, from two nodes, as ada. Every driver of shares passes it, with
// the limits that it is known to have.
func shareChecks(t *testing.T, s sharedFolder) {
	primes := filepath.Join(t.TempDir(), "primes")
	buildStatic(t, primesSource, primes)
	raw, err := os.ReadFile(primes)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, filepath.Join(s.dir, "primes"), string(raw), "755")
	for i, p := range sharePrograms() {
		t.Run(p.name, func(t *testing.T) {
			dir := s.folder(t, strconv.Itoa(i))
			begin := time.Now()
			got := s.on(t, 0, dir, p.first)
			half := time.Since(begin)
			got += s.on(t, 1, dir, p.then)
			if !sameText(got, p.want) {
				t.Errorf("it prints\n%s\nwant\n%s", got, p.want)
			}
			t.Logf("%v and %v", half.Round(time.Millisecond), (time.Since(begin) - half).Round(time.Millisecond))
		})
	}
	t.Run("small files", s.checkSmallFiles)
	t.Run("a file appended from two nodes in turn", s.checkAppend)
	t.Run("a database written from two nodes at once", s.checkDatabase)
	t.Run("locks", s.checkLocks)
	t.Run("owners", s.checkOwners)
	t.Run("20 groups", s.checkGroups)
	t.Run("root", s.checkRoot)
}

// sameText compares texts; the word TIME stands for any number.
func sameText(got, want string) bool {
	g, w := strings.Fields(got), strings.Fields(want)
	return slices.EqualFunc(g, w, func(g, w string) bool {
		_, err := strconv.Atoi(g)
		return g == w || w == "TIME" && err == nil
	})
}

// folder makes a folder of ada's.
func (s sharedFolder) folder(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(s.dir, name)
	s.mkdir(t, dir)
	return dir
}

func (s sharedFolder) checkSmallFiles(t *testing.T) {
	dir := s.folder(t, "small")
	begin := time.Now()
	// Each file waits for the server's disk; several at a time wait together.
	s.on(t, 0, dir, fmt.Sprintf(`python3 -c 'import os
from concurrent.futures import ThreadPoolExecutor
def make(d):
    os.mkdir(str(d))
    for i in range(d * 100, d * 100 + 100):
        with open(f"{d}/{i}", "w") as f: f.write(str(i))
list(ThreadPoolExecutor(16).map(make, range(%d)))'`, shareFiles/100))
	made := time.Since(begin)
	got := s.on(t, 1, dir, `python3 -c 'import os
from concurrent.futures import ThreadPoolExecutor
def look(d):
    numbers = [int(open(f"{d}/{n}").read()) for n in os.listdir(d)]
    for n in numbers: os.unlink(f"{d}/{n}")
    os.rmdir(d); return len(numbers), sum(numbers)
print(*map(sum, zip(*ThreadPoolExecutor(16).map(look, os.listdir("."))))); print(*os.listdir("."), sep="", end="")'`)
	if want := fmt.Sprintf("%d %d\n", shareFiles, shareFiles*(shareFiles-1)/2); got != want {
		t.Errorf("the other node reads %q, want %q", got, want)
	}
	t.Logf("%d files made in %v, read and removed in %v", shareFiles, made.Round(time.Millisecond), (time.Since(begin) - made).Round(time.Millisecond))
}

func (s sharedFolder) checkAppend(t *testing.T) {
	dir := s.folder(t, "append")
	want := ""
	for i := range 20 {
		s.on(t, i%2, dir, fmt.Sprintf("echo turn %d >> log; tail -n 1 log > last", i))
		want += fmt.Sprintf("turn %d\n", i)
	}
	if got := s.read(t, filepath.Join(dir, "log")); got != want {
		t.Errorf("the file has %q, want %q", got, want)
	}
	if got := s.on(t, 0, dir, "cat log last"); got != want+"turn 19\n" {
		t.Errorf("a node reads %q", got)
	}
}

func (s sharedFolder) checkDatabase(t *testing.T) {
	dir := s.folder(t, "database")
	insert := "for i in 1 2 3 4 5 6 7 8 9 10; do sqlite3 -cmd '.timeout 60000' db \"insert into t values ('$(uname -n)', $i)\" || exit 1; done\n"
	s.write(t, filepath.Join(dir, "insert"), insert, "644")
	s.on(t, 0, dir, "sqlite3 db 'create table t(node text, n integer)'")
	r := s.types(t, ada, dir, `muster run --on $A sh insert & first=$!
muster run --on $B sh insert
wait $first
muster run --on $A sqlite3 db 'pragma integrity_check; select count(*), count(distinct node), sum(n) from t'`)
	if r.stdout != "ok\n20|2|110\n" || r.status != 0 {
		t.Errorf("%+v", r)
	}
}

// lockProgram locks a file with fcntl or flock: it holds the lock until its input ends, tries it, waits
// for it, or counts: it adds one to the number in the file, each time under the lock, and waits for that.
const lockProgram = `import errno, fcntl, os, sys
how, what = sys.argv[1:]
call = {"fcntl": fcntl.lockf, "flock": fcntl.flock}[how]
f = open("lock." + how, "r+")
def count():
    call(f, fcntl.LOCK_EX)
    n = int(os.pread(f.fileno(), 100, 0) or "0")
    os.pwrite(f.fileno(), str(n + 1).encode(), 0)
    call(f, fcntl.LOCK_UN)
if what == "wait": print("waiting", flush=True)
try:
    if what == "count":
        for _ in range(20): count()
        print("counted"); sys.exit()
    call(f, fcntl.LOCK_EX | (fcntl.LOCK_NB if what == "try" else 0))
except OSError as e:
    print(errno.errorcode[e.errno], flush=True); sys.exit()
print("got", flush=True)
if what == "hold": sys.stdin.read()
`

// holding is a program on a node that has a lock or waits for it.
type holding struct {
	in   *os.File
	out  chan string // lines
	done chan struct{}
}

// lock starts lockProgram on a node.
func (s sharedFolder) lock(t *testing.T, dir string, node int, how, what string) holding {
	t.Helper()
	in, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.shell(t.Context(), ada, dir, `exec muster run --on "$1" python3 lock.py "$2" "$3"`, s.nodes[node], how, what)
	cmd.Stdin, cmd.Stderr = in, t.Output()
	h := holding{write, make(chan string, 16), make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			h.out <- lines.Text()
		}
		if err := cmd.Wait(); err != nil { // what it printed says how it went
			fmt.Fprintf(t.Output(), "%s %s on %s: %v\n", how, what, s.nodes[node], err)
		}
		close(h.out)
		close(h.done)
	}()
	t.Cleanup(func() {
		write.Close()
		_ = cmd.Process.Kill()
		<-h.done
	})
	return h
}

// next is the next line that the program prints, "" at its end.
func (h holding) next(t *testing.T) string {
	t.Helper()
	select {
	case l := <-h.out:
		return l
	case <-time.After(shareTime):
		t.Fatal("the program with the lock says nothing")
		return ""
	}
}

func (s sharedFolder) checkLocks(t *testing.T) {
	dir := s.folder(t, "locks")
	for name, text := range map[string]string{"lock.py": lockProgram, "lock.fcntl": "", "lock.flock": ""} {
		s.write(t, filepath.Join(dir, name), text, "666")
	}
	for _, how := range []string{"fcntl", "flock"} {
		holder := s.lock(t, dir, 0, how, "hold")
		if got := holder.next(t); got != "got" {
			t.Fatalf("%s: the first lock: %q", how, got)
		}
		for node := range s.nodes {
			if got := s.lock(t, dir, node, how, "try").next(t); got != "EAGAIN" && got != "EWOULDBLOCK" {
				t.Errorf("%s: a lock that another program has is tried on %s: %q", how, s.nodes[node], got)
			}
		}
		var waiting [2]holding
		for node := range s.nodes {
			waiting[node] = s.lock(t, dir, node, how, "wait")
			if got := waiting[node].next(t); got != "waiting" {
				t.Fatalf("%s: %q", how, got)
			}
		}
		// By the time that a further program has run, both wait or have failed.
		s.on(t, 1, dir, "true")
		begin := time.Now()
		holder.in.Close()
		for node, want := range [2]string{"got", s.waits} {
			if got := waiting[node].next(t); got != want {
				t.Errorf("%s: a lock that waits on %s: %q, want %q", how, s.nodes[node], got, want)
			}
			<-waiting[node].done
		}
		t.Logf("%s: both waiting locks were settled %v after the lock was free", how, time.Since(begin).Round(time.Millisecond))
		if got := s.lock(t, dir, 1, how, "try").next(t); got != "got" {
			t.Errorf("%s: a free lock is tried: %q", how, got)
		}
		begin = time.Now()
		counting := [2]holding{s.lock(t, dir, 0, how, "count"), s.lock(t, dir, 1, how, "count")}
		for node := range s.nodes {
			want := map[bool]string{true: "counted", false: s.waits}[s.waits == "got"]
			if got := counting[node].next(t); got != want && got != "counted" {
				t.Errorf("%s: counting on %s: %q, want %q", how, s.nodes[node], got, want)
			}
			<-counting[node].done
		}
		number := s.read(t, filepath.Join(dir, "lock."+how))
		if s.waits == "got" && number != "40" {
			t.Errorf("%s: both nodes counted to %q, want 40", how, number)
		}
		t.Logf("%s: both nodes counted to %s in %v", how, number, time.Since(begin).Round(time.Millisecond))
	}
}

func (s sharedFolder) checkOwners(t *testing.T) {
	dir := s.folder(t, "owners")
	s.on(t, 0, dir, "umask 077; id -u; echo secret > secret; umask 022; echo open > open")
	if got := s.server(t, "", `cd "$1" && stat -c "%n %u:%g %a" secret open`, dir); got != "secret 1000:1000 600\nopen 1000:1000 644\n" {
		t.Errorf("the files belong to\n%s", got)
	}
	r := s.types(t, bob, dir, `muster run --on $A cat open; muster run --on $A cat secret || echo no; muster run --on $A sh -c "echo x > mine" || echo no`)
	if r.stdout != "open\nno\nno\n" {
		t.Errorf("another user: %+v", r)
	}
}

func (s sharedFolder) checkGroups(t *testing.T) {
	dir := s.folder(t, "groups")
	for _, g := range ada.groups {
		s.server(t, "", `mkdir -m 750 "$1/$2" && echo "$2" > "$1/$2/file" && chmod 644 "$1/$2/file" && chown "0:$2" "$1/$2"`, dir, fmt.Sprint(g))
	}
	script := "id -G | wc -w; cat */file | wc -l"
	if got, want := s.on(t, 0, dir, script), fmt.Sprintf("%d\n%d\n", len(ada.groups)+1, len(ada.groups)); got != want {
		t.Errorf("a node says of groups and files %q, want %q", got, want)
	}
	if r := s.types(t, bob, dir, "muster run --on $B sh -c 'cat */file 2>/dev/null | wc -l'"); r.stdout != "0\n" {
		t.Errorf("somebody in none of the groups reads %+v", r)
	}
}

func (s sharedFolder) checkRoot(t *testing.T) {
	dir := s.folder(t, "root")
	s.on(t, 0, dir, "echo 1 > adas; chmod 600 adas; chmod 777 .")
	r := s.types(t, account{}, dir, `muster run --on $A sh -c 'touch roots; chown 1000 roots 2>&1; chown 0 adas 2>&1; cat adas 2>&1; stat -c %u roots adas; echo 2 > adas'`)
	if r.status == 0 || !strings.HasSuffix(r.stdout, "\n65534\n1000\n") || strings.Count(r.stdout, "not permitted") != 2 || strings.Count(r.stdout, "denied") != 1 {
		t.Errorf("root of a node: %+v", r)
	}
	if got := s.read(t, filepath.Join(dir, "adas")); got != "1\n" {
		t.Errorf("ada's file has %q", got)
	}
}
