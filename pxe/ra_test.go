package pxe

import (
	"net"
	"testing"
	"time"
)

func TestAdvertiser(t *testing.T) {
	now := time.Unix(1e9, 0)
	machine := &net.IPAddr{IP: net.ParseIP("fe80::2"), Zone: "s0"}
	router := &net.IPAddr{IP: net.ParseIP("fe80::1"), Zone: "s0"}
	solicitation := make([]byte, 8)
	solicitation[0] = 133
	quiet := advertisement[:]
	real := append([]byte(nil), advertisement[:]...)
	real[7] = 30 // a lifetime
	type step struct {
		packet []byte
		hops   int
		from   net.Addr
		after  time.Duration
		want   string
	}
	tests := map[string][]step{
		"answers the machine":             {{solicitation, 255, machine, 0, "fe80::2%s0"}},
		"all when it has no address":      {{solicitation, 255, &net.IPAddr{IP: net.IPv6unspecified, Zone: "s0"}, 0, "ff02::1%s0"}},
		"not from afar":                   {{solicitation, 64, machine, 0, ""}},
		"not what is cut":                 {{solicitation[:4], 255, machine, 0, ""}},
		"not other messages":              {{make([]byte, 8), 255, machine, 0, ""}},
		"silent beside a router":          {{real, 255, router, 0, ""}, {solicitation, 255, machine, time.Minute, ""}},
		"again when the router is gone":   {{real, 255, router, 0, ""}, {solicitation, 255, machine, 2 * routerMemory, "fe80::2%s0"}},
		"its like does not silence it":    {{quiet, 255, router, 0, ""}, {solicitation, 255, machine, 0, "fe80::2%s0"}},
		"a router from afar is not heard": {{real, 64, router, 0, ""}, {solicitation, 255, machine, 0, "fe80::2%s0"}},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			a := &advertiser{name: "s0", log: quietLog, now: func() time.Time { return now }}
			for i, s := range steps {
				now = now.Add(s.after)
				got := ""
				if to := a.react(s.packet, s.hops, s.from); to != nil {
					got = to.String()
				}
				if got != s.want {
					t.Errorf("step %d: answer to %q, want %q", i, got, s.want)
				}
			}
		})
	}
}
