package pxe

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func machine(i int) MAC { return MAC{0x52, 0x54, 0, byte(i >> 16), byte(i >> 8), byte(i)} }

var (
	quietLog = slog.New(slog.DiscardHandler)
	smallNet = Pool{First: addr("10.77.0.10"), Last: addr("10.77.0.13"), Net: netip.MustParsePrefix("10.77.0.1/24")}
	noAddr   netip.Addr
)

// runBook runs b until the test ends.
func runBook(t testing.TB, b *Book) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { b.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		b.Close()
	})
}

// take offers and confirms; it fails the test when that does not work.
func take(t testing.TB, b *Book, p Pool, mac MAC, d time.Duration) netip.Addr {
	t.Helper()
	ip, err := b.Offer(p, mac, noAddr, noAddr)
	if err != nil {
		t.Fatalf("Offer(%v): %v", mac, err)
	}
	confirm(t, b, p, mac, ip, d)
	return ip
}

func confirm(t testing.TB, b *Book, p Pool, mac MAC, ip netip.Addr, d time.Duration) {
	t.Helper()
	done := make(chan error, 1)
	if err := b.Confirm(p, mac, ip, noAddr, d, func(err error) { done <- err }); err != nil {
		t.Fatalf("Confirm(%v, %v): %v", mac, ip, err)
	}
	if err := <-done; err != nil {
		t.Fatalf("Confirm(%v, %v): %v", mac, ip, err)
	}
}

func TestPoolOf(t *testing.T) {
	for prefix, want := range map[string][2]string{
		"10.77.0.1/24":   {"10.77.0.16", "10.77.0.254"},
		"10.77.5.1/16":   {"10.77.16.0", "10.77.255.254"},
		"10.77.5.1/8":    {"10.0.16.0", "10.0.255.254"},
		"192.168.1.9/29": {"192.168.1.9", "192.168.1.14"},
		"192.168.1.9/30": {"192.168.1.9", "192.168.1.10"},
	} {
		p := PoolOf(netip.MustParsePrefix(prefix))
		if p.First.String() != want[0] || p.Last.String() != want[1] {
			t.Errorf("PoolOf(%s) = %v to %v, want %s to %s", prefix, p.First, p.Last, want[0], want[1])
		}
		if p.contains(netip.MustParsePrefix(prefix).Addr()) {
			t.Errorf("PoolOf(%s) gives out the server's address", prefix)
		}
	}
}

func TestBookKeepsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(quietLog)
		first := take(t, b, smallNet, machine(1), time.Hour)
		for range 3 { // firmware, iPXE and operating system ask one after the other
			if again := take(t, b, smallNet, machine(1), time.Hour); again != first {
				t.Fatalf("address changed from %v to %v", first, again)
			}
		}
		time.Sleep(48 * time.Hour)
		if again := take(t, b, smallNet, machine(1), time.Hour); again != first {
			t.Errorf("after the lease ran out: %v, want %v again", again, first)
		}
		if mac, ok := b.Holder(first); !ok || mac != machine(1) {
			t.Errorf("Holder(%v) = %v, %v", first, mac, ok)
		}
		time.Sleep(2 * time.Hour)
		if _, ok := b.Holder(first); ok {
			t.Error("a lease that ran out has a holder")
		}
	})
}

func TestBookExhaustion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(quietLog)
		got := map[netip.Addr]MAC{}
		for i := range 4 {
			got[take(t, b, smallNet, machine(i), time.Duration(i+1)*time.Hour)] = machine(i)
		}
		if len(got) != 4 {
			t.Fatalf("4 machines got %d addresses", len(got))
		}
		if _, err := b.Offer(smallNet, machine(9), noAddr, noAddr); !errors.Is(err, ErrPoolFull) {
			t.Fatalf("Offer() from a full pool: %v, want ErrPoolFull", err)
		}
		time.Sleep(3 * time.Hour) // machines 0, 1 and 2 are gone, 0 for the longest time
		ip, err := b.Offer(smallNet, machine(9), noAddr, noAddr)
		if err != nil || got[ip] != machine(0) {
			t.Errorf("Offer() = %v of %v, %v, want the address of %v", ip, got[ip], err, machine(0))
		}
	})
}

func TestBookOffersRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(quietLog)
		for i := range 4 {
			if _, err := b.Offer(smallNet, machine(i), noAddr, noAddr); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Offer(smallNet, machine(9), noAddr, noAddr); !errors.Is(err, ErrPoolFull) {
			t.Fatalf("Offer() = %v, want ErrPoolFull", err)
		}
		b.Forget(smallNet, machine(2))
		take(t, b, smallNet, machine(9), time.Hour)
		time.Sleep(offerTime + time.Second)
		for i := range 3 {
			take(t, b, smallNet, machine(20+i), time.Hour)
		}
	})
}

func TestBookConfirm(t *testing.T) {
	b := newBook(quietLog)
	mine := take(t, b, smallNet, machine(1), time.Hour)
	others := take(t, b, smallNet, machine(2), time.Hour)
	var free netip.Addr
	for i := range smallNet.size() {
		if ip := u32Addr(addrU32(smallNet.First) + i); ip != mine && ip != others {
			free = ip
		}
	}
	fixed := addr("10.77.0.200")
	tests := map[string]struct {
		ip, fixed netip.Addr
		want      error
	}{
		"its own":                       {mine, noAddr, nil},
		"another's":                     {others, noAddr, ErrNotYours},
		"free, from before a lost file": {free, noAddr, nil},
		"of another network":            {addr("192.168.1.5"), noAddr, ErrOutside},
		"outside the pool":              {addr("10.77.0.99"), noAddr, ErrOutside},
		"the server's":                  {addr("10.77.0.1"), noAddr, ErrOutside},
		"none":                          {noAddr, noAddr, ErrOutside},
		"reserved, outside the pool":    {fixed, fixed, nil},
		"its own, but one is reserved":  {mine, addr("10.77.0.201"), ErrNotYours},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := b.Confirm(smallNet, machine(1), tt.ip, tt.fixed, time.Hour, func(error) {})
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Confirm(%v) = %v, want %v", tt.ip, err, tt.want)
			}
		})
	}
}

func TestBookFixed(t *testing.T) {
	b := newBook(quietLog)
	fixed := addr("10.77.0.200")
	if ip, err := b.Offer(smallNet, machine(1), noAddr, fixed); err != nil || ip != fixed {
		t.Fatalf("Offer() = %v, %v, want %v", ip, err, fixed)
	}
	if got := b.Fixed(smallNet, machine(1)); got != fixed {
		t.Errorf("Fixed() = %v, want %v", got, fixed)
	}
	if ip := take(t, b, smallNet, machine(1), time.Hour); ip == fixed || b.Fixed(smallNet, machine(1)).IsValid() {
		t.Errorf("the reservation is gone, and it still has %v", ip)
	}
	inUse := take(t, b, smallNet, machine(2), time.Hour)
	if ip, err := b.Offer(smallNet, machine(3), noAddr, inUse); err != nil || ip == inUse {
		t.Errorf("Offer() = %v, %v: an address in use was given because it is reserved", ip, err)
	}
}

func TestBookFixedIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	fixed := addr("10.77.0.200")
	b, err := OpenBook(path, time.Hour, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	runBook(t, b)
	done := make(chan error, 1)
	if err := b.Confirm(smallNet, machine(1), fixed, fixed, time.Hour, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := reopen(t, path).Fixed(smallNet, machine(1)); got != fixed {
		t.Errorf("after a restart: Fixed() = %v, want %v", got, fixed)
	}
}

func TestBookDecline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(quietLog)
		bad := take(t, b, smallNet, machine(1), time.Hour)
		if b.Decline(smallNet, machine(2), bad) {
			t.Error("a machine declined the address of another")
		}
		if !b.Decline(smallNet, machine(1), bad) {
			t.Fatal("Decline() = false")
		}
		for i := range 3 {
			if ip := take(t, b, smallNet, machine(i+1), time.Hour); ip == bad {
				t.Fatalf("%v was given again", bad)
			}
		}
		if _, err := b.Offer(smallNet, machine(8), bad, bad); !errors.Is(err, ErrPoolFull) {
			t.Errorf("Offer() of an address in quarantine: %v", err)
		}
		time.Sleep(quarantineTime + time.Second)
		if ip := take(t, b, smallNet, machine(8), time.Hour); ip != bad {
			t.Errorf("after the quarantine: %v, want %v", ip, bad)
		}
	})
}

func TestBookRelease(t *testing.T) {
	b := newBook(quietLog)
	ip := take(t, b, smallNet, machine(1), time.Hour)
	if b.Release(machine(2), ip) {
		t.Error("a machine released the address of another")
	}
	if !b.Release(machine(1), ip) {
		t.Error("Release() = false")
	}
	if _, ok := b.Holder(ip); ok {
		t.Error("a released address has a holder")
	}
	if again := take(t, b, smallNet, machine(1), time.Hour); again != ip {
		t.Errorf("after a release: %v, want %v again", again, ip)
	}
}

func TestBookNetworks(t *testing.T) {
	other := Pool{First: addr("10.88.0.10"), Last: addr("10.88.0.20"), Net: netip.MustParsePrefix("10.88.0.1/24")}
	b := newBook(quietLog)
	here := take(t, b, smallNet, machine(1), time.Hour)
	there := take(t, b, other, machine(1), time.Hour)
	if !other.contains(there) {
		t.Fatalf("%v is not of %v", there, other.Net)
	}
	if again := take(t, b, smallNet, machine(1), time.Hour); again != here {
		t.Errorf("back on its network: %v, want %v", again, here)
	}
}

func TestBookTenThousand(t *testing.T) {
	const n = 10000
	p := PoolOf(netip.MustParsePrefix("10.77.0.1/16"))
	path := filepath.Join(t.TempDir(), "leases")
	b, err := OpenBook(path, time.Hour, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	runBook(t, b)
	addrs := map[netip.Addr]bool{}
	byMachine := make([]netip.Addr, n)
	var wg sync.WaitGroup
	for i := range n {
		ip, err := b.Offer(p, machine(i), noAddr, noAddr)
		if err != nil {
			t.Fatal(err)
		}
		addrs[ip], byMachine[i] = true, ip
	}
	for i := range n {
		wg.Add(1)
		done := func(err error) {
			if err != nil && !errors.Is(err, errLogBusy) {
				t.Error(err)
			}
			wg.Done()
		}
		if err := b.Confirm(p, machine(i), byMachine[i], noAddr, time.Hour, done); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if len(addrs) != n {
		t.Fatalf("%d machines got %d addresses", n, len(addrs))
	}
}

// reopen reads what is in a lease file.
func reopen(t testing.TB, path string) *Book {
	t.Helper()
	b, err := OpenBook(path, time.Hour, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestBookSurvivesEveryCut(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "leases")
	b, err := OpenBook(path, time.Hour, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	runBook(t, b)
	type told struct {
		mac  MAC
		ip   netip.Addr
		size int64 // of the file when the machine was told
	}
	var all []told
	for i := range 4 {
		ip := take(t, b, smallNet, machine(i), time.Hour)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, told{machine(i), ip, info.Size()})
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cutFile := filepath.Join(dir, "cut")
	for n := range len(whole) + 1 {
		for _, tail := range []string{"", "\x00\x00\x00", "garbage\n"} {
			if err := os.WriteFile(cutFile, append(whole[:n:n], tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			if n < len(leaseHeader) && tail != "" {
				continue
			}
			c := reopen(t, cutFile)
			for _, l := range all {
				mac, ok := c.Holder(l.ip)
				if l.size <= int64(n) && (!ok || mac != l.mac) {
					t.Fatalf("cut at %d with %q behind: the lease of %v is lost", n, tail, l.mac)
				}
				if ok && mac != l.mac {
					t.Fatalf("cut at %d with %q behind: %v is given to %v", n, tail, l.ip, mac)
				}
			}
			// What was opened is whole again.
			if f, err := readLeases(cutFile); err != nil || f.damaged != 0 {
				t.Fatalf("cut at %d: after opening: %d damaged lines, %v", n, f.damaged, err)
			}
		}
	}
}

func TestBookFileOfAnotherKind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	if err := os.WriteFile(path, []byte("lease 10.0.0.1 {\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenBook(path, time.Hour, quietLog)
	if err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("OpenBook() = %v, want an error with the way out", err)
	}
	if b, _ := os.ReadFile(path); !strings.HasPrefix(string(b), "lease 10") {
		t.Error("the file was overwritten")
	}
}

func TestBookDiskFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	b, err := OpenBook(path, time.Hour, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.out.f.Close(); err != nil { // writes fail from now on
		t.Fatal(err)
	}
	runBook(t, b)
	done := make(chan error, 1)
	ip, _ := b.Offer(smallNet, machine(1), noAddr, noAddr)
	if err := b.Confirm(smallNet, machine(1), ip, noAddr, time.Hour, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Fatal("a lease that was not written was confirmed")
	}
	take(t, b, smallNet, machine(2), time.Hour) // in a new file
	c := reopen(t, path)
	for i := range 2 {
		got, _ := c.Offer(smallNet, machine(i+1), noAddr, noAddr)
		if want, _ := b.Offer(smallNet, machine(i+1), noAddr, noAddr); got != want {
			t.Errorf("machine %d has %v in the file, want %v", i+1, got, want)
		}
	}
}

func TestBookClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	write := func(until time.Time) {
		l := lease{mac: machine(1), ip: addr("10.77.0.10"), state: stateBound, until: until}
		if err := os.WriteFile(path, append([]byte(leaseHeader), leaseLine(l)...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held := func() bool { _, ok := reopen(t, path).Holder(addr("10.77.0.10")); return ok }
	write(time.Now().Add(time.Hour / 2))
	if !held() {
		t.Error("a lease is lost over a restart")
	}
	write(time.Now().AddDate(50, 0, 0)) // the clock was wrong then, or is now
	b := reopen(t, path)
	if !held() {
		t.Error("a lease from the future is lost")
	}
	b.now = func() time.Time { return time.Now().Add(time.Hour + time.Minute) }
	if _, ok := b.Holder(addr("10.77.0.10")); ok {
		t.Error("a lease from the future lasts longer than any lease")
	}
	write(time.Unix(0, 0))
	if held() {
		t.Error("a lease of 1970 is held")
	}
	if ip, _ := reopen(t, path).Offer(smallNet, machine(1), noAddr, noAddr); ip != addr("10.77.0.10") {
		t.Errorf("Offer() = %v, want the address it had", ip)
	}
}

func TestBookCompacts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	b, err := OpenBook(path, time.Hour, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	runBook(t, b)
	ip := take(t, b, smallNet, machine(1), time.Hour)
	const renewals = 3 * logSlack
	for range renewals / 1024 {
		var wg sync.WaitGroup
		for range 1024 {
			wg.Add(1)
			if err := b.Confirm(smallNet, machine(1), ip, noAddr, time.Hour, func(error) { wg.Done() }); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
	}
	f, err := readLeases(path)
	if err != nil || f.lines > logSlack+2048 || len(f.leases) != 1 {
		t.Errorf("after %d renewals: %d lines, %d leases, %v", renewals, f.lines, len(f.leases), err)
	}
	if left, _ := filepath.Glob(path + ".new*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestBookProperties does what machines and clocks may do, in any order.
func TestBookProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBook(quietLog)
		now := time.Unix(1e9, 0)
		b.now = func() time.Time { return now }
		type holding struct {
			mac   MAC
			until time.Time
		}
		given := map[netip.Addr]holding{} // as the machines believe
		quarantine := map[netip.Addr]time.Time{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			mac := machine(rapid.IntRange(0, 7).Draw(rt, "machine"))
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0, 1:
				ip, err := b.Offer(smallNet, mac, noAddr, noAddr)
				if err != nil {
					continue
				}
				if until, ok := quarantine[ip]; ok && now.Before(until) {
					rt.Fatalf("%v is in quarantine and was offered", ip)
				}
				if err := b.Confirm(smallNet, mac, ip, noAddr, time.Hour, func(error) {}); err != nil {
					rt.Fatalf("%v was offered and refused: %v", ip, err)
				}
				if h, ok := given[ip]; ok && h.mac != mac && now.Before(h.until) {
					rt.Fatalf("%v was given to %v while %v has it", ip, mac, h.mac)
				}
				given[ip] = holding{mac, now.Add(time.Hour)}
			case 2:
				now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(rt, "minutes")) * time.Minute)
			case 3:
				for ip, h := range given {
					if h.mac == mac && now.Before(h.until) && b.Release(mac, ip) {
						delete(given, ip)
					}
				}
			case 4:
				for ip, h := range given {
					if h.mac == mac && now.Before(h.until) && b.Decline(smallNet, mac, ip) {
						delete(given, ip)
						quarantine[ip] = now.Add(quarantineTime)
					}
				}
			}
		}
		if len(b.byIP) > 4 || len(b.byMAC) > 8 {
			rt.Fatalf("the book grew to %d addresses, %d machines", len(b.byIP), len(b.byMAC))
		}
	})
}

// BenchmarkBookDurable confirms leases from 64 machines at a time, each on
// the disk before the next step of its machine.
func BenchmarkBookDurable(b *testing.B) {
	book, err := OpenBook(filepath.Join(b.TempDir(), "leases"), time.Hour, quietLog)
	if err != nil {
		b.Fatal(err)
	}
	runBook(b, book)
	p := PoolOf(netip.MustParsePrefix("10.77.0.1/16"))
	next := make(chan int, 64)
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 64 {
		wg.Go(func() {
			for i := range next {
				take(b, book, p, machine(i%20000), time.Hour)
			}
		})
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	wg.Wait()
}
